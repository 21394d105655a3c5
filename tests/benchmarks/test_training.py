"""The published settings, and that training with them has the losses of a plain way."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import REPO, VARIANT_NAMES
from jsonargparse import CLI
from torch import nn

from cgn_augment.functional import isolated_rng
from train_generator.cli import generators as commands
from train_generator.losses.perceptual import (
    GramMemory,
    PerceptualFeatures,
    memory,
    memory_fits,
    random_vgg16_features,
)
from train_generator.losses.perceptual.winograd import FrozenConv2d
from train_generator.small.config import FactorsConfig, SmallConfig

PAPER = REPO / "train_generator" / "small" / "paper"
TABLE = {
    "colored": (0.1, (0.05, 0.1, 0.01, 0.0), "linear", 512, "orthogonal", 0.1),
    "double_colored": (0.3, (0.0, 0.05, 0.0, 0.05), "linear", 512, "orthogonal", 0.2),
    "wildlife": (0.3, (0.01, 0.05, 0.0, 0.01), "conv", 32, "normal", 0.03),
}


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The benchmark, as a module."""
    path = REPO / "benchmarks" / "training.py"
    spec = importlib.util.spec_from_file_location("benchmark_training", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng() -> Iterator[None]:
    """The benchmark seeds the global generators, which other tests must not see."""
    with isolated_rng(0, torch.device("cpu")):
        yield


def parse_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> SmallConfig:
    """What `train-generator small` would train with."""
    configs: list[SmallConfig] = []

    class Stopped:
        def __init__(self, config: SmallConfig, *_: Any, **__: Any) -> None:
            configs.append(config)
            raise InterruptedError

    monkeypatch.setattr(commands, "SmallTraining", Stopped)
    with pytest.raises(InterruptedError):
        CLI({"small": commands.small}, args=["small", *arguments])
    return configs[0]


@pytest.mark.parametrize("variant", VARIANT_NAMES)
def test_the_published_settings_are_those_of_the_paper(
    variant: str, training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_command(monkeypatch, "--config", str(PAPER / f"{variant}.yaml"))
    entropy, grams, discriminator, width, initialization, gain = TABLE[variant]
    assert config.shape_network == "published"
    assert config.precision == "no"
    assert config.factors == FactorsConfig(
        num_steps=15 * 50_000 // 16,
        batch_size=16,
        images_per_texture=1,
        discriminator=discriminator,
        discriminator_width=width,
        adversarial="lsgan",
        learning_rate=2e-4,
        normalization_rate=1.0,
        discriminator_learning_rate=2e-4,
        beta2=0.999,
        initialization=initialization,
        gain=gain,
        instance_noise=0.0,
        blob_steps=0,
        entropy_weight=entropy,
        entropy_warmup=0,
        size_weight=0.0,
        border_weight=0.0,
        gram_weights=grams,
        features="vgg16",
        average=0.0,
    )
    assert config.masker.num_steps == config.texturing.num_steps == config.shapes.num_steps == 0
    assert training.read_settings(variant).factors == config.factors


def test_the_published_settings_are_these_three() -> None:
    assert sorted(path.stem for path in PAPER.glob("*.yaml")) == sorted(VARIANT_NAMES)


def make_small_vgg() -> nn.Sequential:
    """Five blocks as VGG-16 has them, with 64 channels each."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(0)
    for channels in (3, 64, 64, 64, 64):
        conv = FrozenConv2d(channels, 64, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, generator=generator)
        nn.init.uniform_(conv.bias, -0.1, 0.1, generator=generator)
        layers += [conv, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


@pytest.mark.usefixtures("rng")
@pytest.mark.parametrize("variant", VARIANT_NAMES)
def test_losses_are_those_of_the_straightforward_way(variant: str, training: ModuleType) -> None:
    config = training.read_settings(variant)
    config = dataclasses.replace(config, factors=dataclasses.replace(config.factors, batch_size=4))
    vgg = make_small_vgg()
    features = PerceptualFeatures(list(vgg)[:11])
    real = training.make_real(config, 8)
    straightforward = training.make_straightforward(config, real, vgg)
    ours = training.make_ours(config, real, features)
    deviations = training.compare_losses(straightforward, ours, num_steps=4)
    assert deviations.keys() == {"adversarial", "entropy", "gram", "discriminator"}
    assert max(deviations.values()) <= training.TOLERANCE
    assert len(ours.memory) == 8  # the third step is of images that were seen before


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (32, 32), (4, 12)])
def test_a_fast_convolution_is_a_convolution(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = FrozenConv2d(64, 72, 3, padding=1).requires_grad_(False)
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    nn.init.uniform_(layer.bias, -1, 1, generator=generator)
    images = torch.randn(5, 64, *size, generator=generator, requires_grad=True)
    fast, plain = layer(images, fast=True), layer(images)
    assert fast.grad_fn is not None
    assert "Convolve" in fast.grad_fn.name()
    torch.testing.assert_close(fast, plain, rtol=0, atol=5e-5)
    factors = torch.randn(fast.shape, generator=generator)
    gradients = [torch.autograd.grad(result, images, factors)[0] for result in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=0, atol=5e-5)


def test_a_fast_convolution_follows_its_weights() -> None:
    layer = FrozenConv2d(64, 64, 3, padding=1).requires_grad_(False)
    images = torch.ones(1, 64, 4, 4)
    assert layer(images, fast=True).abs().sum() > 0
    layer.load_state_dict({name: torch.zeros_like(w) for name, w in layer.state_dict().items()})
    assert layer(images, fast=True).abs().sum() == 0


@pytest.mark.parametrize("size", [(6, 8), (64, 64)])
def test_images_of_other_sizes_are_convolved_plainly(size: tuple[int, int]) -> None:
    layer = FrozenConv2d(64, 64, 3, padding=1).requires_grad_(False)
    images = torch.randn(1, 64, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(images, fast=True), layer(images))


def test_remembered_gram_matrices_are_the_computed_ones() -> None:
    features = random_vgg16_features(seed=0)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    remembered = GramMemory(features, (1, 0, 1, 1), num_images=4)
    first = [gram.clone() for gram in remembered(images)]
    calls: list[object] = []
    features.register_forward_hook(lambda *_: calls.append(1))
    again = remembered(images.flip(0))
    assert calls == []
    assert [gram.shape[1] for gram in again] == [64, 256, 512]
    for gram, expected in zip(again, first, strict=True):
        assert torch.equal(gram.flip(0), expected)


def test_a_full_memory_computes() -> None:
    features = random_vgg16_features(seed=0)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    remembered = GramMemory(features, (1, 0, 0, 0), num_images=2)
    first, again = (remembered(images)[0].clone() for _ in range(2))
    assert len(remembered) == 2
    assert torch.equal(first, again)


def test_memory_is_taken_only_where_there_is_twice_as_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, weights = random_vgg16_features(seed=0), (0, 1, 0, 1)
    images = torch.zeros(10, 3, 32, 32)
    needed = 10 * 4 * (128 * 129 // 2 + 512 * 4 * 4)
    for available, fits in ((2 * needed, False), (2 * needed + 1, True)):
        free = SimpleNamespace(available=available)
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda free=free: free)
        assert memory_fits(features, weights, images) is fits


def test_the_benchmarks_results_are_within_the_tolerance(training: ModuleType) -> None:
    results = training.RESULTS / "training.json"
    values = json.loads(results.read_text())["variants"]
    assert values.keys() == set(VARIANT_NAMES)
    for each in values.values():
        assert max(each["largest_deviation_of_losses"].values()) <= training.TOLERANCE
