"""Finds the offset at which an image fits best around its hole, to copy from there.

Textures repeat at few offsets (He and Sun, Statistics of Patch Offsets for Image Completion,
ECCV 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.functional import move_images

RING = 2
"""Pixels around the hole that must fit."""

LEAST_RING, LEAST_FILL = 8, 8
"""Pixels to compare at least, and to fill at least per offset (or all that are left)."""

LEAST_OFFSET = 4
"""Pixels; nearer offsets always fit, since neighbours are alike, and would smear the border."""

FILL_WEIGHT = 0.3
"""Mean square error, in grey levels of [-1, 1], accepted for filling the whole hole at once."""

FILL_WEIGHTS = (0.3, 0.03, 0.003)
"""The same if many offsets are wanted: from those that fill much to those that fit well."""

NUM_BEST, NUM_MORE, NEAR = 5, 8, 2
"""Offsets per weight; most offsets for the rest of the hole; pixels between offsets."""

LEAST_SHARE = 0.02
"""Share of the hole that each of them must fill."""

RESOLUTION = 2.0**-20
"""Mean square errors closer than this count as equal."""


def best_offsets(
    images: Tensor, known: Tensor, fill_weight: float | Tensor = FILL_WEIGHT
) -> tuple[Tensor, Tensor]:
    """Finds where to copy from.

    Args:
        images: (N, C, H, W) float32, 0 where unknown.
        known: (N, 1, H, W) float32, 0 or 1.
        fill_weight: mean square error accepted for filling the whole hole at once; one number, or
            (N, 1, 1, 1) float64.

    Returns:
        (N, 2) int64, the offset (row, column) at which the image fits best around its hole, for
        `move_images`; and (N,) bool, whether there is one.
    """
    fits = compare(images, known)
    score = fits.error + fill_weight * (1 - fits.share)
    allowed = (fits.num >= LEAST_RING) & (fits.filled >= fits.missing.clamp(max=LEAST_FILL))
    score = score.masked_fill(~(allowed & fits.far), math.inf).flatten(1)
    least, place = score.min(dim=1)
    return fits.offset(place), least.isfinite()


def many_offsets(image: Tensor, known: Tensor) -> Tensor:
    """Finds offsets that together fill the hole of one image, good ones first.

    Args:
        image: (C, H, W) float32, 0 where unknown.
        known: (H, W) float32, 0 or 1.

    Returns:
        (N, 2) int64, offsets (row, column), none near another: the best `NUM_BEST` for each of
        `FILL_WEIGHTS`, then offsets that fill the rest. N is 0 if nothing fits.
    """
    fits = compare(image[None], known[None, None])
    allowed = fits.far & (fits.num >= LEAST_RING) & (fits.share >= LEAST_SHARE)
    found: list[tuple[int, int]] = []
    for weight in FILL_WEIGHTS:
        score = fits.error + weight * (1 - fits.share)
        score = score.masked_fill(~allowed, math.inf)[0, 0]
        for _ in range(NUM_BEST):
            row, column = fits.offset(score.argmin()).tolist()
            if not score[row, column].isfinite():
                break
            found.append((row, column))
            _blot(score, row, column)
    open_ = (known == 0) & ~_filled(known, found)
    of_known = spectrum(known[None, None].double())
    for _ in range(NUM_MORE):
        if not open_.any():
            break
        filled = correlate((spectrum(open_[None, None].double()), of_known)).round()
        score = fits.error + FILL_WEIGHTS[0] * (1 - filled / open_.sum())
        score = score.masked_fill(~(fits.far & (filled >= 1)), math.inf)[0, 0]
        row, column = fits.offset(score.argmin()).tolist()
        if not score[row, column].isfinite():
            break
        found.append((row, column))
        open_ &= ~_filled(known, found[-1:])
    return torch.tensor(list(dict.fromkeys(found)), dtype=torch.int64).view(-1, 2)


def _blot(score: Tensor, row: int, column: int) -> None:
    """Rules out offsets near this one."""
    near = torch.arange(-NEAR, NEAR + 1)
    rows, columns = (row + near) % score.shape[0], (column + near) % score.shape[1]
    score[rows[:, None], columns] = math.inf


def _filled(known: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    """Returns (H, W) bool, the pixels that are known at one of the offsets."""
    if not offsets:
        return torch.zeros_like(known, dtype=torch.bool)
    moved = move_images(known.expand(len(offsets), 1, -1, -1), torch.tensor(offsets))
    return (moved > 0).any(dim=0)[0]


@dataclass(frozen=True)
class Fits:
    """How well images fit around their holes at every offset; (N, 1, 2 H, 2 W) float64.

    Offsets from 0 to H - 1 come first, then those from -H to -1, as in `correlate`.

    Attributes:
        error: mean square error over the ring around the hole.
        num: number of ring pixels compared.
        filled: number of hole pixels known at the offset.
        missing: (N, 1, 1, 1), number of hole pixels.
        far: (2 H, 2 W) bool, offsets that are not near.
    """

    error: Tensor
    num: Tensor
    filled: Tensor
    missing: Tensor
    far: Tensor

    @property
    def share(self) -> Tensor:
        """Share of the hole that is known at each offset."""
        return self.filled / self.missing.clamp(min=1)

    def offset(self, place: Tensor) -> Tensor:
        """Returns (..., 2) int64, row and column, for places in the flattened (2 H, 2 W)."""
        rows, columns = (_steps(side, place.device) for side in self.far.shape)
        return torch.stack([rows[place // len(columns)], columns[place % len(columns)]], dim=-1)


def _steps(side: int, device: torch.device) -> Tensor:
    return torch.cat([torch.arange(side // 2), torch.arange(-(side // 2), 0)]).to(device)


def compare(images: Tensor, known: Tensor) -> Fits:
    """Compares images with themselves at every offset, in the ring around their holes.

    Args:
        images: (N, C, H, W) float32, 0 where unknown.
        known: (N, 1, H, W) float32, 0 or 1.
    """
    # float64 correlations and rounded errors give the same minimum for any number of threads; among
    # equal ones the first wins.
    images, known = images.double(), known.double()
    hole = 1 - known
    ring = F.max_pool2d(hole, 2 * RING + 1, stride=1, padding=RING) - hole
    square = images.square().sum(dim=1, keepdim=True)
    of_known, of_ring = spectrum(known), spectrum(ring)
    num = correlate((of_ring, of_known)).round()
    filled = correlate((spectrum(hole), of_known)).round()
    error = correlate(
        (spectrum(ring * square), of_known),
        (-2 * spectrum(ring * images), spectrum(images)),
        (of_ring, spectrum(square)),
    )
    error = ((error / (images.shape[1] * num).clamp(min=1)) / RESOLUTION).round() * RESOLUTION
    rows, columns = (_steps(2 * side, images.device) for side in images.shape[-2:])
    far = rows.abs()[:, None] + columns.abs() >= LEAST_OFFSET
    return Fits(error, num, filled, hole.sum(dim=(1, 2, 3), keepdim=True), far)


def spectrum(images: Tensor) -> Tensor:
    """Returns the Fourier transform of zero-padded images, (N, C, 2 H, W + 1) complex."""
    found: Tensor = torch.fft.rfft2(images, s=[2 * side for side in images.shape[-2:]])
    return found


def correlate(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Returns, for every offset, the sum over places p of first(p) · second(p + offset).

    Args:
        pairs: spectra of the first and the second images, (N, C, 2 H, W + 1) complex. Sums over
            pairs and channels are added.

    Returns:
        (N, 1, 2 H, 2 W): offsets from 0 to H - 1 come first, then those from -H to -1.
    """
    products = [(first.conj() * second).sum(dim=1, keepdim=True) for first, second in pairs]
    found: Tensor = torch.fft.irfft2(sum(products))
    return found
