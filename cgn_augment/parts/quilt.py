"""Makes a whole sheet of an object's texture.

Image quilting (Efros and Freeman, SIGGRAPH 2001): square patches from inside the object are laid
side by side where they fit, and cut where they differ least. No patch crosses the object's edge, so
the sheet does not show its shape.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cgn_augment.parts.blend import Bools, Floats, Places

INSET = 0.04
"""Distance of patches from the edge, as a share of the square root of the object's area."""

PATCH, LEAST_PATCH, MOST_PATCH = 0.5, 4, 48
"""Side of a patch: a share of the largest square in the object, and bounds in pixels."""

OVERLAP = 3
"""Ratio of a patch's width to its overlap with the next."""

NUM_TRIED = 40
"""Number of patches compared; the best is taken."""

MOST_STEPS = 16
"""Most patches side by side; a wider sheet is mirrored."""


def make_sheet(image: Tensor, inside: Bools) -> Tensor:
    """Makes a sheet of the texture inside an object.

    Args:
        image: (3, H, W) uint8.
        inside: (H, W) bool, the object; at least one pixel is inside.

    Returns:
        (3, H, W) uint8, always the same for the same image. An object too thin for a patch of a few
        pixels gives a sheet of single pixels.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.quilt import make_sheet
        >>> image = torch.zeros(3, 40, 40, dtype=torch.uint8)
        >>> image[:, 10:30, 12:28] = 90
        >>> make_sheet(image, (image[0] > 0).numpy()).unique().tolist()
        [90]
    """
    depth = ndimage.distance_transform_cdt(np.pad(inside, 1), "chessboard")[1:-1, 1:-1]
    inset = min(round(INSET * float(inside.sum()) ** 0.5) + 1, max(int(depth.max()) // 2, 0))
    depth = np.maximum(depth - inset, 0)
    widest = 2 * int(depth.max()) - 1
    side = min(max(round(PATCH * widest), LEAST_PATCH), widest, MOST_PATCH)
    corners = _corners(depth > 0, side)
    height, width = inside.shape
    overlap = side // OVERLAP
    step = side - overlap
    steps = [min(-(-(length - overlap) // step), MOST_STEPS) for length in (height, width)]
    pixels: Floats = image.permute(1, 2, 0).numpy().astype(np.float32)
    sheet = np.zeros([num * step + overlap for num in steps] + [3], dtype=np.float32)
    draw = np.random.default_rng(0)
    for row in range(0, steps[0] * step, step):
        for column in range(0, steps[1] * step, step):
            there = sheet[row : row + side, column : column + side]
            tried = corners[draw.integers(len(corners), size=min(NUM_TRIED, len(corners)))]
            _lay(there, _patches(pixels, tried, side), overlap, row > 0, column > 0)
    rest = [
        (0, max(want - have, 0)) for want, have in zip((height, width), sheet.shape, strict=False)
    ]
    whole = np.pad(sheet, [*rest, (0, 0)], mode="symmetric")[:height, :width]
    return torch.from_numpy(whole.round().astype(np.uint8)).permute(2, 0, 1).contiguous()


def _corners(inside: Bools, side: int) -> Places:
    """Returns the upper left corners (N, 2) of all squares inside the object."""
    sums = np.pad(inside, ((1, 0), (1, 0))).astype(np.int64).cumsum(axis=0).cumsum(axis=1)
    within = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    found: Places = np.argwhere(within == side * side)
    return found


def _patches(pixels: Floats, corners: Places, side: int) -> Floats:
    """Returns (N, side, side, 3)."""
    reach = np.arange(side)
    rows = corners[:, :1] + reach
    columns = corners[:, 1:] + reach
    found: Floats = pixels[rows[:, :, None], columns[:, None, :]]
    return found


def _lay(there: Floats, patches: Floats, overlap: int, above: bool, left: bool) -> None:
    """Lays the best-fitting patch over a place of the sheet, cut along the overlaps."""
    strips = [
        np.square(patches[:, : side[0], : side[1]] - there[: side[0], : side[1]]).sum(axis=3)
        for side, wanted in (((None, overlap), left), ((overlap, None), above))
        if wanted and overlap
    ]
    error = sum((strip.sum(axis=(1, 2)) for strip in strips), np.zeros(len(patches)))
    best = int(error.argmin())
    new = np.ones(there.shape[:2], dtype=bool)
    if left and overlap:
        new[:, :overlap] &= _cut(strips[0][best])
    if above and overlap:
        new[:overlap] &= _cut(strips[-1][best].T).T
    there[new] = patches[best][new]


def _cut(cost: Floats) -> Bools:
    """Cuts from top to bottom along the least cost; returns the pixels right of the cut."""
    total = cost.copy()
    around = np.full(cost.shape[1] + 2, np.inf, dtype=cost.dtype)
    for row in range(1, len(total)):
        around[1:-1] = total[row - 1]
        total[row] += np.minimum(np.minimum(around[:-2], around[1:-1]), around[2:])
    place = int(total[-1].argmin())
    right = np.zeros(cost.shape, dtype=bool)
    for row in range(len(total) - 1, -1, -1):
        if row < len(total) - 1:
            first = max(place - 1, 0)
            place = first + int(total[row, first : place + 2].argmin())
        right[row, place:] = True
    return right
