"""Chooses for every pixel of a hole from where it is copied.

On a small copy of the image: offsets at which it fits around its hole, and seams between them where
they show least. Then the offsets are applied at the full size (He and Sun, Statistics of Patch
Offsets for Image Completion, ECCV 2012).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from cgn_augment.parts.blend import Bools, Floats, Places
from cgn_augment.parts.offsets import many_offsets
from cgn_augment.parts.seams import Seams

SMALL = 48
"""Pixels of the longer side at which offsets are looked for; at 64 the seams cost the same, and
finding them takes twice as long."""

VARIATION = 2.0
"""Grey levels that the standard deviation of a cell by one is worth."""

RING, LEAST_RING, MOST_RING = 2, 8, 300
"""Pixels around a region at which its offset must fit; how many are needed, and looked at."""


def choose_copies(image: Floats, hole: Bools) -> Places:
    """Chooses for each pixel the place that it is a copy of.

    Args:
        image: (3, H, W) float32 in [-1, 1].
        hole: (H, W) bool; some pixel is not in it.

    Returns:
        (H, W) int64, places (row · W + column) outside of the hole; of pixels outside of it their
        own.
    """
    small, unseen = shrink(image, hole)
    known = torch.from_numpy(~unseen).float()
    offsets = many_offsets(torch.from_numpy(small), known).numpy()
    labels = np.zeros(unseen.shape, dtype=np.int64)
    if len(offsets):
        labels[unseen] = Seams(small, unseen, offsets).choose()
    return enlarge(image, hole, labels, offsets)


def shrink(image: Floats, hole: Bools) -> tuple[Floats, Bools]:
    """Makes a small copy.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool; some pixel is not in it.

    Returns:
        (C + 1, h, w) float32, the colours of cells, and how much these vary within the cell, which
        tells fine textures from plain colours; 0 in the hole. And (h, w) bool, the hole: all cells
        that have a pixel of it.
    """
    scale = max(max(hole.shape) / SMALL, 1)
    size = round(hole.shape[0] / scale) or 1, round(hole.shape[1] / scale) or 1
    share = F.adaptive_avg_pool2d(torch.from_numpy(hole)[None].float(), size)[0].numpy()
    # Mostly 0; where what is seen is narrower than a cell, the cells with most of it are seen.
    unseen = share > share.min()
    pixels = torch.from_numpy(image)
    mean, square = (F.adaptive_avg_pool2d(each, size) for each in (pixels, pixels.square()))
    variance = (square - mean.square()).clamp(min=0).mean(dim=0, keepdim=True)
    small: Floats = torch.cat([mean, VARIATION * variance.sqrt()]).numpy()
    return small * ~unseen, unseen


def enlarge(image: Floats, hole: Bools, labels: Places, offsets: Places) -> Places:
    """Applies at the full size what was chosen at a small one.

    Args:
        image: (3, H, W) float32.
        hole: (H, W) bool.
        labels: (h, w) int64, numbers of offsets.
        offsets: (N, 2) int64, of the small copy.

    Returns:
        (H, W) int64, as `choose_copies`.
    """
    height, width = hole.shape
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    large = labels[rows[:, None], columns]
    scale = np.array([height / labels.shape[0], width / labels.shape[1]])
    reach = math.ceil(scale.max() / 2)
    taken, have = np.arange(hole.size).reshape(hole.shape), ~hole
    full = []
    for label, offset in enumerate((offsets * scale).round().astype(np.int64)):
        region = (large == label) & hole
        full.append(correct(image, hole, region, offset, reach) if region.any() else offset)
        _take(taken, have, region, hole, full[-1])
    for offset in full:
        _take(taken, have, hole, hole, offset)
    near = ndimage.distance_transform_edt(~have, return_distances=False, return_indices=True)
    found: Places = taken[near[0], near[1]]
    return found


def correct(image: Floats, hole: Bools, region: Bools, offset: Places, reach: int) -> Places:
    """Corrects an offset by up to `reach` pixels, to where it fits best around its region."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = tuple(
        slice(max(int(side[0]) - RING, 0), int(side[-1]) + 1 + RING) for side in (rows, columns)
    )
    ring = ndimage.binary_dilation(region[box], iterations=RING) & ~hole[box]
    rows, columns = np.nonzero(ring)
    some = slice(None, None, 1 + len(rows) // MOST_RING)
    rows, columns = rows[some] + box[0].start, columns[some] + box[1].start
    steps = np.arange(-reach, reach + 1)
    moves = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    moves = offset + moves[np.abs(moves).sum(axis=1).argsort(kind="stable")]
    from_rows, from_columns = rows + moves[:, :1], columns + moves[:, 1:]
    seen = (from_rows >= 0) & (from_rows < hole.shape[0])
    seen &= (from_columns >= 0) & (from_columns < hole.shape[1])
    places = np.where(seen, from_rows * hole.shape[1] + from_columns, 0)
    seen &= ~hole.reshape(-1)[places]
    flat = image.reshape(len(image), -1)
    apart = np.square(flat[:, places] - image[:, rows, columns][:, None]).sum(axis=0) * seen
    num = seen.sum(axis=1)
    errors = np.where(num >= LEAST_RING, apart.sum(axis=1) / np.maximum(num, 1), np.inf)
    best: Places = moves[errors.argmin()]
    return best


def _take(taken: Places, have: Bools, region: Bools, hole: Bools, offset: Places) -> None:
    """Copies in place what is not there yet, at one offset."""
    rows, columns = np.nonzero(region & ~have)
    from_rows, from_columns = rows + offset[0], columns + offset[1]
    seen = (from_rows >= 0) & (from_rows < hole.shape[0])
    seen &= (from_columns >= 0) & (from_columns < hole.shape[1])
    places = from_rows * hole.shape[1] + from_columns
    seen[seen] &= ~hole.reshape(-1)[places[seen]]
    taken[rows[seen], columns[seen]] = places[seen]
    have[rows[seen], columns[seen]] = True
