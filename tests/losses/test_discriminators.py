"""The discriminators, and how networks are initialised."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment import SmallCGN
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import isolated_rng
from train_generator.losses.discriminators import (
    ConvDiscriminator,
    LinearDiscriminator,
    PatchDiscriminator,
)
from train_generator.losses.functional import hinge_discriminator_loss, lsgan_discriminator_loss
from train_generator.small.initialization import initialize

CPU = torch.device("cpu")
KINDS = (LinearDiscriminator, ConvDiscriminator)
both = pytest.mark.parametrize("kind", KINDS)


def make(kind: type[nn.Module], seed: int = 0, **arguments: int) -> nn.Module:
    with isolated_rng(seed, CPU):
        return kind(**arguments)


def draw_images(generator: torch.Generator, num: int = 4) -> tuple[Tensor, Tensor]:
    images = torch.rand(num, 3, 32, 32, generator=generator) * 2 - 1
    return images, torch.randint(10, (num,), generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# both discriminators


@both
@pytest.mark.parametrize("training", [True, False])
def test_each_image_gets_a_score(
    kind: type[nn.Module], training: bool, generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8).train(training)
    for num in (1, 5):
        images, y = draw_images(generator, num)
        scores = discriminator(images, y)
        assert scores.shape == (num, 1)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()


@both
def test_a_score_depends_on_the_image_and_on_its_class_and_on_no_other(
    kind: type[nn.Module], generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8).eval()
    images, y = draw_images(generator)
    scores = discriminator(images, y)
    other_class, other_image = y.clone(), images.clone()
    other_class[1] = (y[1] + 1) % 10
    other_image[2] = -images[2]
    by_class = discriminator(images, other_class) - scores
    by_image = discriminator(other_image, y) - scores
    assert (by_class.abs() > 1e-5).flatten().tolist() == [False, True, False, False]
    assert (by_image.abs() > 1e-5).flatten().tolist() == [False, False, True, False]


@both
def test_every_parameter_learns(kind: type[nn.Module], generator: torch.Generator) -> None:
    discriminator = make(kind, width=8)
    images, _ = draw_images(generator, 10)
    y = torch.arange(10)
    loss = lsgan_discriminator_loss(discriminator(images, y), discriminator(-images, y))
    loss.backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@both
def test_classes_of_any_integer_type_give_the_same_scores(
    kind: type[nn.Module], generator: torch.Generator
) -> None:
    discriminator = make(kind, width=8).eval()
    images, y = draw_images(generator)
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(discriminator(images, y.to(dtype)), discriminator(images, y))


@both
def test_arguments_are_left_as_they_are(kind: type[nn.Module], generator: torch.Generator) -> None:
    images, y = draw_images(generator)
    kept = images.clone(), y.clone()
    make(kind, width=8)(images, y)
    assert torch.equal(images, kept[0])
    assert torch.equal(y, kept[1])


@both
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
        *[(LinearDiscriminator, name) for name in ("num_classes", "width", "embedding_dim")],
        *[(ConvDiscriminator, name) for name in ("num_classes", "width")],
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


def test_dropout_follows_the_seed(generator: torch.Generator) -> None:
    discriminator = make(LinearDiscriminator, width=32).train()
    images, y = draw_images(generator)
    scores = []
    for seed in (3, 3, 4):
        with isolated_rng(seed, CPU):
            scores.append(discriminator(images, y))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[1], scores[2])


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


def score(discriminator: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """Both heads side by side, (B, 65)."""
    return torch.cat(discriminator(images, y), dim=1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_patch_discriminator_scores_places_and_the_whole(
    channels: int, training: bool, generator: torch.Generator
) -> None:
    discriminator = make_patch(channels=channels).train(training)
    for num in (1, 5):
        images, y = draw_images(generator, num)
        patches, whole = discriminator(images[:, :channels], y)
        assert (patches.shape, whole.shape) == ((num, 64), (num, 1))
        assert patches.dtype == whole.dtype == torch.float32


def test_patch_scores_depend_on_the_image_and_its_class_and_on_no_other(
    generator: torch.Generator,
) -> None:
    images, y = draw_images(generator)
    other_class, other_image = y.clone(), images.clone()
    other_class[1] = (y[1] + 1) % 10
    other_image[2] = -images[2]
    # Without batch statistics this holds in training mode too, but for the spectral norm's step.
    discriminator = make_patch().eval()
    scores = score(discriminator, images, y)
    by_class = (score(discriminator, images, other_class) - scores).abs() > 1e-6
    by_image = (score(discriminator, other_image, y) - scores).abs() > 1e-6
    for changes, number in ((by_class, 1), (by_image, 2)):
        assert changes.any(dim=1).tolist() == [place == number for place in range(4)]
        assert changes[number].double().mean() > 0.9  # the places, not the whole alone
        assert changes[number, -1]


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


def test_every_weight_of_the_patch_discriminator_learns(generator: torch.Generator) -> None:
    discriminator, y = make_patch(), torch.arange(10)
    images = draw_images(generator, 10)[0]
    real, generated = discriminator(images, y), discriminator(-images, y)
    losses = [hinge_discriminator_loss(a, b) for a, b in zip(real, generated, strict=True)]
    sum(losses).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        # A constant counts for real and generated images alike, and so for neither.
        if not name.startswith("score") or not name.endswith("bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_arguments_that_the_patch_discriminator_cannot_use_are_errors(
    generator: torch.Generator,
) -> None:
    discriminator = make_patch(channels=1, num_classes=7)
    images, y = draw_images(generator)[0], torch.tensor([0, 1, 2, 6])
    with pytest.raises(ArgumentError, match=r"\(B, 1, 32, 32\), got \(4, 3, 32, 32\)"):
        discriminator(images, y)
    images = images[:, :1]
    discriminator(images, y.to(torch.uint8))
    with pytest.raises(ArgumentTypeError, match=r"must be floating point .*, got torch.uint8"):
        discriminator(images.byte(), y)
    with pytest.raises(ArgumentError, match=r"each of the 4 images, got the shape \(3,\)"):
        discriminator(images, y[:3])
    with pytest.raises(ArgumentTypeError, match=r"integer classes, got torch.float32"):
        discriminator(images, y.float())
    with pytest.raises(ArgumentError, match="classes of 0 to 6, got 1 to 8"):
        discriminator(images, y + torch.tensor([1, 1, 1, 2]))


@pytest.mark.parametrize("name", ["channels", "num_classes", "width"])
def test_a_patch_discriminator_of_no_size_is_an_error(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got 0"):
        PatchDiscriminator(**{name: 0})


# initialisation


def test_normal_weights_have_the_gain_as_deviation() -> None:
    discriminator = make(LinearDiscriminator)
    initialize(discriminator, "normal", 0.03, generator=seeded())
    for part in discriminator.modules():
        if isinstance(part, nn.Linear) and part.out_features > 1:
            # 262 144 numbers or more: the relative error of the deviation is 0.0014.
            assert part.weight.std().item() == pytest.approx(0.03, rel=0.01)
            assert part.weight.mean().item() == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("gain", [0.1, 0.2])
def test_orthogonal_weights_are_orthogonal_times_the_gain(gain: float) -> None:
    cgn = SmallCGN(width=4)
    initialize(cgn, "orthogonal", gain, generator=seeded())
    num_checked = 0
    for part in cgn.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            matrix = part.weight.detach().flatten(1).double()
            if matrix.shape[0] > matrix.shape[1]:
                matrix = matrix.T
            expected = gain**2 * torch.eye(len(matrix), dtype=torch.float64)
            torch.testing.assert_close(matrix @ matrix.T, expected, rtol=0, atol=1e-6)
            num_checked += 1
    assert num_checked == 3 + 2 + 3 + 3  # linear layers, then convolutions of each mechanism


@pytest.mark.parametrize("name", ["orthogonal", "normal"])
def test_batch_norm_is_about_one_and_biases_are_zero(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(20_000), nn.Linear(4, 6))
    for bias in (part.bias for part in module):
        nn.init.ones_(bias)
    initialize(module, name, 0.2, generator=seeded())
    scale = module[1].weight
    # 20 000 numbers: standard errors of 0.0014 and 0.001.
    assert scale.mean().item() == pytest.approx(1, abs=0.008)
    assert scale.std().item() == pytest.approx(0.2, abs=0.006)
    for part in module:
        assert torch.equal(part.bias, torch.zeros_like(part.bias))


def test_embeddings_are_standard_normal_whatever_the_gain() -> None:
    embedding = nn.Embedding(100, 200)
    nn.init.zeros_(embedding.weight)
    initialize(embedding, "orthogonal", 0.1, generator=seeded())
    assert embedding.weight.mean().item() == pytest.approx(0, abs=0.04)
    assert embedding.weight.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", [*KINDS, SmallCGN])
@pytest.mark.parametrize("name", ["orthogonal", "normal"])
def test_a_network_is_a_function_of_the_generator_alone(kind: type[nn.Module], name: str) -> None:
    modules = [make(kind, seed, width=4) for seed in (0, 1, 1)]
    for module, seed in zip(modules, (5, 5, 6), strict=True):
        initialize(module, name, 0.1, generator=seeded(seed))
    first, again, other = (module.state_dict() for module in modules)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if key.endswith("weight")]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_the_default_is_normal_with_deviation_002() -> None:
    modules = [make(ConvDiscriminator, width=4) for _ in range(2)]
    initialize(modules[0], generator=seeded())
    initialize(modules[1], "normal", 0.02, generator=seeded())
    states = [module.state_dict() for module in modules]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_initialising_leaves_the_global_generator_alone() -> None:
    module = make(ConvDiscriminator, width=4)
    for name in ("orthogonal", "normal"):
        before = torch.get_rng_state()
        initialize(module, name, 0.1, generator=seeded())
        assert torch.equal(torch.get_rng_state(), before)


def test_each_layer_draws_numbers_of_its_own() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    initialize(module, "normal", 0.1, generator=seeded())
    assert not torch.equal(module[0].weight, module[1].weight)


def test_weights_of_another_dtype_get_the_same_numbers() -> None:
    single, double = nn.Linear(4, 4), nn.Linear(4, 4).double()
    for module in (single, double):
        initialize(module, "orthogonal", 0.1, generator=seeded())
    assert double.weight.dtype == torch.float64
    assert torch.equal(double.weight, single.weight.double())


def test_initialised_weights_can_be_trained() -> None:
    module = nn.Linear(4, 1)
    initialize(module, generator=seeded())
    assert module.weight.is_leaf
    module(torch.ones(1, 4)).sum().backward()
    assert torch.equal(module.weight.grad, torch.ones(1, 4))


def test_parts_without_weights_and_running_statistics_stay_as_they_are() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3)
    )
    module[1].running_mean.fill_(7)
    initialize(module, "normal", 0.1, generator=seeded())
    assert module[1].running_mean.tolist() == [7, 7, 7]


def test_settings_that_cannot_be_used_are_errors_and_change_nothing() -> None:
    module = nn.Linear(4, 4)
    kept = module.weight.clone()
    with pytest.raises(ArgumentError, match="one of orthogonal, normal, got 'xavier'"):
        initialize(module, "xavier", 0.1, generator=seeded())
    for gain in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=f"gain must be above 0, got {gain}"):
            initialize(module, "normal", gain, generator=seeded())
    elsewhere = SimpleNamespace(device=torch.device("cuda:0"))  # a generator that needs no GPU
    with pytest.raises(ArgumentError, match="generator must be on the CPU, got one on 'cuda:0'"):
        initialize(module, "normal", 0.1, generator=elsewhere)
    assert torch.equal(module.weight, kept)


@pytest.mark.gpu
def test_a_network_on_a_gpu_gets_the_weights_it_gets_on_a_cpu() -> None:
    cpu, gpu = make(ConvDiscriminator, width=4), make(ConvDiscriminator, width=4).cuda()
    for module in (cpu, gpu):
        initialize(module, "orthogonal", 0.1, generator=seeded())
    for key, value in gpu.state_dict().items():
        assert torch.equal(value.cpu(), cpu.state_dict()[key])


def test_a_larger_patch_discriminator_sees_larger_images() -> None:
    discriminator = PatchDiscriminator(width=4, image_size=64)
    patches, whole = discriminator(torch.zeros(2, 3, 64, 64), torch.arange(2))
    assert (patches.shape, whole.shape) == ((2, 256), (2, 1))
    with pytest.raises(ArgumentError, match="3, 64, 64"):
        discriminator(torch.zeros(2, 3, 32, 32), torch.arange(2))
    for wrong in (16, 48):
        with pytest.raises(ArgumentError, match="image_size must be"):
            PatchDiscriminator(image_size=wrong)
