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


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        (torch.full((6, 20, 20), 255, dtype=torch.uint8), 1.0),
        (torch.full((6, 1, 5, 5), 51, dtype=torch.uint8), 0.2),
        (torch.full((6, 4, 4), 1 + 2e-7), 1.0),
        (torch.full((6, 4, 4), 0.5, dtype=torch.float16), 0.5),
        (torch.ones(6, 500, 500, dtype=torch.bool), 1.0),
    ],
)
def test_masks_of_any_size_and_type_become_floats(masks: Tensor, expected: float) -> None:
    read = read_masks({"mask": masks}, "mask", IMAGES)
    assert read.dtype is torch.float32
    assert read.shape[2:] == masks.shape[-2:]
    assert read.unique().tolist() == [pytest.approx(expected)]
    assert read.max() <= 1


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(6, 3, 8, 8), r"must be \(6, 1, H, W\) or \(6, H, W\), got \(6, 3, 8, 8\)"),
        (torch.zeros(5, 8, 8), r"got \(5, 1, 8, 8\)"),
        (torch.zeros(6, 8, 12), "8x12 and their images 8x8, .* one joint transform"),
        (torch.ones(6, 8, 8, dtype=torch.uint8), "0 and 1, and bytes mean 0 to 255: .* as bool"),
        (torch.ones(6, 8, 8, dtype=torch.int64), "must be bool, uint8 of .* got torch.int64"),
        (torch.full((6, 8, 8), 255.0), r"must be in \[0, 1\], got \[255, 255\]"),
    ],
)
def test_masks_of_a_batch_that_cannot_be_used_are_an_error(masks: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_masks({"mask": masks}, "mask", IMAGES)


def test_masks_of_images_that_are_not_square_have_their_aspect() -> None:
    images = torch.zeros(2, 3, 64, 42)
    assert read_masks([images, 0, torch.zeros(2, 500, 334)], 2, images).shape == (2, 1, 500, 334)


@pytest.mark.parametrize("size", [224, 192])
def test_a_resized_mask_may_overshoot_by_a_rounding_error(size: int) -> None:
    masks = torch.nn.functional.interpolate(
        torch.ones(1, 1, size, size), (96, 96), mode="bilinear", antialias=True
    )
    assert require_masks(masks, (1, 1, 96, 96)).max() == 1
