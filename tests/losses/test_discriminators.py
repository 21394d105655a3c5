"""The discriminators: what they see, their layers, messages."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import isolated_rng
from train_generator.losses.discriminators import (
    ConvDiscriminator,
    LinearDiscriminator,
    PatchDiscriminator,
)
from train_generator.losses.functional import lsgan_discriminator_loss
from train_generator.small.initialization import initialize

CPU = torch.device("cpu")
KINDS = (LinearDiscriminator, ConvDiscriminator, PatchDiscriminator)
each = pytest.mark.parametrize("kind", KINDS)


def make(kind: type[nn.Module], seed: int = 0, **arguments: int) -> nn.Module:
    with isolated_rng(seed, CPU):
        return kind(**arguments)


def draw_images(generator: torch.Generator, num: int = 4) -> tuple[Tensor, Tensor]:
    images = torch.rand(num, 3, 32, 32, generator=generator) * 2 - 1
    return images, torch.randint(10, (num,), generator=generator)


def score(discriminator: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """All scores of an image side by side: one, or 65 of the patch discriminator."""
    scores = discriminator(images, y)
    return torch.cat(scores, dim=1) if isinstance(scores, tuple) else scores


# each discriminator


@each
@pytest.mark.parametrize("training", [True, False])
def test_each_image_gets_a_score(
    kind: type[nn.Module], training: bool, generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8).train(training)
    for num in (1, 5):
        images, y = draw_images(generator, num)
        kept = images.clone()
        scores = score(discriminator, images, y)
        assert scores.shape == (num, 65 if kind is PatchDiscriminator else 1)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()
        assert torch.equal(images, kept)


@each
def test_a_score_depends_on_the_image_and_on_its_class_and_on_no_other(
    kind: type[nn.Module], generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8).eval()
    images, y = draw_images(generator)
    scores = score(discriminator, images, y)
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(score(discriminator, images, y.to(dtype)), scores)
    other_class, other_image = y.clone(), images.clone()
    other_class[1] = (y[1] + 1) % 10
    other_image[2] = -images[2]
    by_class = (score(discriminator, images, other_class) - scores).abs() > 1e-6
    by_image = (score(discriminator, other_image, y) - scores).abs() > 1e-6
    for changes, number in ((by_class, 1), (by_image, 2)):
        assert changes.any(dim=1).tolist() == [place == number for place in range(4)]
        assert changes[number].double().mean() > 0.9  # the places, not the whole alone


@each
def test_every_parameter_learns(kind: type[nn.Module], generator: torch.Generator) -> None:
    discriminator = make(kind, width=8)
    images, _ = draw_images(generator, 10)
    y = torch.arange(10)
    scores = score(discriminator, images, y), score(discriminator, -images, y)
    lsgan_discriminator_loss(*scores).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each
def test_arguments_that_cannot_be_used_are_errors(
    kind: type[nn.Module], generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8, num_classes=7)
    images = draw_images(generator)[0]
    y = torch.tensor([0, 1, 2, 6])
    discriminator(images, y)
    with pytest.raises(ArgumentError, match=r"\(B, 3, 32, 32\), got \(4, 3, 28, 28\)"):
        discriminator(images[..., :28, :28], y)
    with pytest.raises(ArgumentError, match=r"\(B, 3, 32, 32\), got \(4, 1, 32, 32\)"):
        discriminator(images[:, :1], y)
    with pytest.raises(ArgumentTypeError, match=r"must be floating point .*, got torch.uint8"):
        discriminator(images.byte(), y)
    with pytest.raises(ArgumentError, match=r"each of the 4 images, got the shape \(3,\)"):
        discriminator(images, y[:3])
    for wrong in (y.float(), y > 0):
        with pytest.raises(ArgumentTypeError, match=f"integer classes, got {wrong.dtype}"):
            discriminator(images, wrong)
    for wrong, found in (([0, 1, 2, 7], "0 to 7"), ([-1, 1, 2, 3], "-1 to 3")):
        with pytest.raises(ArgumentError, match=f"classes of 0 to 6, got {found}"):
            discriminator(images, torch.tensor(wrong))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[(kind, name) for kind in KINDS for name in ("num_classes", "width")],
        (LinearDiscriminator, "embedding_dim"),
        (PatchDiscriminator, "channels"),
    ],
)
def test_a_network_of_no_size_is_an_error(kind: type[nn.Module], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got 0"):
        kind(**{name: 0})


# linear


def test_the_linear_discriminator_has_the_papers_layers() -> None:
    shapes = {tuple(p.shape) for p in make(LinearDiscriminator).parameters() if p.dim() > 1}
    assert shapes == {(10, 10), (512, 3 * 32 * 32 + 10), (512, 512), (1, 512)}
    # Embedding, then four layers with their biases.
    expected = 100 + (3082 * 512 + 512) + 2 * (512 * 512 + 512) + (512 + 1)
    assert sum(p.numel() for p in make(LinearDiscriminator).parameters()) == expected


def test_the_linear_discriminator_is_four_matrix_products(generator: torch.Generator) -> None:
    discriminator = make(LinearDiscriminator, width=8).double().eval()
    images, y = draw_images(generator)
    images = images.double()
    hidden = torch.stack(
        [
            torch.cat([image.reshape(-1), discriminator.label_embedding.weight[label]])
            for image, label in zip(images, y.tolist(), strict=True)
        ]
    )
    layers = [part for part in discriminator.modules() if isinstance(part, nn.Linear)]
    assert len(layers) == 4
    for depth, layer in enumerate(layers):
        hidden = hidden @ layer.weight.T + layer.bias
        if depth < 3:
            hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    torch.testing.assert_close(discriminator(images, y), hidden)


def test_dropout_is_on_the_two_middle_layers(generator: torch.Generator) -> None:
    discriminator = make(LinearDiscriminator).train()
    shares = []

    def measure(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shares.append((inputs[0] == 0).double().mean().item())

    for part in discriminator.modules():
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(measure)
    images, y = draw_images(generator, 32)
    with isolated_rng(0, CPU):
        discriminator(images, y)
    # 32 * 512 units: the standard deviation of a share of 0.4 is 0.004.
    assert shares == pytest.approx([0, 0, 0.4, 0.4], abs=0.02)
    shares.clear()
    discriminator.eval()(images, y)
    assert shares == pytest.approx([0, 0, 0, 0], abs=1e-3)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_a_dropout_that_cannot_be_used_is_an_error(dropout: float) -> None:
    with pytest.raises(ArgumentError, match=rf"dropout must be in \[0, 1\), got {dropout}"):
        LinearDiscriminator(dropout=dropout)


# conv


def test_the_conv_discriminator_has_the_papers_layers() -> None:
    shapes = [tuple(p.shape) for p in make(ConvDiscriminator).parameters() if p.dim() > 1]
    assert shapes == [
        (10, 1024),
        (32, 4, 3, 3),
        (64, 32, 3, 3),
        (128, 64, 4, 4),
        (128, 128, 4, 4),
        (1, 128, 1, 1),
    ]
    vectors = [len(p) for p in make(ConvDiscriminator).parameters() if p.dim() == 1]
    # Scale and offset of each normalisation; a bias for the last convolution alone.
    assert vectors == [32, 32, 64, 64, 128, 128, 128, 128, 1]


def test_the_conv_discriminator_is_its_blocks_in_order(generator: torch.Generator) -> None:
    discriminator = make(ConvDiscriminator, width=4).double()
    initialize(discriminator, "normal", 0.3, generator=generator)
    images, y = draw_images(generator)
    images = images.double()
    maps = torch.stack([discriminator.label_embedding.weight[label] for label in y.tolist()])
    hidden = torch.cat([images, maps.reshape(4, 1, 32, 32)], dim=1)
    convs = [part for part in discriminator.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in discriminator.modules() if isinstance(part, nn.BatchNorm2d)]
    assert (len(convs), len(norms)) == (5, 4)
    sizes = []
    for conv, norm, stride in zip(convs, norms, (1, 1, 2, 2), strict=False):
        hidden = F.conv2d(hidden, conv.weight, stride=stride)
        sizes.append(hidden.shape[-1])
        mean = hidden.mean(dim=(0, 2, 3), keepdim=True)
        variance = hidden.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1)
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    assert sizes == [30, 28, 13, 5]
    pooled = hidden[:, :, :3, :3].mean(dim=(2, 3))
    expected = pooled @ convs[4].weight.view(1, -1).T
    torch.testing.assert_close(discriminator.train()(images, y), expected)


def test_the_conv_discriminator_sees_the_upper_left_22_pixels_alone(
    generator: torch.Generator,
) -> None:
    discriminator = make(ConvDiscriminator, width=8).eval()
    images, y = draw_images(generator)
    images.requires_grad_()
    discriminator(images, y).sum().backward()
    assert images.grad is not None
    seen = (images.grad != 0).any(dim=0).any(dim=0)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[:22, :22] = True
    assert torch.equal(seen, expected)


# patch


def make_patch(**arguments: int) -> nn.Module:
    return make(PatchDiscriminator, **{"width": 4, **arguments})


def test_each_place_sees_its_own_pixels_and_the_whole_sees_all(generator: torch.Generator) -> None:
    discriminator = make_patch().eval()
    images, y = draw_images(generator)

    def seen(value: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(value.sum(), images, retain_graph=True)
        return (gradient != 0).any(dim=0).any(dim=0)

    patches, whole = discriminator(images.requires_grad_(), y)
    assert seen(whole).all()
    assert seen(patches).all()
    for row, column in ((0, 0), (4, 5), (7, 7)):
        # Two strided convolutions see 10 pixels, the third one place more on each side.
        expected = torch.zeros(32, 32, dtype=torch.bool)
        top, left = 4 * row - 3 - 4, 4 * column - 3 - 4
        expected[max(top, 0) : top + 18, max(left, 0) : left + 18] = True
        assert torch.equal(seen(patches[:, 8 * row + column]), expected)


def test_a_class_is_an_inner_product_with_the_features(generator: torch.Generator) -> None:
    discriminator = make_patch().eval()
    images, y = draw_images(generator)
    patches, whole = discriminator(images, y)
    features = discriminator.patches(images)
    others = discriminator.whole(features)
    for number, label in enumerate(y.tolist()):
        vector = discriminator.score_patches.weight[0, :, 0, 0]
        vector = vector + discriminator.patch_classes.weight[label]
        expected = vector @ features[number].flatten(1) + discriminator.score_patches.bias
        torch.testing.assert_close(patches[number], expected)
        vector = discriminator.score_whole.weight[0] + discriminator.whole_classes.weight[label]
        expected = vector @ others[number] + discriminator.score_whole.bias
        torch.testing.assert_close(whole[number], expected)


def test_the_largest_singular_value_of_every_layer_is_about_one(
    generator: torch.Generator,
) -> None:
    discriminator = make_patch().train()
    with torch.no_grad():
        for name, weight in discriminator.named_parameters():
            if name.endswith("original"):
                weight.mul_(7)
    images, y = draw_images(generator)
    for _ in range(100):
        discriminator(images, y)
    discriminator.eval()
    layers = [
        part
        for part in discriminator.modules()
        if isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding)
    ]
    assert len(layers) == 3 + 2 + 2 + 2
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
        assert largest == pytest.approx(1, abs=0.02)


def test_a_patch_discriminator_of_masks_sees_one_channel() -> None:
    discriminator, y = make_patch(channels=1), torch.arange(2)
    assert discriminator(torch.zeros(2, 1, 32, 32), y)[0].shape == (2, 64)
    with pytest.raises(ArgumentError, match=r"\(B, 1, 32, 32\), got \(2, 3, 32, 32\)"):
        discriminator(torch.zeros(2, 3, 32, 32), y)


def test_a_larger_patch_discriminator_sees_larger_images() -> None:
    discriminator = PatchDiscriminator(width=4, image_size=64)
    patches, whole = discriminator(torch.zeros(2, 3, 64, 64), torch.arange(2))
    assert (patches.shape, whole.shape) == ((2, 256), (2, 1))
    with pytest.raises(ArgumentError, match="3, 64, 64"):
        discriminator(torch.zeros(2, 3, 32, 32), torch.arange(2))
    for wrong in (16, 48):
        with pytest.raises(ArgumentError, match="image_size must be"):
            PatchDiscriminator(image_size=wrong)
