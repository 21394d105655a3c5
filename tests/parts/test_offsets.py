"""From where to copy."""

from __future__ import annotations

import torch
from source_helpers import seeded

from cgn_augment.functional import move_images
from cgn_augment.parts.offsets import LEAST_OFFSET, best_offsets, correlate, spectrum


def test_a_correlation_is_the_sum_that_it_says() -> None:
    first, second, other = (torch.rand(2, 3, 5, 7, generator=seeded(s)) for s in range(3))
    pairs = [(spectrum(first), spectrum(second)), (spectrum(other[:, :1]), spectrum(first[:, :1]))]
    sums = correlate(*pairs)
    assert sums.shape == (2, 1, 10, 14)
    for row, column in ((0, 0), (2, 3), (-4, 1), (3, -6), (-1, -1)):
        offsets = torch.tensor([[row, column]] * 2)
        expected = (first * move_images(second, offsets)).sum(dim=(1, 2, 3))
        expected += (other[:, :1] * move_images(first[:, :1], offsets)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(sums[:, 0, row, column], expected)


def test_offsets_are_not_near() -> None:
    flat, known = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    known[:, :, 8:10, 10:12] = 0
    offsets, _ = best_offsets(flat, known)
    assert offsets.abs().sum() >= LEAST_OFFSET
