"""From where to copy."""

from __future__ import annotations

import torch
from source_helpers import seeded

from cgn_augment.functional import move_images
from cgn_augment.parts.offsets import (
    LEAST_OFFSET,
    best_offsets,
    correlate,
    many_offsets,
    spectrum,
)


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


def test_many_offsets_together_fill_the_hole() -> None:
    image, known = torch.rand(3, 40, 50, generator=seeded()), torch.ones(40, 50)
    known[8:30, 12:36] = 0
    offsets = many_offsets(image * known, known)
    assert len(offsets) > 5
    assert len(offsets.unique(dim=0)) == len(offsets)
    assert (offsets.abs().sum(dim=1) >= LEAST_OFFSET).all()
    filled = move_images(known.expand(len(offsets), 1, -1, -1), offsets)
    assert (filled > 0).any(dim=0)[0][known == 0].all()


def test_of_many_offsets_the_first_is_the_best() -> None:
    tile = torch.rand(3, 7, 7, generator=seeded()) * 2 - 1
    known = torch.ones(42, 42)
    known[14:22, 10:20] = 0
    offsets = many_offsets(tile.repeat(1, 6, 6) * known, known)
    assert (offsets[0] % 7 == 0).all()


def test_where_there_is_nothing_to_fill_there_is_no_offset() -> None:
    assert many_offsets(torch.rand(3, 20, 20, generator=seeded()), torch.ones(20, 20)).shape == (
        0,
        2,
    )
