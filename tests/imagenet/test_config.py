"""Settings of the ImageNet CGN's training: presets, the command line, errors."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run_command

from cgn_augment.errors import ArgumentError
from train_generator.cli import imagenet as commands
from train_generator.cli import program as cli
from train_generator.imagenet.card import repeat_imagenet
from train_generator.imagenet.config import (
    ImageNetConfig,
    LossesConfig,
    MetricsConfig,
    PresetName,
    preset_settings,
)
from train_generator.imagenet.training import compared_settings
from train_generator.losses.patches import PatchConfig

NO_LOSS = dict.fromkeys(("reconstruction", "entropy", "size", "background"), 0.0)
NO_LOSS |= dict.fromkeys(("perceptual", "texture"), (0.0,) * 4)
FILES = ["--biggan=biggan.bin", "--u2net=u2net.pth"]


def with_preset(name: PresetName) -> ImageNetConfig:
    return ImageNetConfig("biggan.bin", "u2net.pth", **preset_settings(name))


def test_the_preset_of_the_code_is_the_default_and_that_of_the_paper_differs_in_four() -> None:
    code, paper = with_preset("code"), with_preset("paper")
    assert code == ImageNetConfig("biggan.bin", "u2net.pth")
    losses = replace(code.losses, perceptual=(5.0, 5.0, 5.0, 5.0))
    differences = {"accumulation": 2048, "texture_rate": 1e-5, "epsilon": 1e-8, "losses": losses}
    assert paper == replace(code, **differences)


def test_a_mean_of_gradients_and_the_presets_epsilon_step_as_the_published_sum_does() -> None:
    gradients = torch.tensor([1e-3, 1e-9, 3e-12, 0.0], dtype=torch.float64)
    steps = []
    for factor, epsilon in ((1.0, with_preset("code").epsilon), (4000.0, 1e-8)):
        weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
        adam = torch.optim.Adam([weight], lr=0.1, eps=epsilon)
        for scale in (1.0, -0.3):
            weight.grad = gradients * factor * scale
            adam.step()
        steps.append(weight.detach())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=0)


# The command line


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the command would train, in place of training it."""
    seen: list[tuple[Any, ...]] = []

    def note(config: ImageNetConfig, folder: Path, **options: Any) -> SimpleNamespace:
        seen.append((config, folder, options))
        return SimpleNamespace(train=lambda: folder, ranks=SimpleNamespace(is_main=False))

    monkeypatch.setattr(commands, "ImageNetTraining", note)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return run_command(cli.main, monkeypatch, "imagenet", *arguments)


def test_the_command_trains_with_the_settings_of_the_code(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, *FILES) == 0
    config, folder, options = asked[0]
    assert config == with_preset("code")
    assert folder == Path("runs/imagenet")
    assert options == {"resume": False, "save_every": 10, "sheet_every": 10}


@pytest.mark.parametrize("preset", [["--preset", "paper"], ["--preset=paper"]])
def test_flags_win_over_a_preset_wherever_it_stands(
    preset: list[str], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--accumulation=256", "--losses.perceptual=[1,2,3,4]", "--resume"]
    assert run(monkeypatch, *FILES, *flags, *preset) == 0
    config, _, options = asked[0]
    assert (config.accumulation, config.texture_rate) == (256, 1e-5)
    assert config.losses == LossesConfig(perceptual=(1, 2, 3, 4))
    assert options["resume"] is True


def test_a_file_of_ones_own_wins_over_a_preset(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("texture_rate: 0.5\nmetrics: {every: 7}\n")
    assert run(monkeypatch, f"--config={tmp_path}/mine.yaml", *FILES, "--preset=paper") == 0
    config = asked[0][0]
    assert (config.texture_rate, config.accumulation) == (0.5, 2048)
    assert config.metrics == MetricsConfig(every=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--u2net=u2net.pth"], "give --biggan, .* fetch-weights"),
        (["--biggan=biggan.bin"], "give u2net, .* or start, the file of a CGN"),
        ([*FILES, "--start=cgn.safetensors"], "give u2net, .* or start"),
        ([*FILES, "--preset=appendix"], "preset"),
        ([*FILES, "--preset"], "preset"),
        ([*FILES, "--losses.colour=1"], "losses.colour"),
        ([*FILES, "--losses.texture=[1,2]"], "losses.texture"),
        ([*FILES, "--patches.size=200"], "size must be 1 to resolution"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str],
    message: str,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert asked == []


def test_a_preset_in_a_file_is_not_left_out_in_silence(
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.yaml").write_text("preset: paper\n")
    assert run(monkeypatch, f"--config={tmp_path}/mine.yaml", *FILES) == 2
    assert "a preset is chosen on the command line" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    "config",
    [
        with_preset("paper"),
        ImageNetConfig("big gan.bin", start="cgn.safetensors", seed=3, precision="bf16"),
        ImageNetConfig(
            "biggan.bin",
            "u2net.pth",
            losses=LossesConfig(texture=(0.5, 0, 0, 0), features="random"),
            metrics=MetricsConfig(inception="download", real="some images"),
            patches=PatchConfig(resolution=64),
        ),
    ],
    ids=["paper", "start", "nested"],
)
def test_the_command_on_a_card_trains_with_the_same_settings(
    config: ImageNetConfig, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(repeat_imagenet(config))
    assert words[:2] == ["train-generator", "imagenet"]
    assert run(monkeypatch, *words[2:]) == 0
    assert asked[0][0] == config


# Errors


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ImageNetConfig, {"num_steps": 0}, "num_steps must be 1 or more, got 0"),
        (ImageNetConfig, {"accumulation": 0}, "accumulation must be 1 or more"),
        (ImageNetConfig, {"shape_rate": 0.0}, "shape_rate must be above 0"),
        (ImageNetConfig, {"epsilon": float("nan")}, "epsilon must be above 0"),
        (ImageNetConfig, {"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1"),
        (ImageNetConfig, {"average": -0.1}, "average must be in"),
        (ImageNetConfig, {"truncation": 1.5}, "truncation must be above 0 and at most 1"),
        (ImageNetConfig, {"precision": "fp64"}, "precision must be one of no, bf16"),
        (ImageNetConfig, {"truncation_lookup": "near"}, "truncation_lookup must be one of"),
        (ImageNetConfig, {"norm_iterations": -1}, "norm_iterations must be 0 or more"),
        (ImageNetConfig, {"u2net": None}, "give u2net"),
        (LossesConfig, {"reconstruction": -1.0}, "reconstruction must be 0 or more"),
        (LossesConfig, {"perceptual": (1.0, 1.0)}, "perceptual must be four of 0 or more"),
        (LossesConfig, {"texture": (0, 0, -1, 0)}, "texture must be four of 0 or more"),
        (LossesConfig, {"size_low": 0.95}, "size_low <= size_high"),
        (LossesConfig, {"features": "resnet"}, "features must be one of vgg16, random, trained"),
        (LossesConfig, {"features": "random", "features_file": "a.pth"}, "is of VGG-16's weights"),
        (LossesConfig, {"num_feature_images": 1}, "num_feature_images must be 2 or more"),
        (LossesConfig, NO_LOSS, "all losses have the weight 0"),
        (MetricsConfig, {"real": "images"}, "the FID needs Inception-v3: give metrics.inception"),
        (MetricsConfig, {"inception": "download", "num_images": 19}, "twice as many as splits"),
        (MetricsConfig, {"every": -1}, "every must be 0 or more"),
        (MetricsConfig, {"num_images": 0}, "num_images must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_errors(
    kind: type[Any], settings: dict[str, Any], message: str
) -> None:
    files = {"biggan": "biggan.bin", "u2net": "u2net.pth"} if kind is ImageNetConfig else {}
    with pytest.raises(ArgumentError, match=message):
        kind(**files | settings)


def test_a_training_may_be_resumed_with_other_paths_and_metrics_and_no_other_settings() -> None:
    config = with_preset("code")
    elsewhere = ImageNetConfig(
        "other/biggan.bin",
        "other/u2net.pth",
        device="cpu",
        losses=LossesConfig(features_file="vgg.pth"),
        metrics=MetricsConfig(every=3),
    )
    assert compared_settings(config) == compared_settings(elsewhere)
    assert compared_settings(config) != compared_settings(with_preset("paper"))
