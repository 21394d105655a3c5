"""Moves the seams between copies to where they show least.

Every pixel of a hole has a label, the index of the offset at which it is copied. Alpha expansion
changes labels (Boykov, Veksler and Zabih, Fast Approximate Energy Minimization via Graph Cuts,
PAMI 2001). A seam costs the difference of the copies on both sides (Kwatra et al., Graphcut
Textures, SIGGRAPH 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from cgn_augment.parts.blend import Bools, Floats, Places, membrane

UNSEEN = 0.3
"""Difference, in grey levels of [-1, 1], assumed at a seam neither of whose sides is visible."""

NEVER = 1e3
"""Cost of copying a pixel that is not visible."""

LIKENESS = 0.2
"""Weight of the difference between a copy and the colours around the hole: copies unlike the
surroundings are not used."""

STARTS = 4
"""Number of first labellings to try; the best is the start."""

LEAST_GAIN = 0.05
"""Share of the seams' cost; a label that cannot save more is not tried."""

UNITS = 1000
"""Flow is computed in integers; this many stand for a difference of 1."""


_Side = tuple[Floats, Bools, Floats, Bools]
"""One side of each pair: its values (P, C), and whether they are visible."""


@dataclass(frozen=True)
class _State:
    """Labels, the copies of both pixels of each pair at these labels, and costs."""

    labels: Places
    first: _Side
    second: _Side
    costs: Floats
    unary: Floats
    energy: float


class Seams:
    """The copies that can fill a hole, and the cost of the seams between them.

    Args:
        image: (C, H, W) float32 in [-1, 1].
        hole: (H, W) bool.
        offsets: (N, 2) int64, row and column; a pixel with label n is copied from its own place
            plus offset n.
    """

    def __init__(self, image: Floats, hole: Bools, offsets: Places) -> None:
        self.rows, self.columns = np.nonzero(hole)
        number = np.full(hole.shape, -1)
        number[self.rows, self.columns] = np.arange(len(self.rows))
        pixels, known = image.reshape(len(image), -1).T, ~hole
        self.values, self.seen = _look(pixels, known, self.rows, self.columns, offsets)
        self.unary = np.where(self.seen, 0, NEVER).astype(np.float32)
        pairs, of_pairs = [], []
        for row, column in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            rows, columns = self.rows + row, self.columns + column
            inside = (rows >= 0) & (rows < hole.shape[0]) & (columns >= 0)
            inside &= columns < hole.shape[1]
            first = np.flatnonzero(inside)
            rows, columns = rows[first], columns[first]
            second = number[rows, columns]
            if row + column > 0:
                pairs.append((first[second >= 0], second[second >= 0]))
            # Pixels at the border of the hole must continue what is there.
            first, rows, columns = first[second < 0], rows[second < 0], columns[second < 0]
            values, seen = _look(pixels, known, rows, columns, offsets)
            own = pixels[rows * hole.shape[1] + columns]
            apart = np.abs(values - own).sum(axis=2)
            of_pairs.append((first, np.where(seen, apart, UNSEEN * len(image))))
        self.first, self.second = (np.concatenate(each) for each in zip(*pairs, strict=True))
        for first, cost in of_pairs:
            self.unary[:, first] += cost
        self.unary += LIKENESS * np.abs(self.values - _smooth(image, hole)).sum(axis=2) * self.seen
        self.unseen = np.float32(UNSEEN * len(image))
        self._graph = _Graph(len(self.rows), self.first, self.second)

    def choose(self) -> Places:
        """Returns labels (pixels of the hole,).

        Each pixel starts with the first label at which something is visible, counted from one of
        several labels, whichever gives the least cost. Then each label in turn takes the pixels
        that make the seams cheaper.
        """
        num = len(self.seen)
        starts = [np.roll(np.arange(num), -first) for first in range(0, num, max(num // STARTS, 1))]
        state = min(
            (self._state(order[self.seen[order].argmax(axis=0)]) for order in starts),
            key=lambda state: state.energy,
        )
        for label in range(len(self.seen)):
            changed = self._state(self._expand(state, label))
            if changed.energy < state.energy:
                state = changed
        return state.labels

    def energy(self, labels: Places) -> float:
        """Returns the total cost of the seams of a labelling (pixels of the hole,)."""
        return self._state(labels).energy

    def _state(self, labels: Places) -> _State:
        of_first, of_second = labels[self.first], labels[self.second]
        first, second = self._side(of_first), self._side(of_second)
        costs = self._costs(first, second) * (of_first != of_second)
        unary = self.unary[labels, np.arange(len(labels))]
        energy = float(unary.sum(dtype=np.float64) + costs.sum(dtype=np.float64))
        return _State(labels, first, second, costs, unary, energy)

    def _side(self, labels: Places | int) -> _Side:
        num = len(self.rows)
        first, second = labels * num + self.first, labels * num + self.second
        values, seen = self.values.reshape(-1, self.values.shape[2]), self.seen.reshape(-1)
        return values[first], seen[first], values[second], seen[second]

    def _costs(self, a: _Side, b: _Side) -> Floats:
        """Returns the mean difference of two copies over both pixels of each pair."""
        at_first = np.abs(a[0] - b[0]).sum(axis=1)
        at_second = np.abs(a[2] - b[2]).sum(axis=1)
        first, second = a[1] & b[1], a[3] & b[3]
        num = first.astype(np.float32) + second
        total = at_first * first + at_second * second
        found: Floats = np.where(num > 0, total / np.maximum(num, 1), self.unseen)
        return found

    def _expand(self, state: _State, label: int) -> Places:
        labels, keep = state.labels, state.costs
        free = self.seen[label] & (labels != label)
        if not free.any():
            return labels
        new = self._side(label)
        only_first = self._costs(new, state.second) * (labels[self.second] != label)
        only_second = self._costs(state.first, new) * (labels[self.first] != label)
        # The cost as a sum over pixels, and over pairs whose first pixel stays and whose second
        # changes (Kolmogorov and Zabih, What Energy Functions Can Be Minimized, PAMI 2004).
        second_free = free[self.second]
        both = free[self.first] & second_free
        of_first = only_first - keep
        of_second = np.where(both, -only_first, only_second - keep)
        change = self.unary[label] - state.unary
        change += np.bincount(self.first, of_first, len(labels))
        change += np.bincount(self.second, of_second, len(labels))
        weight = np.maximum(only_first + only_second - keep, 0)
        if -change[free].clip(max=0).sum() <= LEAST_GAIN * state.energy:
            return labels
        goes = self._graph.cut(weight * both, change * free)
        return np.where(goes & free, label, labels)


class _Graph:
    """The pixels of a hole as a flow network with changing capacities.

    Args:
        num: number of pixels.
        first: (P,) int64, first pixel of each pair.
        second: (P,) int64, second pixel.
    """

    def __init__(self, num: int, first: Places, second: Places) -> None:
        every, source, sink = np.arange(num), np.full(num, num), np.full(num, num + 1)
        # Each edge with its reverse, so that a flow has the same places.
        start = np.concatenate([second, first, source, every, every, sink])
        goal = np.concatenate([first, second, every, source, sink, every])
        self._num, self._order = num, np.lexsort((goal, start))
        self._goal = goal[self._order].astype(np.int32)
        counts = np.bincount(start, minlength=num + 2)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def cut(self, pairs: Floats, change: Floats) -> Bools:
        """Chooses the pixels whose change costs least.

        Args:
            pairs: (P,), cost if the second pixel of a pair changes and the first does not; at least
                0.
            change: (num,), cost of changing each pixel.

        Returns:
            (num,) bool, pixels to change; as few as possible.
        """
        none = np.zeros_like(change)
        costs = [pairs, np.zeros_like(pairs), (-change).clip(min=0), none, change.clip(min=0), none]
        whole = (np.concatenate(costs) * UNITS).round().clip(max=1e8).astype(np.int32)
        capacities = whole[self._order]
        flow = maximum_flow(self._matrix(capacities), self._num, self._num + 1).flow
        rest = self._matrix(capacities - flow.data)
        rest.eliminate_zeros()
        changes = np.zeros(self._num + 2, dtype=bool)
        changes[breadth_first_order(rest, self._num, return_predecessors=False)] = True
        return changes[: self._num]

    def _matrix(self, values: NDArray[np.int32]) -> csr_matrix:
        shape = self._num + 2, self._num + 2
        # Copied, because entries are dropped from the result.
        return csr_matrix((values, self._goal, self._starts), shape=shape, copy=True)


def _smooth(image: Floats, hole: Bools) -> Floats:
    """Returns (P, C), the colours around the hole continued smoothly to its pixels."""
    around = np.pad(image * ~hole, ((0, 0), (1, 1), (1, 1)))
    sums = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    smooth: Floats = membrane(sums * hole, hole)[:, hole].T
    return smooth


def _look(
    pixels: Floats, known: Bools, rows: Places, columns: Places, offsets: Places
) -> tuple[Floats, Bools]:
    """Returns the values (N, P, C) at places plus each offset, and which are known (N, P)."""
    height, width = known.shape
    rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = np.where(seen, rows * width + columns, 0)
    seen &= known.reshape(-1)[places]
    return pixels[places], seen
