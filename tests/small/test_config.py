"""The settings of the recipes: defaults, what is refused, YAML files and flags."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import run_command

from cgn_augment.errors import ArgumentError
from train_generator.cli import generators as commands
from train_generator.cli import program as cli
from train_generator.small import config as config_module
from train_generator.small.card import repeat_command
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)

PAPER = Path(config_module.__file__).parent / "paper"

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (FactorsConfig, {"batch_size": 0}, "batch_size must be 1 or more, got 0"),
    (FactorsConfig, {"blob_steps": -1}, "blob_steps must be 0 or more, got -1"),
    (FactorsConfig, {"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
    (FactorsConfig, {"size_weight": -0.1}, "size_weight must be 0 or more, got -0.1"),
    (FactorsConfig, {"average": 1.0}, r"average must be in \[0, 1\), got 1.0"),
    (FactorsConfig, {"discriminator": "mlp"}, "must be one of patch, linear, conv, got 'mlp'"),
    (FactorsConfig, {"initialization": "he"}, "initialization must be one of .*, got 'he'"),
    (FactorsConfig, {"features": "random", "gram_weights": (1, 0)}, "gram_weights must be four"),
    (FactorsConfig, {"gram_weights": (0, 1, 0, 0)}, r"features 'none' do not fit .*\(0, 1, 0, 0\)"),
    (FactorsConfig, {"features": "random"}, r"'random' do not fit gram_weights \(0.0, 0.0"),
    (FactorsConfig, {"batch_size": 4}, r"batch_size \(4\) must be 8 or more, so that a step draws"),
    (FactorsConfig, {"batch_size": 1, "images_per_texture": 1}, r"batch_size \(1\) must be 2 or"),
    (ShapesConfig, {"batch_size": 1}, "batch_size must be 2 or more, got 1"),
    (FactorsConfig, {"images_per_texture": 5}, r"images_per_texture \(5\) must divide batch_size"),
    (FactorsConfig, {"size_low": 0.5, "size_high": 0.4}, "size_low and size_high must be .* 0.4"),
    (FactorsConfig, {"border": 16}, "border must be less than 16, got 16"),
    (TexturesConfig, {"batch_size": 1}, "batch_size must be 2 or more, got 1"),
    (TexturesConfig, {"kl_weight": -1.0}, "kl_weight must be 0 or more, got -1.0"),
    (MaskerConfig, {"rounds": -1}, "rounds must be 0 or more, got -1"),
    (MaskerConfig, {"noise": math.inf}, "noise must be 0 or more, got inf"),
    (ShapesConfig, {"codes_per_mask": 0}, "codes_per_mask must be 1 or more, got 0"),
    (SmallConfig, {"shape_network": "big"}, "must be one of published, deep, got 'big'"),
    (SmallConfig, {"precision": "fp64"}, "precision must be one of no, bf16, got 'fp64'"),
    (SmallConfig, {"seed": -1}, "seed must be 0 or more, got -1"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED)
def test_settings_are_checked_when_made(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind(**settings)


def test_later_stages_need_earlier_ones() -> None:
    none, shapes = MaskerConfig(num_steps=0), ShapesConfig(num_steps=0)
    untextured = TexturesConfig(num_steps=0)
    SmallConfig(masker=none, texturing=untextured, shapes=shapes)
    SmallConfig(shape_network="published", shapes=shapes)
    SmallConfig(texture_network="published", texturing=untextured)
    for settings, message in (
        ({"masker": none, "texturing": untextured}, "later stages need masks .* give masker.num_s"),
        ({"masker": none, "shapes": shapes}, "later stages need masks .* give masker.num_steps"),
        ({"shape_network": "published"}, "shapes .* give 'deep', or set shapes.num"),
        ({"texture_network": "published"}, "textures .* give 'deep', or set texturing.num"),
    ):
        with pytest.raises(ArgumentError, match=message):
            SmallConfig(**settings)


# The command line


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command would have trained."""
    calls: list[Any] = []

    def note(config: SmallConfig, data: Any, folder: Path, **options: object) -> SimpleNamespace:
        calls.append(SimpleNamespace(config=config, images=data, folder=folder, options=options))
        return SimpleNamespace(train=lambda: folder, trainer=SimpleNamespace(seconds=1.0))

    stubs = {
        "SmallTraining": note,
        "open_images": lambda *arguments: SimpleNamespace(data=arguments, flags={}),
        "measure_small": lambda *_: "left out",
        "write_card": lambda *_: "left out",
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(commands, name, stub)
    return calls


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return run_command(cli.main, monkeypatch, "small", *arguments)


def test_the_command_alone_has_the_recipe(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == 0
    [call] = asked
    assert call.config == SmallConfig()
    assert call.images == ("wildlife", None, None, None, 32, None, 0)
    assert call.folder == Path("runs/small")
    assert call.options == {"resume": False, "save_every": 200}


def test_flags_win_over_the_file_and_the_file_over_the_defaults(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "variant: double_colored\n"
        "factors:\n  num_steps: 7\n  gram_weights: [0.1, 0, 0, 0]\n  features: random\n"
        "shapes:\n  kl_weight: 2.5\n"
    )
    folder = tmp_path / "here"
    flags = ["--factors.num_steps=9", "--seed=3", f"--out={folder}", "--save-every=5"]
    assert run(monkeypatch, f"--config={tmp_path}/mine.yaml", *flags) == 0
    [call] = asked
    assert call.config == SmallConfig(
        seed=3,
        factors=FactorsConfig(num_steps=9, gram_weights=(0.1, 0.0, 0.0, 0.0), features="random"),
        shapes=ShapesConfig(kl_weight=2.5),
    )
    assert call.images == ("double_colored", None, None, None, 32, None, 3)
    assert (call.folder, call.options["save_every"]) == (folder, 5)


@pytest.mark.parametrize("variant", ["colored", "double_colored", "wildlife"])
def test_the_papers_settings_are_files(
    variant: str, asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, f"--config={PAPER}/{variant}.yaml", f"--out={tmp_path}") == 0
    [call] = asked
    config, factors = call.config, call.config.factors
    assert (call.images[0], config.shape_network) == (variant, "published")
    assert config.masker.num_steps == config.texturing.num_steps == config.shapes.num_steps == 0
    assert factors.discriminator == ("conv" if variant == "wildlife" else "linear")
    assert factors.num_steps * factors.batch_size == 15 * 50_000
    assert factors.gain == {"colored": 0.1, "double_colored": 0.2, "wildlife": 0.03}[variant]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factors: {num_step: 3}", "num_step"),
        ("variant: purple", "variant"),
        ("factors: {batch_size: 0}", "batch_size must be 1 or more, got 0"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_setting(
    text: str,
    message: str,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert run(monkeypatch, f"--config={tmp_path}/mine.yaml") == 2
    assert message in capsys.readouterr().err
    assert asked == []


# Cards


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (SmallConfig(), {"variant": "wildlife", "textures": "my textures"}),
        (SmallConfig(seed=3, precision="bf16"), {"images": "mine", "masks": "theirs"}),
        (
            SmallConfig(
                factors=FactorsConfig(features="random", gram_weights=(0.05, 0.1, 0.01, 0.0)),
                masker=MaskerConfig(noise=0.25),
                shapes=ShapesConfig(class_weight=0.0),
            ),
            {"variant": "colored", "num_train": 100},
        ),
    ],
)
def test_the_command_on_a_card_trains_with_the_same_settings(
    config: SmallConfig,
    flags: dict[str, object],
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program, *words = shlex.split(repeat_command(config, flags))
    assert program == "train-generator"
    assert run_command(cli.main, monkeypatch, *words, "--out", tmp_path) == 0
    [call] = asked
    names = ("variant", "textures", "images", "masks", "image_size", "num_train", "seed")
    expected = {"image_size": 32, "seed": config.seed, **flags}
    assert call.config == config
    assert call.images == tuple(expected.get(name) for name in names)
