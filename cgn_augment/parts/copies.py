"""Chooses for every pixel of a hole where to copy it from.

On a small copy of the image it finds offsets that fit around the hole, and places the seams between
them where they show least. Then it applies the offsets at full size (He and Sun, Statistics of
Patch Offsets for Image Completion, ECCV 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from cgn_augment.parts.blend import Bools, Floats, Places
from cgn_augment.parts.offsets import many_offsets
from cgn_augment.parts.seams import Seams

SMALL = 48
"""Longer side, in pixels, of the small copy; at 64 the seams cost the same, but finding them takes
half as long again."""

VARIATION = 2.0
"""Weight of a cell's standard deviation, in grey levels."""

RING, LEAST_RING, MOST_RING = 2, 8, 300
"""Pixels around a region where its offset must fit; how many are needed, and how many compared."""


def choose_copies(image: Floats, hole: Bools) -> Places:
    """Chooses for each pixel the place to copy it from.

    Args:
        image: (3, H, W) float32 in [-1, 1].
        hole: (H, W) bool; at least one pixel is outside.

    Returns:
        (H, W) int64, places (row · W + column) outside the hole; a pixel outside the hole is its
        own place.
    """
    small, unseen = shrink(image, hole)
    known = torch.from_numpy(~unseen).float()
    offsets = many_offsets(torch.from_numpy(small), known).numpy()
    labels = np.zeros(unseen.shape, dtype=np.int64)
    if len(offsets):
        labels[unseen] = Seams(small, unseen, offsets).choose()
        labels = _from_nearest(labels, ~unseen)  # cells around the hole get labels too
    return enlarge(image, hole, labels, offsets)


def shrink(image: Floats, hole: Bools) -> tuple[Floats, Bools]:
    """Makes a small copy.

    Args:
        image: (C, H, W) float32.
        hole: (H, W) bool; at least one pixel is outside.

    Returns:
        (C + 1, h, w) float32: the colours of cells, and how much they vary within a cell, which
        tells fine textures from plain colours; 0 in the hole. And (h, w) bool, the hole: all cells
        with a pixel of it.
    """
    scale = max(max(hole.shape) / SMALL, 1)
    size = round(hole.shape[0] / scale) or 1, round(hole.shape[1] / scale) or 1
    share = F.adaptive_avg_pool2d(torch.from_numpy(hole)[None].float(), size)[0].numpy()
    # Usually 0. If the visible area is narrower than a cell, the cells with most of it count as
    # seen.
    unseen = share > share.min()
    pixels = torch.from_numpy(image)
    mean, square = (F.adaptive_avg_pool2d(each, size) for each in (pixels, pixels.square()))
    variance = (square - mean.square()).clamp(min=0).mean(dim=0, keepdim=True)
    small: Floats = torch.cat([mean, VARIATION * variance.sqrt()]).numpy()
    return small * ~unseen, unseen


def enlarge(image: Floats, hole: Bools, labels: Places, offsets: Places) -> Places:
    """Applies at full size what was chosen on the small copy.

    Args:
        image: (3, H, W) float32.
        hole: (H, W) bool.
        labels: (h, w) int64, index of the offset of each cell.
        offsets: (N, 2) int64, offsets on the small copy.

    Returns:
        (H, W) int64, as in `choose_copies`.
    """
    if not len(offsets):
        return _from_nearest(np.arange(hole.size).reshape(hole.shape), hole)
    scale = np.array([side / few for side, few in zip(hole.shape, labels.shape, strict=True)])
    moves = (offsets * scale).round().astype(np.int64)
    around = ndimage.binary_dilation(hole, iterations=RING) & ~hole
    ring = _label(around, labels)
    reach = math.ceil(scale.max() / 2)
    for label in np.unique(ring.labels):
        own = ring.only(ring.labels == label)
        moves[label] = correct(image, hole, own, moves[label], reach)
    taken = np.arange(hole.size).reshape(hole.shape)
    missing = _label(hole, labels)
    for move in (moves[missing.labels], *moves[:, None]):
        places, seen = missing.look(hole, move)
        taken[missing.rows[seen], missing.columns[seen]] = places[seen]
        missing = missing.only(~seen)
    lost = np.zeros_like(hole)
    lost[missing.rows, missing.columns] = True
    return _from_nearest(taken, lost)


def _from_nearest(taken: Places, lost: Bools) -> Places:
    """Gives each lost pixel the choice of its nearest neighbour."""
    if not lost.any():
        return taken
    near = ndimage.distance_transform_edt(lost, return_distances=False, return_indices=True)
    found: Places = taken[near[0], near[1]]
    return found


@dataclass(frozen=True)
class _Pixels:
    """Pixels, (P,) int64 each, and the indices of their offsets."""

    rows: Places
    columns: Places
    labels: Places

    def only(self, chosen: Bools) -> _Pixels:
        return _Pixels(self.rows[chosen], self.columns[chosen], self.labels[chosen])

    def look(self, hole: Bools, moves: Places) -> tuple[Places, Bools]:
        """Returns the places at moves (..., 2) from here, (..., P), and which are visible."""
        rows, columns = self.rows + moves[..., 0], self.columns + moves[..., 1]
        seen = (rows >= 0) & (rows < hole.shape[0]) & (columns >= 0) & (columns < hole.shape[1])
        places = np.where(seen, rows * hole.shape[1] + columns, 0)
        seen &= ~hole.reshape(-1)[places]
        return places, seen


def _label(chosen: Bools, labels: Places) -> _Pixels:
    rows, columns = np.nonzero(chosen)
    cells = rows * labels.shape[0] // chosen.shape[0], columns * labels.shape[1] // chosen.shape[1]
    return _Pixels(rows, columns, labels[cells])


def correct(image: Floats, hole: Bools, ring: _Pixels, move: Places, reach: int) -> Places:
    """Corrects an offset by up to `reach` pixels to where it fits best around its region."""
    ring = ring.only(np.arange(len(ring.rows)) % (1 + len(ring.rows) // MOST_RING) == 0)
    steps = np.arange(-reach, reach + 1)
    near = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    moves = move + near[np.abs(near).sum(axis=1).argsort(kind="stable")]
    places, seen = ring.look(hole, moves[:, None])
    flat = image.reshape(len(image), -1)
    own = image[:, ring.rows, ring.columns]
    apart = np.square(flat[:, places] - own[:, None]).sum(axis=0) * seen
    num = seen.sum(axis=1)
    errors = np.where(num >= LEAST_RING, apart.sum(axis=1) / np.maximum(num, 1), np.inf)
    best: Places = moves[errors.argmin()]
    return best
