"""Moves the seams between copies to where they show least.

Every pixel of a hole has a label, the number of the offset at which it is copied. Labels are
changed by alpha expansion (Boykov, Veksler and Zabih, Fast Approximate Energy Minimization via
Graph Cuts, PAMI 2001), and seams cost what the copies on both sides of them differ by (Kwatra et
al., Graphcut Textures, SIGGRAPH 2003).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from cgn_augment.parts.blend import Bools, Floats, Places

UNSEEN = 0.3
"""Difference, in grey levels of [-1, 1], at a seam neither of whose sides is seen."""

NEVER = 1e3
"""What it costs to copy what is not seen."""

UNITS = 1000
"""The flow is in whole numbers: so many of them are a difference of 1."""


class Seams:
    """The copies that a hole can be filled with, and what seams between them cost.

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
            # Of the pixels at the border of the hole: what they go on with there.
            first, rows, columns = first[second < 0], rows[second < 0], columns[second < 0]
            values, seen = _look(pixels, known, rows, columns, offsets)
            own = pixels[rows * hole.shape[1] + columns]
            apart = np.abs(values - own).sum(axis=2)
            of_pairs.append((first, np.where(seen, apart, UNSEEN * len(image))))
        self.first, self.second = (np.concatenate(each) for each in zip(*pairs, strict=True))
        for first, cost in of_pairs:
            self.unary[:, first] += cost
        self.unseen = np.float32(UNSEEN * len(image))

    def energy(self, labels: Places) -> float:
        """Returns what all seams of a labelling (pixels of the hole,) cost together."""
        costs = self._costs(*self._sides(labels))
        return float(self.unary[labels, np.arange(len(labels))].sum() + costs.sum())

    def improve(self, labels: Places, order: Sequence[int]) -> Places:
        """Lets each label in turn take the pixels that it can have to make the seams less."""
        least = self.energy(labels)
        for label in order:
            changed = self._expand(labels, label)
            energy = self.energy(changed)
            if energy < least:
                labels, least = changed, energy
        return labels

    def _sides(self, labels: Places) -> tuple[_Side, _Side]:
        """Returns the copies of each pair at the label of its first pixel, and of its second."""
        a, b = labels[self.first], labels[self.second]
        return self._side(a), self._side(b)

    def _side(self, labels: Places | int) -> _Side:
        num = len(self.rows)
        first, second = labels * num + self.first, labels * num + self.second
        values, seen = self.values.reshape(-1, self.values.shape[2]), self.seen.reshape(-1)
        return values[first], seen[first], values[second], seen[second]

    def _costs(self, a: _Side, b: _Side) -> Floats:
        """Returns the mean difference of two copies over the pixels of a pair where both are."""
        at_first = np.abs(a[0] - b[0]).sum(axis=1)
        at_second = np.abs(a[2] - b[2]).sum(axis=1)
        first, second = a[1] & b[1], a[3] & b[3]
        num = first.astype(np.float32) + second
        total = at_first * first + at_second * second
        found: Floats = np.where(num > 0, total / np.maximum(num, 1), self.unseen)
        return found

    def _expand(self, labels: Places, label: int) -> Places:
        places = np.arange(len(labels))
        free = self.seen[label] & (labels != label)
        if not free.any():
            return labels
        a, b = self._sides(labels)
        new = self._side(label)
        keep = self._costs(a, b) * (labels[self.first] != labels[self.second])
        only_first = self._costs(new, b) * (labels[self.second] != label)
        only_second = self._costs(a, new) * (labels[self.first] != label)
        # The cost as a sum over pixels, and over pairs of which the first stays and the second
        # changes (Kolmogorov and Zabih, What Energy Functions Can Be Minimized, PAMI 2004).
        second_free = free[self.second]
        both = free[self.first] & second_free
        of_first = only_first - keep
        of_second = np.where(both, -only_first, only_second - keep)
        change = self.unary[label] - self.unary[labels, places]
        change += np.bincount(self.first, of_first, len(labels))
        change += np.bincount(self.second, of_second, len(labels))
        weight = np.maximum(only_first + only_second - keep, 0)
        both &= weight > 0
        stays, goes = np.flatnonzero(free & (change > 0)), np.flatnonzero(free & (change < 0))
        if not len(goes):
            return labels
        source, sink = len(labels), len(labels) + 1
        start = np.concatenate([self.first[both], np.full(len(stays), source), goes])
        goal = np.concatenate([self.second[both], stays, np.full(len(goes), sink)])
        flows = np.concatenate([weight[both], change[stays], -change[goes]])
        capacities = (flows * UNITS).round().clip(0, 1e8).astype(np.int32)
        graph = csr_matrix((capacities, (start, goal)), shape=(sink + 1, sink + 1))
        rest = graph - maximum_flow(graph, source, sink).flow
        rest.eliminate_zeros()
        changes = free.copy()
        reached = breadth_first_order(rest, source, return_predecessors=False)
        changes[reached[reached < len(labels)]] = False
        return np.where(changes, label, labels)


_Side = tuple[Floats, Bools, Floats, Bools]


def _look(
    pixels: Floats, known: Bools, rows: Places, columns: Places, offsets: Places
) -> tuple[Floats, Bools]:
    """Returns what is at places plus each offset, (N, P, C), and whether it is known, (N, P)."""
    height, width = known.shape
    rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = np.where(seen, rows * width + columns, 0)
    seen &= known.reshape(-1)[places]
    return pixels[places], seen
