"""The network that finds masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import isolated_rng
from cgn_augment.masks import UNetMasker


def make_masker() -> UNetMasker:
    with isolated_rng(0, torch.device("cpu")):
        return UNetMasker(4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 20)])
def test_each_image_gets_a_mask(height: int, width: int, generator: torch.Generator) -> None:
    masker = make_masker().eval()
    images = torch.rand(3, 3, height, width, generator=generator) * 2 - 1
    mask = masker(images)
    assert mask.shape == (3, 1, height, width)
    assert mask.dtype == torch.float32
    assert 0 < mask.min() < mask.max() < 1
    torch.testing.assert_close(mask, masker.logits(images).sigmoid())
    torch.testing.assert_close(masker(images[1:2]), mask[1:2])


def test_a_pixel_of_the_mask_sees_all_of_the_image(generator: torch.Generator) -> None:
    masker = make_masker().eval()
    images = (torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1).requires_grad_()
    masker.logits(images)[0, 0, 16, 16].backward()
    assert (images.grad != 0).any(dim=1).all()


@pytest.mark.parametrize("coarse", ["at_half", "at_quarter"])
def test_each_resolution_has_a_way_past_the_coarser_ones(
    coarse: str, generator: torch.Generator
) -> None:
    masker = make_masker().eval()
    images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    getattr(masker, coarse).register_forward_hook(lambda _module, _inputs, out: out * 0)
    first, second = masker.logits(images)
    assert (first - second).abs().max() > 1e-5


def test_every_weight_of_the_masker_learns(generator: torch.Generator) -> None:
    masker = make_masker()
    masker(torch.rand(4, 3, 32, 32, generator=generator)).mean().backward()
    for name, parameter in masker.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_size_of_the_masker_is_the_documented_one_and_its_width_is_some() -> None:
    assert round(sum(p.numel() for p in UNetMasker().parameters()) / 1000) == 107
    with pytest.raises(ArgumentError, match="width must be 1 or more, got 0"):
        UNetMasker(0)


@pytest.mark.parametrize(
    ("images", "error", "remedy"),
    [
        (torch.zeros(3, 32, 32), ArgumentError, "H and W multiples of 4"),
        (torch.zeros(2, 1, 32, 32), ArgumentError, r"\(B, 3, H, W\)"),
        (torch.zeros(2, 3, 30, 32), ArgumentError, "H and W multiples of 4"),
        (torch.zeros(2, 3, 32, 30), ArgumentError, "H and W multiples of 4"),
        (torch.zeros(2, 3, 32, 32).byte(), ArgumentTypeError, "scale them first"),
    ],
)
def test_images_of_another_kind_are_an_error(
    images: Tensor, error: type[Exception], remedy: str
) -> None:
    with pytest.raises(error, match=remedy):
        make_masker()(images)
