"""The losses: closed forms, gradients, messages."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from train_generator.losses.functional import (
    gram_matrix,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kl_loss,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
    mask_border_loss,
    mask_entropy_loss,
    mask_size_loss,
)

DTYPES = [torch.float32, torch.float64]


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    """Random float64 numbers to differentiate at."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def draw_mask(generator: torch.Generator, *shape: int) -> Tensor:
    """A random float64 mask in [0.05, 0.95]."""
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (0.05 + 0.9 * values).requires_grad_()


# every loss


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_loss_is_a_scalar_of_its_arguments_dtype(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    scores = torch.randn(4, 1, generator=generator, dtype=dtype)
    mask = torch.rand(4, 1, 8, 8, generator=generator, dtype=dtype)
    losses = [
        lsgan_generator_loss(scores),
        lsgan_discriminator_loss(scores, scores),
        hinge_generator_loss(scores),
        hinge_discriminator_loss(scores, scores),
        mask_border_loss(mask, 2),
        mask_entropy_loss(mask),
        mask_size_loss(mask),
    ]
    for loss in losses:
        assert loss.shape == ()
        assert loss.dtype == dtype


def test_gradients_are_those_of_finite_differences(generator: torch.Generator) -> None:
    scores, others = draw(generator, 4, 1), draw(generator, 3, 1)
    assert torch.autograd.gradcheck(lsgan_generator_loss, scores)
    assert torch.autograd.gradcheck(lsgan_discriminator_loss, (scores, others))
    assert torch.autograd.gradcheck(hinge_generator_loss, scores)
    assert torch.autograd.gradcheck(hinge_discriminator_loss, (scores, others))
    mask = draw_mask(generator, 3, 1, 4, 4)
    assert torch.autograd.gradcheck(mask_entropy_loss, mask)
    assert torch.autograd.gradcheck(lambda m: mask_border_loss(m, 1), mask)
    # The means are about 0.5, so every image is away from the corners of the loss.
    for low, high in ((0.1, 0.2), (0.1, 0.9), (0.8, 0.9)):
        assert torch.autograd.gradcheck(lambda m, a=low, b=high: mask_size_loss(m, a, b), mask)
    assert torch.autograd.gradcheck(gram_matrix, draw(generator, 2, 3, 2, 2))


# lsgan


def test_the_generators_loss_is_the_squared_distance_from_one() -> None:
    scores = torch.tensor([[1.0], [3.0], [-1.0], [0.5]])
    assert lsgan_generator_loss(scores).item() == (0 + 4 + 4 + 0.25) / 4


def test_the_discriminators_loss_is_the_mean_of_real_and_generated() -> None:
    real, generated = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    assert lsgan_discriminator_loss(real, generated).item() == (4 / 2 + 4 / 2) / 2
    assert lsgan_discriminator_loss(torch.ones(2, 1), torch.zeros(2, 1)).item() == 0
    assert lsgan_discriminator_loss(torch.zeros(2, 1), torch.ones(2, 1)).item() == 1


def test_real_and_generated_count_the_same_however_many_there_are() -> None:
    few, many = torch.full((1, 1), 3.0), torch.full((9, 1), 1.0)
    assert lsgan_discriminator_loss(few, many).item() == (4 + 1) / 2


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (lsgan_generator_loss, ["scores"]),
        (hinge_generator_loss, ["scores"]),
        (lsgan_discriminator_loss, ["real_scores", "generated_scores"]),
        (hinge_discriminator_loss, ["real_scores", "generated_scores"]),
    ],
)
@pytest.mark.parametrize("position", [0, -1])
def test_scores_that_cannot_be_used_are_errors(
    loss: Callable[..., Tensor], names: list[str], position: int
) -> None:
    scores, name = [torch.zeros(2, 1) for _ in names], names[position]
    scores[position] = torch.zeros(0, 1)
    with pytest.raises(ArgumentError, match=rf"^{name} must not be empty, got the shape \(0, 1\)"):
        loss(*scores)
    scores[position] = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ArgumentTypeError, match=f"^{name} must be floating point, got torch.int64"):
        loss(*scores)


# hinge


def test_the_hinge_generators_loss_is_minus_the_mean() -> None:
    scores = torch.tensor([[1.0], [3.0], [-1.0], [0.5]], requires_grad=True)
    loss = hinge_generator_loss(scores)
    loss.backward()
    assert loss.item() == -3.5 / 4
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == [-0.25] * 4


def test_the_hinge_discriminators_loss_ends_where_scores_are_far_enough() -> None:
    real = torch.tensor([[2.0], [1.0], [0.5], [-1.0]], requires_grad=True)
    generated = torch.tensor([[-3.0], [0.5]], requires_grad=True)
    loss = hinge_discriminator_loss(real, generated)
    loss.backward()
    assert loss.item() == (0 + 0 + 0.5 + 2) / 4 + (0 + 1.5) / 2
    assert real.grad is not None
    assert generated.grad is not None
    assert real.grad.flatten().tolist() == [0, 0, -0.25, -0.25]
    assert generated.grad.flatten().tolist() == [0, 0.5]
    assert hinge_discriminator_loss(torch.zeros(3, 1), torch.zeros(5, 1)).item() == 2


# mask border


@pytest.mark.parametrize("border", [1, 2, 3])
def test_the_border_loss_is_the_mean_of_the_pixels_near_the_edge(
    border: int, generator: torch.Generator
) -> None:
    mask = draw_mask(generator, 3, 1, 7, 9)
    rows = torch.arange(7).minimum(6 - torch.arange(7))
    columns = torch.arange(9).minimum(8 - torch.arange(9))
    near = torch.minimum(rows[:, None], columns[None, :]) < border
    expected = mask[:, 0, near].mean()
    torch.testing.assert_close(mask_border_loss(mask, border), expected)
    mask_border_loss(mask, border).backward()
    assert mask.grad is not None
    assert torch.equal(mask.grad != 0, near.expand(3, 1, 7, 9))
    torch.testing.assert_close(mask.grad.max().item(), 1 / (3 * near.sum().item()))


@pytest.mark.parametrize("border", [0, -1, 2, 3])
def test_a_border_that_does_not_fit_is_an_error(border: int) -> None:
    with pytest.raises(ArgumentError, match=f"1 or more and less than half of 4, got {border}"):
        mask_border_loss(torch.zeros(1, 1, 4, 9), border)


# mask entropy


@pytest.mark.parametrize("m", [1e-4, 0.1, 0.25, 0.5, 0.75, 0.9999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_entropy_is_the_binary_entropy_in_bits(m: float, dtype: torch.dtype) -> None:
    expected = -m * math.log2(m) - (1 - m) * math.log2(1 - m)
    loss = mask_entropy_loss(torch.full((2, 1, 4, 4), m, dtype=dtype))
    # Next to 1, float32 keeps three digits of the 1e-4 that are left.
    assert loss.item() == pytest.approx(expected, rel=1e-3 if dtype == torch.float32 else 1e-12)


def test_mask_entropy_is_a_mean_over_images_and_pixels() -> None:
    mask = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]).view(4, 1, 1, 2)
    assert mask_entropy_loss(mask).item() == 2 / 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_decided_mask_has_no_entropy_and_a_finite_gradient(dtype: torch.dtype) -> None:
    mask = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    loss = mask_entropy_loss(mask)
    loss.backward()
    assert loss.item() == 0
    # A mean of two pixels; the logarithm ends at epsilon.
    slope = (-math.log2(torch.finfo(dtype).eps) + 1 / math.log(2)) / 2
    assert mask.grad is not None
    assert mask.grad.tolist() == pytest.approx([slope, -slope], rel=1e-6)


# mask size


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.0, 0.1), (0.04, 0.06), (0.1, 0), (0.5, 0), (0.9, 0), (1.0, 0.1)]
)
def test_mask_size_costs_what_it_is_outside_of_the_bounds(mean: float, expected: float) -> None:
    mask = torch.full((3, 1, 8, 8), mean, dtype=torch.float64)
    assert mask_size_loss(mask).item() == pytest.approx(expected, abs=1e-12)


def test_mask_size_is_judged_for_each_image_by_its_mean() -> None:
    masks = torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    masks[1] = 1
    masks[2, 0, 0, 0] = 1  # a quarter of the image
    masks[3, 0, 0] = 1  # a half
    assert masks.mean() == 0.4375  # a batch that would cost nothing as a whole
    expected = (0.3 + 0.4 + 0.05 + 0) / 4
    assert mask_size_loss(masks, low=0.3, high=0.6).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.4), (-0.1, 0.9), (0.1, 1.1), (math.nan, 0.9)])
def test_bounds_that_do_not_fit_are_an_error(low: float, high: float) -> None:
    with pytest.raises(ArgumentError, match=f"0 <= low <= high <= 1, got {low} and {high}"):
        mask_size_loss(torch.rand(1, 1, 2, 2), low, high)


@pytest.mark.parametrize("loss", [mask_size_loss, lambda mask: mask_border_loss(mask, 1)])
def test_sizes_and_borders_are_of_images(loss: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ArgumentError, match=r"shape \(B, 1, H, W\), got \(4, 4\)"):
        loss(torch.rand(4, 4))


@pytest.mark.parametrize(
    "loss", [mask_entropy_loss, mask_size_loss, lambda mask: mask_border_loss(mask, 1)]
)
def test_masks_that_cannot_be_used_are_errors(loss: Callable[[Tensor], Tensor]) -> None:
    mask = torch.full((1, 1, 4, 4), 0.5)
    for value in (-0.25, 1.5):
        mask[0, 0, 0, 0] = value
        least, most = sorted((value, 0.5))
        with pytest.raises(ArgumentError, match=rf"in \[0, 1\], got {least:g} to {most:g}: clamp"):
            loss(mask)
    mask[0, 0, 0, 0] = math.nan
    with pytest.raises(ArgumentError, match="got nan to nan"):
        loss(mask)
    with pytest.raises(ArgumentError, match=r"^mask must not be empty"):
        loss(mask[:0])
    with pytest.raises(ArgumentTypeError, match=r"^mask must be floating point, got torch.bool"):
        loss(mask > 0)


# gram


def test_a_gram_matrix_sums_products_of_channels_over_positions(
    generator: torch.Generator,
) -> None:
    features = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bihw,bjhw->bij", features, features) / (3 * 4 * 5)
    torch.testing.assert_close(gram_matrix(features), expected)


def test_a_gram_matrix_needs_feature_maps() -> None:
    with pytest.raises(ArgumentError, match=r"^features must have the shape .*, got \(2, 3\)"):
        gram_matrix(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"^features must not be empty"):
        gram_matrix(torch.zeros(0, 3, 4, 4))


# Autoencoders


def test_the_divergence_is_that_of_two_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    gaussian = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros(5, 7).double(), torch.ones(5, 7).double())
    expected = torch.distributions.kl_divergence(gaussian, standard).sum(dim=1).mean()
    torch.testing.assert_close(kl_loss(mean, log_variance), expected)
    assert kl_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0
    inputs = mean.requires_grad_(), log_variance.requires_grad_()
    assert torch.autograd.gradcheck(kl_loss, inputs)
