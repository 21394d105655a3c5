"""The losses that only the ImageNet CGN has, and those of its six that have other homes."""

from __future__ import annotations

import math

import pytest
import torch
from imagenet_training_helpers import tiny_features

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from train_generator.imagenet.losses import background_loss, reconstruction_loss
from train_generator.losses.functional import mask_entropy_loss, mask_size_loss
from train_generator.losses.perceptual import perceptual_loss, released_gram_weights


def test_reconstruction_is_the_mean_absolute_difference() -> None:
    generated = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).view(2, 1, 1, 2).expand(2, 3, 1, 2)
    target = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2).expand(2, 3, 1, 2)
    assert reconstruction_loss(generated, target).item() == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_only_generated_images_get_gradients_of_a_reconstruction() -> None:
    generated = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    target = torch.zeros(1, 3, 2, 2, requires_grad=True)
    reconstruction_loss(generated, target).backward()
    assert generated.grad is not None
    torch.testing.assert_close(generated.grad, torch.full_like(generated, 1 / 12))
    assert target.grad is None


def test_the_background_is_to_have_no_object() -> None:
    saliency = torch.tensor([0.0, 1.0, 0.25, 0.75]).view(2, 1, 1, 2).requires_grad_()
    loss = background_loss(saliency)
    assert loss.item() == 0.5
    loss.backward()
    assert saliency.grad is not None
    assert torch.equal(saliency.grad, torch.full_like(saliency, 0.25))


def test_the_masks_losses_have_their_published_forms() -> None:
    mask = torch.tensor([0.25, 0.95]).view(2, 1, 1, 1)

    def entropy(p: float) -> float:
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    expected = (entropy(0.25) + entropy(0.95)) / 2
    assert mask_entropy_loss(mask).item() == pytest.approx(expected)
    assert mask_size_loss(mask).item() == pytest.approx((0 + 0.05) / 2, abs=1e-6)
    assert mask_size_loss(torch.full((1, 1, 2, 2), 0.04)).item() == pytest.approx(0.06)


def test_the_published_gram_weights_are_squared_and_multiplied() -> None:
    assert released_gram_weights((4, 4, 4, 4)) == (80_000.0,) * 4
    assert released_gram_weights((0, 5, 5, 0)) == (0.0, 125_000.0, 125_000.0, 0.0)


def test_the_gram_loss_is_by_hand_what_it_is(generator: torch.Generator) -> None:
    images, sheets = torch.rand(2, 2, 3, 16, 16, generator=generator) * 2 - 1
    weights = released_gram_weights((0.0, 0.02, 0.01, 0.0))
    expected = 0.0
    for k in (1, 2):
        grams = []
        for each in (images, sheets):
            maps = tiny_features()(each)[k].flatten(2)
            num = maps.shape[1] * maps.shape[2]
            grams.append(torch.einsum("bip,bjp->bij", maps, maps) / num)
        expected += weights[k] * (grams[0] - grams[1]).abs().mean().item()
    assert perceptual_loss(tiny_features(), images, sheets, weights).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_images_that_do_not_fit_are_errors() -> None:
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ArgumentError, match=r"same shape, got \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        reconstruction_loss(images, images[:1])
    with pytest.raises(ArgumentTypeError, match="target must be floating point"):
        reconstruction_loss(images, images.to(torch.uint8))
    with pytest.raises(ArgumentError, match="saliency must not be empty"):
        background_loss(images[:0])
