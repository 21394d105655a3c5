"""The stages of the small generator's training, each alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from small_helpers import make_images
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.flow import CodeFlow
from cgn_augment.parts.textures import ClassPool
from train_generator.losses.perceptual import random_vgg16_features
from train_generator.small import factors as factors_module
from train_generator.small.adversary import make_discriminator
from train_generator.small.batches import RealImages
from train_generator.small.blobs import draw_blobs, teach_blobs
from train_generator.small.codes import fit_flow
from train_generator.small.config import FactorsConfig, ShapesConfig, TexturesConfig
from train_generator.small.factors import FactorsStage
from train_generator.small.shapes import MaskClassifier, MaskEncoder, ShapesStage, sharpen
from train_generator.small.textures import TextureEncoder, TexturesStage

CPU = torch.device("cpu")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def real() -> RealImages:
    data, _ = make_images()
    return RealImages(data.images, data.labels)


def make_cgn(network: str = "deep", seed: int = 0) -> SmallCGN:
    with isolated_rng(seed, CPU):
        return SmallCGN(width=4, shape_network=network, texture_network=network)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disturb(flow: CodeFlow) -> None:
    with isolated_rng(7, CPU), torch.no_grad():
        for layer in flow.layers:
            nn.init.normal_(layer[-1].weight, std=0.1)


def state(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: State) -> set[str]:
    """The first words of the names of all that is no longer the same."""
    now = module.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], now[name])}


# Real images


def make_numbered(num: int, seed: int = 0) -> RealImages:
    """Images whose first pixel and label is their number."""
    images = torch.arange(num).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return RealImages(images, torch.arange(num), seed)


def test_every_image_comes_once_an_epoch_in_another_order_with_its_label() -> None:
    real = make_numbered(12)
    epochs = [[real.batch(step, 3) for step in range(4 * e, 4 * e + 4)] for e in range(3)]
    orders = [torch.cat([labels for _, labels in batches]).tolist() for batches in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    for images, labels in epochs[0]:
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    steps = [0, 5, 3, 17, 2, 3]
    drawn, other = (
        [make_numbered(12, seed).batch(step, 3)[1].tolist() for step in steps] for seed in (0, 1)
    )
    again = make_numbered(12)
    assert [again.batch(step, 3)[1].tolist() for step in steps] == drawn != other


def test_what_does_not_fill_a_batch_waits_for_another_epoch() -> None:
    real = make_numbered(11)
    for first in (0, 2, 4):
        labels = torch.cat([real.batch(first + step, 5)[1] for step in range(2)])
        assert len(labels.unique()) == 10
    seen = torch.cat([real.batch(step, 5)[1] for step in range(40)])
    assert len(seen.unique()) == 11


def test_real_images_of_another_number_are_an_error() -> None:
    with pytest.raises(
        ArgumentError, match="a label for each image, and at least one; got 3 and 2"
    ):
        RealImages(torch.zeros(3, 3, 4, 4), torch.zeros(2).long())
    with pytest.raises(ArgumentError, match="got 0 and 0"):
        RealImages(torch.zeros(0, 3, 4, 4), torch.zeros(0).long())
    for size in (0, 13):
        with pytest.raises(ArgumentError, match=f"batch_size must be 1 to 12, .*; got {size}"):
            make_numbered(12).batch(0, size)
    assert len(make_numbered(12)) == 12


# The adversarial stage

PAPER = {
    "images_per_texture": 1,
    "adversarial": "lsgan",
    "features": "random",
    "gram_weights": (0.01, 0.05, 0.0, 0.0),
    "border_weight": 0.0,
    "size_weight": 0.0,
}


def make_stage(
    real: RealImages,
    accelerator: Accelerator,
    cgn: SmallCGN | None = None,
    **settings: Any,
) -> FactorsStage:
    small = {"batch_size": 8, "images_per_texture": 2, "discriminator_width": 4}
    config = FactorsConfig(**{**small, **settings})
    cgn = cgn or make_cgn()
    with isolated_rng(1, CPU):
        discriminator = make_discriminator(config)
    average = copy.deepcopy(cgn).eval().requires_grad_(False)
    features = random_vgg16_features(0) if config.features == "random" else None
    return FactorsStage(config, cgn, average, accelerator, discriminator, real, features)


def take(stage: FactorsStage, step: int = 0) -> dict[str, float]:
    with isolated_rng(step, CPU):
        losses = stage.step(step, seeded(step))
    assert all(loss.shape == () and not loss.requires_grad for loss in losses.values())
    assert all(loss.isfinite() for loss in losses.values())
    return {name: loss.item() for name, loss in losses.items()}


def test_a_step_trains_all_mechanisms_the_discriminator_and_the_average(
    real: RealImages, accelerator: Accelerator
) -> None:
    stage = make_stage(real, accelerator)
    networks = (stage.cgn, stage.discriminator, stage.average)
    before = [state(network) for network in networks]
    losses = take(stage)
    assert losses.keys() == {"adversarial", "entropy", "size", "border", "discriminator"}
    mechanisms = {"label_emb", "f_shape", "f_text1", "f_text2"}
    assert changed(stage.cgn, before[0]) == changed(stage.average, before[2]) == mechanisms
    assert changed(stage.discriminator, before[1])
    assert stage.cgn.training
    assert not stage.average.training
    assert not any(weight.requires_grad for weight in stage.average.parameters())


@pytest.mark.parametrize("discriminator", ["linear", "conv"])
def test_the_papers_settings_train_the_shape_mechanism_too(
    discriminator: str, real: RealImages, accelerator: Accelerator
) -> None:
    stage = make_stage(
        real, accelerator, make_cgn("published"), discriminator=discriminator, **PAPER
    )
    before = state(stage.cgn)
    losses = take(stage)
    assert losses.keys() == {"adversarial", "entropy", "gram", "discriminator"}
    assert losses["gram"] > 0
    assert changed(stage.cgn, before) == {"label_emb", "f_shape", "f_text1", "f_text2"}
    for name, weight in stage.cgn.f_shape.named_parameters():
        assert weight.grad.abs().sum() > 0, name
    assert all(weight.grad is None for weight in stage.features.parameters())


def test_generator_and_discriminator_leave_each_other_alone(
    real: RealImages, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without spectral norm, whose buffers follow each look.
    stage = make_stage(real, accelerator, discriminator="linear", adversarial="lsgan")
    descend, after = factors_module.descend, []

    def note(*arguments: Any) -> None:
        before = state(stage.cgn), state(stage.discriminator)
        descend(*arguments)
        changes = (
            bool(changed(stage.cgn, before[0])),
            bool(changed(stage.discriminator, before[1])),
        )
        after.append(changes)

    monkeypatch.setattr(factors_module, "descend", note)
    take(stage)
    assert after == [(True, False), (False, True)]
    assert all(weight.requires_grad for weight in stage.discriminator.parameters())


def test_neighbours_share_textures_each_in_another_place(
    real: RealImages, accelerator: Accelerator
) -> None:
    stage = make_stage(real, accelerator, batch_size=12, images_per_texture=3)
    asked, generator = [], seeded()
    stage.cgn.label_emb.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    y = stage._draw_classes(generator)
    assert torch.equal(y.view(4, 3), y[::3, None].expand(-1, 3))
    mask, *textures = stage._draw_factors(y, generator)
    assert mask.shape == (12, 1, 32, 32)
    assert [drawn.tolist() for drawn in asked] == [y.tolist(), *[y[::3].tolist()] * 2]
    for texture in textures:
        pixels = texture.flatten(2).sort().values.view(4, 3, 3, -1)
        assert torch.equal(pixels, pixels[:, :1].expand(-1, 3, -1, -1))
        assert not torch.equal(pixels[0], pixels[1])
        assert len({image.detach().numpy().tobytes() for image in texture}) == 12


def test_mask_losses_have_their_weights_and_bounds_and_the_entropy_rises(
    real: RealImages, accelerator: Accelerator
) -> None:
    mask = torch.full((8, 1, 32, 32), 0.5)  # one bit
    stage = make_stage(real, accelerator, entropy_weight=0.3, entropy_warmup=10)
    for step, expected in ((0, 0.03), (4, 0.15), (9, 0.3), (500, 0.3)):
        assert stage._mask_losses(mask, step)["entropy"].item() == pytest.approx(expected)
    settings = {"size_weight": 3.0, "size_low": 0.1, "size_high": 0.25, "border_weight": 4.0}
    stage = make_stage(real, accelerator, entropy_weight=0.3, entropy_warmup=0, **settings)
    losses = {name: loss.item() for name, loss in stage._mask_losses(mask, 0).items()}
    assert losses == pytest.approx({"entropy": 0.3, "size": 3 * 0.25, "border": 4 * 0.5})


def test_a_step_is_a_function_of_step_and_generator(
    real: RealImages, accelerator: Accelerator
) -> None:
    losses = [take(make_stage(real, accelerator), step) for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["patch", "linear", "conv"])
def test_the_discriminator_is_the_one_asked_for(name: str) -> None:
    config = FactorsConfig(discriminator=name, discriminator_width=4)
    discriminator = make_discriminator(config, num_classes=3)
    assert type(discriminator).__name__.lower() == f"{name}discriminator"
    assert any(len(weight) == 3 for weight in discriminator.parameters())  # of the classes


# The textures stage


def make_textures(accelerator: Accelerator, **settings: Any) -> TexturesStage:
    cgn = make_cgn()
    with isolated_rng(2, CPU):
        encoders = TextureEncoder(width=4), TextureEncoder(width=4)
    average = copy.deepcopy(cgn).eval().requires_grad_(False)
    colours = torch.rand(2, 30, 3, 1, 1, generator=seeded()) * 2 - 1
    labels = torch.arange(30) % 10
    foregrounds, backgrounds = (
        ClassPool(each.expand(-1, -1, 32, 32).contiguous(), labels) for each in colours
    )
    config = TexturesConfig(**{"num_steps": 40, "batch_size": 8, **settings})
    return TexturesStage(config, cgn, average, accelerator, encoders, (foregrounds, backgrounds))


def test_the_textures_stage_trains_textures_and_encoders_alone(accelerator: Accelerator) -> None:
    stage = make_textures(accelerator)
    before = state(stage.cgn), state(stage.average), [state(each) for each in stage.encoders]
    losses = take(stage)
    assert losses.keys() == {"reconstruction", "kl", "flow"}
    textures = {"f_text1", "f_text2"}
    assert changed(stage.cgn, before[0]) == changed(stage.average, before[1]) == textures
    for network, was in zip(stage.encoders, before[2], strict=True):
        assert changed(network, was)
    for network in [*stage.encoders, *(mechanism[1:] for mechanism in stage.mechanisms)]:
        for name, weight in network.named_parameters():
            assert weight.grad.abs().sum() > 0, name
    for mechanism in stage.mechanisms:  # the last layers of a new flow are 0
        assert all(layer[-1].weight.grad.abs().sum() > 0 for layer in mechanism[0].layers)
    assert losses == take(make_textures(accelerator))
    assert losses != take(make_textures(accelerator), 1)


def test_the_first_step_forgets_what_the_mechanisms_were(accelerator: Accelerator) -> None:
    losses = []
    for spoiled in (False, True):
        stage = make_textures(accelerator)
        if spoiled:
            with torch.no_grad():
                for mechanism in stage.mechanisms:
                    for weight in mechanism[1:].parameters():
                        weight.fill_(0.1)
        losses.append([take(stage, step) for step in (0, 1)])
    assert losses[0] == losses[1]


def test_codes_teach_the_flow_and_the_flow_teaches_nothing(accelerator: Accelerator) -> None:
    trained = []
    for disturbed in (False, True):
        stage = make_textures(accelerator)
        if disturbed:
            for mechanism in stage.mechanisms:
                disturb(mechanism[0])
        take(stage)
        decoders = [weight for m in stage.mechanisms for weight in m[1:].parameters()]
        trained.append([*decoders, *(w for e in stage.encoders for w in e.parameters())])
    assert all(torch.equal(ours, others) for ours, others in zip(*trained, strict=True))


@pytest.mark.slow
def test_textures_are_drawn_again_better_and_better(accelerator: Accelerator) -> None:
    stage = make_textures(accelerator, num_steps=300, batch_size=16, average=0.9)
    losses = [take(stage, step)["reconstruction"] for step in range(300)]
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    y = torch.arange(10).repeat(3)
    with torch.no_grad():
        drawn = stage.average.texture(stage.average.draw_noise(30, seeded()), y)
    pool = stage.textures[0].images.view(10, 3, 3, 32, 32)
    known = pool[y].flatten(2)  # the three textures of each class
    nearest = (drawn.flatten(1)[:, None] - known).square().mean(dim=2).amin(dim=1).mean()
    others = (drawn.flatten(1)[:, None] - pool[y.roll(1)].flatten(2)).square().mean(dim=2)
    assert nearest < others.amin(dim=1).mean()


def test_a_few_steps_draw_textures_again_better(accelerator: Accelerator) -> None:
    stage = make_textures(accelerator, num_steps=16, learning_rate=0.02)
    losses = [take(stage, step)["reconstruction"] for step in range(16)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_the_rate_of_the_textures_rises_and_falls(accelerator: Accelerator) -> None:
    stage = make_textures(accelerator, num_steps=1000)
    [group] = stage.optimizers["textures"].param_groups
    for step, share in ((0, 0.01), (99, 1), (500, 1), (750, 0.5), (999, 0.002)):
        take(stage, step)
        assert group["lr"] == pytest.approx(share * stage.config.learning_rate)


# Blobs


def test_blobs_are_discs_where_the_noise_says() -> None:
    noise = torch.tensor([[0.0, 0.0, 0.0, 9.0], [2.0, -2.0, 0.0, 9.0], [0.0, 0.0, 2.0, 9.0]])
    blobs = draw_blobs(noise)
    assert blobs.shape == (3, 1, 32, 32)
    assert blobs.min() >= 0
    assert blobs.max() <= 1
    places = torch.arange(32.0)
    # The integral of a disc of this radius whose edge is a sigmoid.
    expected = [torch.pi * (radius**2 + (torch.pi / 0.7) ** 2 / 3) for radius in (6.5, 6.5, 8.5)]
    assert blobs.sum(dim=(1, 2, 3)).tolist() == pytest.approx(expected, rel=0.01)
    for blob, center in zip(blobs[:, 0], ((15.5, 15.5), (18.5, 12.5), (15.5, 15.5)), strict=True):
        row = (blob.sum(dim=1) @ places / blob.sum()).item()
        column = (blob.sum(dim=0) @ places / blob.sum()).item()
        assert (row, column) == pytest.approx(center, abs=0.05)
    assert torch.equal(draw_blobs(noise[:, :3]), blobs)


def test_the_shape_mechanism_learns_blobs_and_nothing_else_changes() -> None:
    cgn = make_cgn()
    before = state(cgn)
    noise, y = cgn.draw_noise(200, seeded(5)), torch.arange(200) % 10

    def error() -> float:
        with torch.no_grad():
            return (cgn.shape(noise, y) - draw_blobs(noise)).abs().mean().item()

    first = error()
    teach_blobs(cgn, 60, seeded(), batch_size=8)
    assert error() < 0.7 * first
    assert changed(cgn, before) == {"f_shape"}
    again = make_cgn()
    teach_blobs(again, 60, seeded(), batch_size=8)
    assert torch.equal(again.shape(noise, y), cgn.shape(noise, y))


# The shapes stage


def toy_masks(num: int = 200) -> tuple[Tensor, Tensor]:
    """Bars whose place is that of their class, a little higher or lower."""
    labels, up = torch.arange(num) % 10, torch.randint(4, (num,), generator=seeded())
    masks = torch.zeros(num, 1, 32, 32, dtype=torch.bool)
    for number, (y, top) in enumerate(zip(labels.tolist(), up.tolist(), strict=True)):
        masks[number, 0, 8 + top : 20 + top, 3 * y : 3 * y + 4] = True
    return masks, labels


def make_shapes(accelerator: Accelerator, **settings: Any) -> ShapesStage:
    cgn = make_cgn()
    with isolated_rng(2, CPU):
        encoder, classifier = MaskEncoder(width=4), MaskClassifier(width=4)
    average = copy.deepcopy(cgn).eval().requires_grad_(False)
    config = ShapesConfig(**{"num_steps": 60, "batch_size": 32, "learning_rate": 5e-3, **settings})
    found = RealImages(*toy_masks())
    return ShapesStage(config, cgn, average, accelerator, encoder, classifier, found)


SHAPE_LOSSES = {"recognised", "reconstruction", "kl", "flow", "class"}


def test_the_shapes_stage_learns_toy_masks_and_leaves_the_rest_alone(
    accelerator: Accelerator,
) -> None:
    stage = make_shapes(accelerator, class_warmup=5, learning_rate=0.02)
    before = state(stage.cgn), state(stage.average), state(stage.encoder), state(stage.classifier)
    losses = [take(stage, step) for step in range(30)]
    assert losses[0].keys() == SHAPE_LOSSES
    # The flow's loss starts at half the length of a code, 16, and has a floor that moves.
    for name, share in (("recognised", 0.8), ("reconstruction", 0.8), ("flow", 0.95)):
        assert losses[-1][name] < share * losses[0][name], name
    assert changed(stage.cgn, before[0]) == {"f_shape"}
    assert changed(stage.average, before[1]) == {"f_shape"}
    assert changed(stage.encoder, before[2])
    assert changed(stage.classifier, before[3])
    assert all(weight.requires_grad for weight in stage.classifier.parameters())
    for network in (stage.cgn.f_shape, stage.encoder, stage.classifier):
        for name, weight in network.named_parameters():
            assert weight.grad.abs().sum() > 0, name
    assert stage.cgn.label_emb.weight.grad is None
    flow = {name for name in before[0] if name.startswith("f_shape.0.")}
    now = stage.cgn.state_dict()
    assert any(not torch.equal(before[0][name], now[name]) for name in flow)


def test_the_classifier_is_taught_by_found_masks_alone(accelerator: Accelerator) -> None:
    states = []
    for weight in (0.0, 5.0):
        stage = make_shapes(accelerator, class_weight=weight, class_warmup=0)
        losses = take(stage)
        assert (losses.keys() == SHAPE_LOSSES) == (weight > 0)
        states.append(dict(stage.classifier.named_parameters()))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_flow_teaches_nothing_to_the_encoder_and_the_decoder(accelerator: Accelerator) -> None:
    networks = []
    for disturbed in (False, True):
        stage = make_shapes(accelerator, class_weight=0.0)
        if disturbed:
            disturb(stage.flow)
        take(stage)
        networks.append((*stage.encoder.parameters(), *stage.decoder.parameters()))
    assert all(torch.equal(ours, others) for ours, others in zip(*networks, strict=True))


def test_the_flows_loss_is_the_negative_log_likelihood_of_codes(accelerator: Accelerator) -> None:
    stage = make_shapes(accelerator, codes_per_mask=3)
    disturb(stage.flow)
    mean, log_variance = (torch.randn(4, 32, generator=seeded(s)) for s in (0, 1))
    embedding = torch.randn(4, 10, generator=seeded(2))
    codes = mean.repeat(3, 1) + torch.randn(12, 32, generator=seeded()) * (
        log_variance / 2
    ).exp().repeat(3, 1)
    noise, log_determinant = stage.flow.invert(torch.cat([codes, embedding.repeat(3, 1)], dim=1))
    standard = torch.distributions.Normal(0, 1).log_prob(noise[:, :32]).sum(dim=1)
    constant = 32 / 2 * torch.tensor(2 * torch.pi).log()
    expected = -(standard + log_determinant).mean() - constant
    loss = fit_flow(
        stage.flow, mean, log_variance, embedding, stage.config.codes_per_mask, seeded()
    )
    torch.testing.assert_close(loss, expected)
    assert log_determinant.abs().min() > 1e-3


def test_weights_of_the_shapes_stage_scale_their_losses(accelerator: Accelerator) -> None:
    one, other = (
        take(make_shapes(accelerator, kl_weight=k, class_weight=c, class_warmup=w), 3)
        for k, c, w in ((0.5, 2.0, 0), (1.5, 1.0, 12))
    )
    assert other["kl"] == pytest.approx(3 * one["kl"], rel=1e-4)
    assert other["class"] == pytest.approx(one["class"] / 2 * 3 / 12, rel=1e-4)
    assert other["reconstruction"] == one["reconstruction"]


def test_sharper_masks_have_the_same_edges() -> None:
    cgn, y = make_cgn().eval(), torch.arange(10)
    noise = cgn.draw_noise(10, seeded())
    soft = cgn.shape(noise, y)
    sharpen(cgn, 4.0)
    sharp = cgn.shape(noise, y)
    assert torch.equal(sharp > 0.5, soft > 0.5)
    logits = (torch.logit(mask) for mask in (sharp, soft))
    torch.testing.assert_close(next(logits), 4 * next(logits), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [MaskEncoder, TextureEncoder])
def test_encoders_see_class_and_image(make: Any) -> None:
    with isolated_rng(0, CPU):
        encoder = make(width=4).eval()
    images = torch.rand(20, 1 if make is MaskEncoder else 3, 32, 32, generator=seeded())
    y = torch.arange(20) % 10
    mean, log_variance = encoder(images, y)
    assert mean.shape == log_variance.shape == (20, 32)
    for others in (encoder(images, y.flip(0)), encoder(1 - images, y)):
        assert ((others[0] - mean).abs().amax(dim=1) > 1e-5).all()
    with torch.no_grad():
        encoder.head[-1].weight.mul_(1e4)
    extremes = encoder(images, y)[1]
    assert (extremes.min().item(), extremes.max().item()) == encoder.log_variances
