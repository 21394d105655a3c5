"""Chooses for every pixel of a hole from where it is copied.

On a small copy of the image: offsets at which it fits around its hole, found several times with
more and less weight on how much each of them fills, and seams between them where they show least.
Then the offsets are applied at the full size (He and Sun, Statistics of Patch Offsets for Image
Completion, ECCV 2012).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from cgn_augment.functional import move_images
from cgn_augment.parts.blend import Bools, Floats, Places
from cgn_augment.parts.offsets import best_offsets
from cgn_augment.parts.seams import Seams

SMALL = 64
"""Pixels of the longer side at which offsets are looked for."""

WEIGHTS = (0.3, 0.1, 0.03, 0.01)
"""Mean square errors that filling all of the hole at once is worth; each gives its own filling."""

ROUNDS = 12
"""Offsets to copy from at most, in each of them."""

NUM_LABELS = 12
"""Offsets between which there are seams at most."""

REACH, RING = 2, 2
"""Pixels by which offsets are corrected at full size, and around a region that must fit."""

LEAST_RING = 8
"""Pixels that must be compared."""


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
    fillings, offsets = find_fillings(small, unseen)
    if not len(offsets):
        return enlarge(image, hole, np.zeros(unseen.shape, dtype=np.int64), offsets)
    seams = Seams(small, unseen, offsets)
    best = min(fillings, key=lambda labels: seams.energy(labels[unseen]))
    best[unseen] = seams.improve(best[unseen], range(len(offsets)))
    return enlarge(image, hole, best, offsets)


def shrink(image: Floats, hole: Bools) -> tuple[Floats, Bools]:
    """Returns a small copy, 0 in its hole, and the hole: all cells with a pixel of the hole."""
    scale = max(max(hole.shape) / SMALL, 1)
    size = round(hole.shape[0] / scale) or 1, round(hole.shape[1] / scale) or 1
    pixels, unseen = torch.from_numpy(image), torch.from_numpy(hole)[None].float()
    share = F.adaptive_avg_pool2d(unseen, size)[0].numpy()
    # Mostly 0; where what is seen is narrower than a cell, the cells with most of it are seen.
    cells = share > share.min()
    return F.adaptive_avg_pool2d(pixels, size).numpy() * ~cells, cells


def find_fillings(image: Floats, hole: Bools) -> tuple[list[Places], Places]:
    """Fills at one offset after the other, each time the best, once for each of `WEIGHTS`.

    Args:
        image: (3, h, w) float32 in [-1, 1], 0 in the hole.
        hole: (h, w) bool.

    Returns:
        For each weight the numbers of offsets, (h, w) int64; and the offsets (N, 2) int64, row and
        column, those that fill most before the others.
    """
    num, width = len(WEIGHTS), hole.shape[1]
    weights = torch.tensor(WEIGHTS, dtype=torch.float64).view(-1, 1, 1, 1)
    images = torch.from_numpy(image).repeat(num, 1, 1, 1)
    known = torch.from_numpy(~hole).float().repeat(num, 1, 1, 1)
    sums = torch.zeros(num, 2, *hole.shape)  # the offset of each pixel: copies of copies add theirs
    for _ in range(ROUNDS):
        open_ = (known == 0).flatten(1).any(dim=1).nonzero().flatten()
        if not len(open_):
            break
        offsets, found = best_offsets(images[open_], known[open_], weights[open_])
        open_, offsets = open_[found], offsets[found]
        if not len(open_):
            break
        new = (1 - known[open_]) * move_images(known[open_], offsets)
        sums[open_] += new * (move_images(sums[open_], offsets) + offsets[:, :, None, None])
        images[open_] += new * move_images(images[open_], offsets)
        known[open_] += new
    filled = known[:, 0].numpy() > 0
    codes = (sums[:, 0] * 2 * width + sums[:, 1]).long().numpy()
    values, counts = np.unique(codes[filled & hole], return_counts=True)
    values = values[np.argsort(-counts, kind="stable")[:NUM_LABELS]]
    fillings = []
    for code, full in zip(codes, filled, strict=True):
        labels = np.full(hole.shape, -1)
        for label, value in enumerate(values):
            labels[(code == value) & full & hole] = label
        if (labels >= 0).any():
            fillings.append(_nearest(labels, hole))
    rows = np.floor_divide(values + width, 2 * width)
    return fillings, np.stack([rows, values - rows * 2 * width], axis=1)


def _nearest(labels: Places, hole: Bools) -> Places:
    """Gives pixels of the hole that have no label that of the nearest one that has."""
    missing = labels < 0
    if not (missing & hole).any():
        return labels
    near = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    found: Places = labels[near[0], near[1]]
    return found


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
    taken, have = np.arange(hole.size).reshape(hole.shape), ~hole
    full = []
    for label, offset in enumerate((offsets * scale).round().astype(np.int64)):
        region = (large == label) & hole
        full.append(correct(image, hole, region, offset) if region.any() else offset)
        _take(taken, have, region, hole, full[-1])
    for offset in full:
        _take(taken, have, hole, hole, offset)
    near = ndimage.distance_transform_edt(~have, return_distances=False, return_indices=True)
    found: Places = taken[near[0], near[1]]
    return found


def correct(image: Floats, hole: Bools, region: Bools, offset: Places) -> Places:
    """Corrects an offset by some pixels, to where it fits best around its region."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = tuple(
        slice(max(int(side[0]) - RING, 0), int(side[-1]) + 1 + RING) for side in (rows, columns)
    )
    ring = ndimage.binary_dilation(region[box], iterations=RING) & ~hole[box]
    rows, columns = np.nonzero(ring)
    rows, columns = rows + box[0].start, columns + box[1].start
    steps = np.arange(-REACH, REACH + 1)
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
