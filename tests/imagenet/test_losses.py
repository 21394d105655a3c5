"""The losses that only the ImageNet CGN has."""

from __future__ import annotations

import pytest
import torch

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from train_generator.imagenet.losses import background_loss, reconstruction_loss


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


def test_images_that_do_not_fit_are_errors() -> None:
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ArgumentError, match=r"same shape, got \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        reconstruction_loss(images, images[:1])
    with pytest.raises(ArgumentTypeError, match="target must be floating point"):
        reconstruction_loss(images, images.to(torch.uint8))
    with pytest.raises(ArgumentError, match="saliency must not be empty"):
        background_loss(images[:0])
