"""What a masker must be and must give, and masks that come with a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.masks import UNetMasker
from cgn_augment.masks.finding import (
    find_masks,
    identify_masker,
    read_masks,
    require_masker,
    require_masks,
)

IMAGES = torch.zeros(6, 3, 8, 8)


def test_a_masker_sees_a_chunk_at_a_time() -> None:
    seen = []

    def find(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part[:, :1]

    assert find_masks(find, IMAGES, 4).shape == (6, 1, 8, 8)
    assert seen == [4, 2]


@pytest.mark.parametrize(
    ("masker", "error", "remedy"),
    [
        ("masker", ArgumentTypeError, "such as load_masker returns"),
        (UNetMasker(4), ArgumentError, r"call masker.eval\(\)"),
    ],
)
def test_what_finds_no_masks_is_refused(masker: Any, error: type[Exception], remedy: str) -> None:
    with pytest.raises(error, match=remedy):
        require_masker(masker)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(6, 3, 8, 8), r"masks must be \(6, 1, 8, 8\), .* got \(6, 3, 8, 8\)"),
        (torch.full((6, 1, 8, 8), -1.0), r"masks must be in \[0, 1\], got \[-1, -1\]"),
        (torch.full((6, 1, 8, 8), torch.nan), r"\[nan, nan\]"),
    ],
)
def test_masks_that_are_none_are_an_error(masks: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_masks(masks, (6, 1, 8, 8))


def test_maskers_are_told_apart_by_fingerprint_weights_or_name() -> None:
    class Other(nn.Identity):
        pass

    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    names = [identify_masker(m) for m in (nn.Identity(), Other(), layer, other)]
    assert len(set(names)) == 4
    assert identify_masker(layer) == names[2]
    frozen = UNetMasker(4).freeze()
    assert identify_masker(frozen) == frozen.fingerprint


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 1, 8, 8)])
def test_masks_may_come_with_the_batch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    masks = torch.ones(shape, dtype=dtype)
    for batch, key in (({"image": IMAGES, "mask": masks}, "mask"), ((IMAGES, 0, masks), 2)):
        read = read_masks(batch, key, IMAGES)
        assert torch.equal(read, torch.ones(6, 1, 8, 8))


def test_masks_that_are_not_in_the_batch_are_an_error() -> None:
    for batch, key in ((IMAGES, torch.arange(6)), 2), ({"image": IMAGES}, "mask"), (None, 0):
        with pytest.raises(DataError, match=f"no tensor of masks at {key!r}: let the dataset"):
            read_masks(batch, key, IMAGES)
    with pytest.raises(DataError, match=r"must be \(6, 1, 8, 8\), .* got \(6, 1, 4, 4\)"):
        read_masks({"mask": torch.zeros(6, 4, 4)}, "mask", IMAGES)
