"""From where to copy: the offset at which an image fits best around its hole.

Textures repeat themselves at few offsets (He and Sun, Statistics of Patch Offsets for Image
Completion, ECCV 2012).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RING = 2
"""Pixels around the hole that must fit."""

LEAST_RING, LEAST_FILL = 8, 8
"""Pixels that must be compared, and that must be filled at a time (or all that are left)."""

LEAST_OFFSET = 4
"""Pixels; nearer ones always fit, since neighbours are alike, and smear what is at the border."""

FILL_WEIGHT = 0.3
"""Mean square error, in grey levels of [-1, 1], that filling all of the hole at once is worth."""

RESOLUTION = 2.0**-20
"""Mean square errors that are nearer to each other than this are equal."""


def best_offsets(
    images: Tensor, known: Tensor, fill_weight: float | Tensor = FILL_WEIGHT
) -> tuple[Tensor, Tensor]:
    """Finds from where to copy.

    Args:
        images: (N, C, H, W) float32, 0 where they are not known.
        known: (N, 1, H, W) float32, 0 or 1.
        fill_weight: the mean square error that filling all of the hole at once is worth, for all
            images or (N, 1, 1, 1) float64.

    Returns:
        (N, 2) int64, the offset (row, column) at which the image fits best around its hole, for
        `move_images`; and (N,) bool whether there is any.
    """
    # Correlations of float64 and rounded errors have the same least element however many threads
    # there are; among equal ones it is the first.
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
    missing = hole.sum(dim=(1, 2, 3), keepdim=True)
    rows, columns = (
        torch.cat([torch.arange(side), torch.arange(-side, 0)]).to(images.device)
        for side in images.shape[-2:]
    )
    allowed = (
        (num >= LEAST_RING)
        & (filled >= missing.clamp(max=LEAST_FILL))
        & (rows.abs()[:, None] + columns.abs() >= LEAST_OFFSET)
    )
    score = error + fill_weight * (1 - filled / missing.clamp(min=1))
    score = score.masked_fill(~allowed, math.inf).flatten(1)
    least, place = score.min(dim=1)
    offsets = torch.stack([rows[place // len(columns)], columns[place % len(columns)]], dim=1)
    return offsets, least.isfinite()


def spectrum(images: Tensor) -> Tensor:
    """Returns (N, C, 2 H, W + 1) complex: the Fourier transform of (N, C, H, W) images in zeros."""
    found: Tensor = torch.fft.rfft2(images, s=[2 * side for side in images.shape[-2:]])
    return found


def correlate(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Returns for every offset the sum over places p of first(p) · second(p + offset).

    Args:
        pairs: spectra of the first and the second images, (N, C, 2 H, W + 1) complex. The sums of
            all pairs and channels are added.

    Returns:
        (N, 1, 2 H, 2 W): offsets from 0 to H - 1 come first, those from -H to -1 after them.
    """
    products = [(first.conj() * second).sum(dim=1, keepdim=True) for first, second in pairs]
    found: Tensor = torch.fft.irfft2(sum(products))
    return found
