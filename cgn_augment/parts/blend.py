"""Blends copied pixels into an image, so that no seam is left.

Poisson image editing (Pérez, Gangnet and Blake, SIGGRAPH 2003): the gradients are those of the
copies, the colours at the border are those of the image. What is added to the copies is a membrane
through the mismatch at the seams; a multigrid solver (Briggs, Henson and McCormick, A Multigrid
Tutorial, 2000) finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]

BAND = 2
"""Pixels around the hole that are blended, too: half of what is left of a seam lies there."""

CYCLES = 4
"""Each leaves about a tenth of the error."""

COARSEST = 4
"""Pixels of the longer side at which no coarser grid is made."""


def blend(image: Floats, hole: Bools, taken: Places) -> Floats:
    """Fills a hole with copies, and blends the seams between them and with the rest.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool, the pixels to fill. There is at least one that is not in it.
        taken: (H, W) int64, the place (row · W + column) that each pixel is a copy of: outside of
            the hole always, and the pixel itself for those outside of the hole.

    Returns:
        (C, H, W) float32, the given image outside of the hole and the `BAND` around it.

    Example:
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
    """Returns how far the copies' gradients are from those that they should have.

    Across a seam these are the mean of what the copies on both sides of it go on with.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool.
        taken: (H, W) int64, as in `blend`.

    Returns:
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
        wanted = np.where(num > 0, total / np.maximum(num, 1), jump)
        # A pixel is the first of one pair at most, and the second of one.
        found[:, first] -= wanted - jump
        found[:, first + step] += wanted - jump
    return found.reshape(image.shape)


def membrane(divergence: Floats, hole: Bools) -> Floats:
    """Solves the Poisson equation in a hole: 0 around it, free at the border of the image.

    Args:
        divergence: (C, H, W) float32.
        hole: (H, W) bool.

    Returns:
        (C, H, W) float32 m, 0 outside of the hole: in it, the sum of m(p) - m(q) over the
        neighbours q of p in the image is the divergence at p, but for a thousandth or so.
    """
    made = np.zeros_like(divergence)
    if not hole.any():
        return made
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(int(side[0]) - 1, 0), int(side[-1]) + 2) for side in (rows, columns))
    grids = _grids(hole[box])
    made[(slice(None), *box)] = _solve(grids, divergence[(slice(None), *box)])
    return made


@dataclass(frozen=True)
class _Grid:
    """A grid with a border of one cell: 1 where a cell is solved for, and its neighbours.

    Attributes:
        unknown: (H + 2, W + 2) float32, 0 or 1.
        colours: the same, on the black and on the white squares of a board, over the neighbours.
        num: (H, W) float32, neighbours in the image.
    """

    unknown: Floats
    colours: tuple[Floats, Floats]
    num: Floats


def _grids(hole: Bools) -> list[_Grid]:
    levels = 0
    while max(hole.shape) > COARSEST << levels:
        levels += 1
    pads = [(0, -side % (1 << levels)) for side in hole.shape]
    unknown, inside = np.pad(hole, pads), np.pad(np.ones_like(hole), pads)
    grids = []
    for _ in range(levels + 1):
        grids.append(_grid(unknown, inside))
        if min(unknown.shape) % 2:
            break
        unknown, inside = _cells(unknown) > 2, _cells(inside) > 0
    return grids


def _grid(unknown: Bools, inside: Bools) -> _Grid:
    num = np.maximum(_neighbours(np.pad(inside, 1).astype(np.float32)[None])[0], 1)
    board = np.indices(unknown.shape).sum(axis=0) % 2
    colours = tuple(((board == each) & unknown) / num for each in (0, 1))
    first, second = (colour.astype(np.float32) for colour in colours)
    return _Grid(unknown.astype(np.float32), (first, second), num)


def _solve(grids: list[_Grid], divergence: Floats) -> Floats:
    height, width = grids[0].unknown.shape
    right = np.zeros((len(divergence), height, width), dtype=np.float32)
    right[:, : divergence.shape[1], : divergence.shape[2]] = divergence
    right *= grids[0].unknown
    made = np.zeros((len(right), height + 2, width + 2), dtype=np.float32)
    for _ in range(CYCLES):
        _cycle(grids, made, right)
    return made[:, 1 : 1 + divergence.shape[1], 1 : 1 + divergence.shape[2]]


def _cycle(grids: list[_Grid], made: Floats, right: Floats) -> None:
    grid, *coarser = grids
    _relax(grid, made, right, 2 if coarser else 8)
    if not coarser:
        return
    inner = made[:, 1:-1, 1:-1]
    rest = (right - grid.num * inner + _neighbours(made)) * grid.unknown
    coarse = _cells(rest) * coarser[0].unknown
    correction = np.zeros([len(made), *(side + 2 for side in coarse.shape[1:])], dtype=np.float32)
    _cycle(coarser, correction, coarse)
    inner += _finer(correction) * grid.unknown
    _relax(grid, made, right, 2)


def _relax(grid: _Grid, made: Floats, right: Floats, sweeps: int) -> None:
    """Improves in place: Gauss and Seidel's method, black squares first, then white ones."""
    inner = made[:, 1:-1, 1:-1]
    for sweep in range(2 * sweeps):
        rest = right + _neighbours(made) - grid.num * inner
        rest *= grid.colours[sweep % 2]
        inner += rest


def _neighbours(padded: Floats) -> Floats:
    """Returns the sum of the four neighbours, (C, H, W) of (C, H + 2, W + 2)."""
    found: Floats = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    found += padded[:, 1:-1, :-2]
    found += padded[:, 1:-1, 2:]
    return found


def _cells(values: NDArray[Any]) -> Floats:
    """Returns sums over cells of 2 × 2 pixels."""
    values = values.astype(np.float32, copy=False)
    rows = values[..., ::2, :] + values[..., 1::2, :]
    found: Floats = rows[..., ::2] + rows[..., 1::2]
    return found


def _finer(padded: Floats) -> Floats:
    """Returns cells interpolated at twice as many, (C, 2 H, 2 W) of (C, H + 2, W + 2)."""
    channels, height, width = padded.shape
    rows = np.empty((channels, 2 * height - 4, width), dtype=np.float32)
    rows[:, ::2] = 0.75 * padded[:, 1:-1] + 0.25 * padded[:, :-2]
    rows[:, 1::2] = 0.75 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    found = np.empty((channels, 2 * height - 4, 2 * width - 4), dtype=np.float32)
    found[:, :, ::2] = 0.75 * rows[:, :, 1:-1] + 0.25 * rows[:, :, :-2]
    found[:, :, 1::2] = 0.75 * rows[:, :, 1:-1] + 0.25 * rows[:, :, 2:]
    return found
