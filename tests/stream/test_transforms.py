"""Counterfactuals arrive as the real images do."""

from __future__ import annotations

import math
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from cgn_augment import match_real
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError
from cgn_augment.functional import isolated_rng
from cgn_augment.stream import MatchReal

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CPU = torch.device("cpu")


def pixels(num: int = 2, height: int = 16, width: int = 16) -> np.ndarray:
    """Images (N, H, W, 3) of bytes, among them every byte in each channel."""
    count = num * height * width * 3
    values = (np.arange(count) % 256).astype(np.uint8)
    return np.random.default_rng(0).permutation(values).reshape(num, height, width, 3)


def from_cgn(images: np.ndarray) -> Tensor:
    """The same images as a CGN would draw them, (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def numbered(height: int, width: int, num: int = 1) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] in which each pixel has a value of its own."""
    values = torch.linspace(-1, 1, height * width).view(1, 1, height, width)
    return values.expand(num, 3, -1, -1).clone()


@pytest.mark.parametrize(
    ("mean", "std"), [IMAGENET, (0.5, 0.5), (0.0, 1.0), ([0.1307], [0.3081]), (0, 1)]
)
def test_images_arrive_as_from_totensor_and_normalize(mean: object, std: object) -> None:
    given = pixels()
    three = [np.broadcast_to(value, 3).astype(float).tolist() for value in (mean, std)]
    normalize = v2.Normalize(*three)
    expected = torch.stack([normalize(to_tensor(image)) for image in given])
    arrived = match_real(mean, std)(from_cgn(given))
    assert arrived.dtype == torch.float32
    torch.testing.assert_close(arrived, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.0, 1.0, (0.0, 1.0)),
        (0.5, 0.5, (-1.0, 1.0)),
        (*IMAGENET, (-0.485 / 0.229, (1 - 0.406) / 0.225)),
    ],
)
def test_value_range_is_that_of_black_and_white(
    mean: Any, std: Any, expected: tuple[float, float]
) -> None:
    transform = match_real(mean, std)
    assert transform.value_range == pytest.approx(expected)
    arrived = transform(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4))
    assert (arrived.min().item(), arrived.max().item()) == pytest.approx(expected)


# Sizes


@pytest.mark.parametrize("size", [(24, 24), (10, 10), (12, 20), (16, 16)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 18)])
def test_images_are_resized_as_by_torchvision_and_nothing_is_cut_off(
    size: tuple[int, int], height: int, width: int
) -> None:
    given = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    arrived = match_real(size=size)(given)
    expected = v2.functional.resize(given / 2 + 0.5, list(size), antialias=True)
    torch.testing.assert_close(arrived, expected, rtol=0, atol=1e-6)


def test_a_number_stands_for_a_square() -> None:
    transform = match_real(size=24)
    assert transform.size == (24, 24)
    assert torch.equal(transform(numbered(16, 16)), match_real(size=(24, 24))(numbered(16, 16)))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (12, 15), (15, 12)])
def test_with_resize_they_are_cropped_from_that_size(height: int, width: int) -> None:
    with isolated_rng(0, CPU):
        cropped = match_real(size=10, resize=12)(numbered(height, width, 200))
    assert cropped.shape == (200, 3, 10, 10)
    windows = (numbered(height, width)[0, 0] / 2 + 0.5).unfold(0, 10, 1).unfold(1, 10, 1)
    windows = windows.reshape(-1, 10, 10)
    found = [(windows - image[0]).abs().amax((1, 2)).min() for image in cropped]
    assert max(found) < 1e-6
    # Each image gets a place of its own, and every place is reached.
    assert len(cropped[:, 0, 0, 0].unique()) == (height - 9) * (width - 9)


@pytest.mark.parametrize("axis", [-1, -2])
def test_resize_goes_by_the_short_side_and_keeps_the_proportions(axis: int) -> None:
    # A slope along the long side, which is cut at half its length once the short side fits.
    slope = torch.linspace(-1, 1, 32).expand(1, 3, 16, 32)
    arrived = match_real(size=32, resize=32)(slope if axis == -1 else slope.mT)
    rise = arrived.diff(dim=axis).sum(axis).mean().item()
    assert rise == pytest.approx(0.5, abs=0.03)
    assert arrived.diff(dim=-3 - axis).abs().max() < 1e-6


def test_images_of_the_right_size_are_not_touched() -> None:
    before = torch.get_rng_state()
    arrived = match_real(size=16)(numbered(16, 16))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(arrived, numbered(16, 16) / 2 + 0.5)


@pytest.mark.parametrize("size", [None, 8, 16, 24])
def test_no_images_are_an_empty_batch(size: int | None) -> None:
    arrived = match_real(size=size)(torch.zeros(0, 3, 16, 16))
    assert arrived.shape == (0, 3, size or 16, size or 16)


# Augmentation


class Recording(nn.Module):
    """Keeps what it was given, and inverts it."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.clone()
        return 1 - images


def test_augmentation_sees_images_in_0_to_1_at_the_cgns_size() -> None:
    augment = Recording()
    images = numbered(16, 16, 3)
    with isolated_rng(0, CPU):
        inverted = match_real(0.5, 0.5, size=8, resize=16, augment=augment)(images)
    torch.testing.assert_close(augment.seen, numbered(16, 16, 3) / 2 + 0.5)
    assert torch.equal(images, numbered(16, 16, 3))
    with isolated_rng(0, CPU):
        plain = match_real(0.5, 0.5, size=8, resize=16)(numbered(16, 16, 3))
    torch.testing.assert_close(inverted, -plain)


def test_augmentation_and_crop_follow_the_isolated_generators() -> None:
    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5), K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1.0), data_keys=["input"]
    )
    transform, arrived = match_real(*IMAGENET, size=12, resize=14, augment=augment), []
    for seed in (1, 2, 1):
        with isolated_rng(seed, CPU):
            arrived.append(transform(numbered(16, 16, 6)))
    assert torch.equal(arrived[0], arrived[2])
    assert not torch.equal(arrived[0], arrived[1])


def test_the_augmentation_is_a_part_of_the_module() -> None:
    augment = nn.Sequential(K.RandomHorizontalFlip(p=1.0))
    transform = match_real(augment=augment)
    assert isinstance(transform, MatchReal)
    assert augment in transform.children()
    assert transform.state_dict() == {}
    flipped = transform(numbered(4, 4))
    torch.testing.assert_close(flipped, numbered(4, 4).flip(-1) / 2 + 0.5)


@pytest.mark.gpu
def test_the_transform_follows_the_images_to_a_gpu() -> None:
    transform = match_real(*IMAGENET, size=16)
    arrived = transform(numbered(16, 16).cuda())
    assert arrived.device.type == "cuda"
    torch.testing.assert_close(arrived.cpu(), match_real(*IMAGENET)(numbered(16, 16)))


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"mean": (0.5, 0.5)},
            ArgumentError,
            r"mean must be one number or three, got \(0.5",
        ),
        ({"mean": math.nan}, ArgumentError, "mean must be one number or three, got nan"),
        ({"std": (0.5, math.inf, 0.5)}, ArgumentError, "std must be one number or three, got"),
        ({"std": (0.2, 0.0, 0.2)}, ArgumentError, r"std must be above 0, got \(0.2, 0.0, 0.2\)"),
        ({"std": -1.0}, ArgumentError, r"std must be above 0, got -1.0"),
        ({"mean": (123.7, 116.3, 103.5)}, ArgumentError, r"of images in \[0, 1\], .* by 255"),
        ({"mean": 224}, ArgumentError, "got 224: .* a size is size=…"),
        ({"size": 0}, ArgumentError, "size must be 1 or more, got 0"),
        ({"size": (16, 0)}, ArgumentError, "size must be 1 or more, got 0"),
        ({"size": (16, 16, 3)}, ArgumentError, r"one number or \(height, width\), got \(16"),
        ({"resize": 16}, ArgumentError, "resize is what a crop of size is taken from: pass size"),
        ({"size": 16, "resize": 15}, ArgumentError, r"resize \(15, 15\) is smaller than size"),
        ({"size": 16, "resize": (18, 12)}, ArgumentError, r"resize \(18, 12\) is smaller than"),
        ({"mean": None}, ArgumentTypeError, "mean must be one number or three, got None"),
        ({"std": [0.1, "0.2", 0.3]}, ArgumentTypeError, "std must be one number or three, got"),
        ({"size": 16.0}, ArgumentTypeError, r"size must be an integer, got 16\.0"),
        ({"size": (16, "16")}, ArgumentTypeError, "size must be an integer, got '16'"),
        ({"augment": [K.RandomHorizontalFlip()]}, ArgumentTypeError, "must be a module of kornia"),
    ],
)
def test_arguments_that_cannot_be_used_are_errors(
    arguments: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        match_real(**arguments)
