"""Blends copied pixels into an image without a visible seam.

Poisson image editing (Pérez, Gangnet and Blake, SIGGRAPH 2003): gradients come from the copies,
colours at the border from the image. A membrane through the mismatch at the seams is added to the
copies. A multigrid solver (Briggs, Henson and McCormick, A Multigrid Tutorial, 2000) computes it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]

BAND = 2
"""Pixels around the hole that are blended too: half of a remaining seam lies there."""

CYCLES = 3
"""Each cycle leaves less than half of the error: after three, a fifth of a grey level of 256."""

COARSEST = 12
"""Longer side, in pixels, at which no coarser grid is made."""


def blend(image: Floats, hole: Bools, taken: Places) -> Floats:
    """Fills a hole with copies, and blends the seams among them and with the surroundings.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool, the pixels to fill; at least one pixel is outside.
        taken: (H, W) int64, the place (row · W + column) that each pixel is copied from. Places are
            outside the hole; a pixel outside the hole is its own place.

    Returns:
        (C, H, W) float32; unchanged outside the hole and the `BAND` around it.

    Examples:
        >>> import numpy as np
        >>> from cgn_augment.parts.blend import blend
        >>> image = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 16).repeat(8, axis=1)
        >>> hole = np.zeros((8, 16), dtype=bool)
        >>> hole[2:6, 8:12] = True
        >>> taken = np.arange(8 * 16).reshape(8, 16)
        >>> taken[hole] -= 5                       # darker by a third
        >>> bool(abs(blend(image, hole, taken) - image).max() < 0.01)
        True
    """
    copied = image.reshape(len(image), -1)[:, taken]
    free = ndimage.binary_dilation(hole, iterations=BAND)
    made: Floats = copied + membrane(mismatch(image, hole, taken), free)
    return made


def mismatch(image: Floats, hole: Bools, taken: Places) -> Floats:
    """Returns how far the copies' gradients are from the wanted ones.

    The wanted gradient across a seam is the mean of how the copies on both sides continue.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool.
        taken: (H, W) int64, as in `blend`.

    Returns:
        (C, H, W) float32, divergence of the difference; 0 away from the seams.
        (C, H, W) float32, the divergence of the difference, 0 away from the seams.
    """
    width = hole.shape[1]
    flat, unknown = image.reshape(len(image), -1), hole.reshape(-1)
    found = np.zeros_like(flat)
    columns = np.arange(width)
    ends = np.broadcast_to(columns < width - 1, hole.shape).reshape(-1)
    starts = np.broadcast_to(columns > 0, hole.shape).reshape(-1)
    always = np.ones(hole.size, dtype=bool)
    places = taken.reshape(-1)
    for step, later, earlier in ((1, ends, starts), (width, always, always)):
        first = np.flatnonzero(later[: hole.size - step])
        first = first[unknown[first] | unknown[first + step]]
        first = first[places[first] + step != places[first + step]]
        of_first, of_second = places[first], places[first + step]
        jump = flat[:, of_second] - flat[:, of_first]
        total, num = np.zeros_like(jump), np.zeros(len(first), dtype=np.float32)
        for start, goal, inside in (
            (of_first, of_first + step, later[of_first]),
            (of_second - step, of_second, earlier[of_second]),
        ):
            valid = inside & (start >= 0) & (goal < hole.size)
            valid[valid] &= ~unknown[start[valid]] & ~unknown[goal[valid]]
            total[:, valid] += flat[:, goal[valid]] - flat[:, start[valid]]
            num += valid
        # Where no copy continues, nothing changes.
        wanted = total / np.maximum(num, 1)
        # A pixel is first in at most one pair, and second in at most one.
        found[:, first] -= wanted - jump
        found[:, first + step] += wanted - jump
    return found.reshape(image.shape)


def membrane(divergence: Floats, hole: Bools) -> Floats:
    """Solves the Poisson equation in a hole: 0 around it, free at the image border.

    Args:
        divergence: (C, H, W) float32.
        hole: (H, W) bool.

    Returns:
        (C, H, W) float32 m, 0 outside the hole. Inside, the sum of m(p) - m(q) over the neighbours
        q of p in the image equals the divergence at p to about a thousandth.
    """
    made = np.zeros_like(divergence)
    if not hole.any():
        return made
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(int(side[0]) - 1, 0), int(side[-1]) + 2) for side in (rows, columns))
    here = (slice(None), *box)
    made[here] = _solve(hole[box], divergence[here])
    return made


class _Grid:
    """One grid of the solver; `middle` is the solution, `right` the right-hand side.

    All arrays are flat, (C, H + 2, W + 2) with a border of one cell, so that a neighbour is a shift
    and memory is read in order. Values that a shift carries over the border are multiplied by 0.

    Args:
        unknown: (H, W) bool, where to solve the equation; 0 elsewhere.
        inside: (H, W) bool, cells of the image.
        channels: C.
    """

    def __init__(self, unknown: Bools, inside: Bools, channels: int) -> None:
        height, width = unknown.shape
        self.shape = channels, height + 2, width + 2
        self.made = np.zeros(math.prod(self.shape) + 2 * (width + 2), dtype=np.float32)
        self.right = np.zeros(math.prod(self.shape), dtype=np.float32)
        around = np.pad(inside, 1).astype(np.float32)
        row = width + 2
        self.middle, *self._neighbours = (
            self.made[row + step : row + step + len(self.right)] for step in (0, -row, row, -1, 1)
        )
        num = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
        black = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
        self.num, self.unknown = self._flat(num), self._flat(unknown)
        self.spread = self.inner(self.unknown)
        # Factors for the new and for the old values, on the black and the white squares of a board.
        self._colours = [
            (
                self._flat(colour & unknown) / np.maximum(self.num, 1),
                1 - self._flat(colour & unknown),
            )
            for colour in (black, ~black)
        ]

    def _flat(self, values: NDArray[Any]) -> Floats:
        padded = np.pad(values, 1).astype(np.float32)
        return np.broadcast_to(padded, self.shape).reshape(-1)

    def inner(self, flat: Floats) -> Floats:
        """Returns a view (C, H, W) without the border."""
        return flat.reshape(self.shape)[:, 1:-1, 1:-1]

    def _sum(self) -> Floats:
        up, down, left, right = self._neighbours
        found = up + down
        found += left
        found += right
        found += self.right
        return found

    def relax(self, sweeps: int) -> None:
        """Improves the solution by Gauss-Seidel sweeps: black squares, then white ones."""
        middle = self.middle
        for sweep in range(2 * sweeps):
            taken, kept = self._colours[sweep % 2]
            found = self._sum()
            found *= taken
            middle *= kept
            middle += found

    def rest(self) -> Floats:
        """Returns the residual of the right-hand side, flat."""
        return (self._sum() - self.num * self.middle) * self.unknown


def _solve(hole: Bools, divergence: Floats) -> Floats:
    levels = 0
    while max(hole.shape) > COARSEST << levels:
        levels += 1
    pads = [(0, -side % (1 << levels)) for side in hole.shape]
    unknown, inside = np.pad(hole, pads), np.pad(np.ones_like(hole), pads)
    grids = [_Grid(unknown, inside, len(divergence))]
    for _ in range(levels):
        of_image = _cells(inside)
        unknown, inside = 2 * _cells(unknown) > of_image, of_image > 0
        grids.append(_Grid(unknown, inside, len(divergence)))
        # Nothing lies beyond the image, which must not count as 0.
        weight = _finer(np.pad(inside, 1)[None].astype(np.float32))[0]
        grids[-2].spread = grids[-2].inner(grids[-2].unknown) / np.maximum(weight, 0.1)
    here = slice(None), slice(0, hole.shape[0]), slice(0, hole.shape[1])
    grids[0].inner(grids[0].right)[here] = divergence * hole
    for _ in range(CYCLES):
        _cycle(grids)
    return grids[0].inner(grids[0].middle)[here]


def _cycle(grids: list[_Grid]) -> None:
    grid, *coarser = grids
    if not coarser:
        grid.relax(COARSEST)
        return
    grid.relax(2)
    coarse = coarser[0]
    coarse.inner(coarse.right)[:] = _cells(grid.inner(grid.rest()))
    coarse.right *= coarse.unknown
    coarse.made[:] = 0
    _cycle(coarser)
    correction = _finer(coarse.middle.reshape(coarse.shape))
    correction *= grid.spread
    inner = grid.inner(grid.middle)
    inner += correction
    grid.relax(2)


def _cells(values: NDArray[Any]) -> Floats:
    """Returns sums over cells of 2 × 2 pixels."""
    values = values.astype(np.float32, copy=False)
    rows = values[..., ::2, :] + values[..., 1::2, :]
    found: Floats = rows[..., ::2] + rows[..., 1::2]
    return found


def _finer(padded: Floats) -> Floats:
    """Returns cells interpolated at twice as many, (C, 2 H, 2 W) of (C, H + 2, W + 2)."""
    channels, height, width = padded.shape
    near, quarter = 0.75 * padded[:, 1:-1], 0.25 * padded
    rows = np.empty((channels, 2 * height - 4, width), dtype=np.float32)
    np.add(near, quarter[:, :-2], out=rows[:, ::2])
    np.add(near, quarter[:, 2:], out=rows[:, 1::2])
    near, quarter = 0.75 * rows[:, :, 1:-1], 0.25 * rows
    found = np.empty((channels, 2 * height - 4, 2 * width - 4), dtype=np.float32)
    np.add(near, quarter[:, :, :-2], out=found[:, :, ::2])
    np.add(near, quarter[:, :, 2:], out=found[:, :, 1::2])
    return found
