"""The settings of the recipes: defaults, what is refused, YAML files and flags."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from cgn_augment.errors import ArgumentError
from train_generator.cli import generators as commands
from train_generator.cli import program as cli
from train_generator.small import config as config_module
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)
from train_generator.training.machine import CGN_FILE

PAPER = Path(config_module.__file__).parent / "paper"

COUNTS = {
    FactorsConfig: ("batch_size", "images_per_texture", "discriminator_width", "border"),
    MaskerConfig: ("batch_size", "num_factors", "num_textures"),
    ShapesConfig: ("batch_size", "codes_per_mask"),
}
COUNTS_FROM_ZERO = {
    FactorsConfig: ("num_steps", "blob_steps", "entropy_warmup"),
    MaskerConfig: ("num_steps", "rounds", "shift"),
    ShapesConfig: ("num_steps", "class_warmup"),
}
POSITIVE = {
    FactorsConfig: ("learning_rate", "discriminator_learning_rate", "gain"),
    MaskerConfig: ("learning_rate",),
    ShapesConfig: ("learning_rate",),
}
WEIGHTS = {
    FactorsConfig: ("entropy_weight", "size_weight", "border_weight", "average", "beta2"),
    MaskerConfig: ("noise",),
    ShapesConfig: ("kl_weight", "class_weight", "average"),
}


def each(names: dict[type, tuple[str, ...]]) -> list[tuple[type, str]]:
    return [(kind, name) for kind, listed in names.items() for name in listed]


@pytest.mark.parametrize(("kind", "name"), each(COUNTS))
def test_a_count_starts_at_one(kind: type, name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got {value}"):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), each(COUNTS_FROM_ZERO))
def test_a_number_of_steps_may_be_zero(kind: type, name: str) -> None:
    assert getattr(kind(**{name: 0}), name) == 0
    with pytest.raises(ArgumentError, match=f"^{name} must be 0 or more, got -1"):
        kind(**{name: -1})


@pytest.mark.parametrize(("kind", "name"), each(POSITIVE))
def test_a_rate_is_above_zero_and_finite(kind: type, name: str) -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=f"^{name} must be above 0, got {value}"):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), each(WEIGHTS))
def test_a_weight_may_be_zero_and_is_finite(kind: type, name: str) -> None:
    assert getattr(kind(**{name: 0.0}), name) == 0
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=f"^{name} must be .*, got {value}"):
            kind(**{name: value})


def test_textures_are_shared_by_equal_parts_of_a_batch() -> None:
    with pytest.raises(ArgumentError, match=r"images_per_texture \(5\) must divide batch_size"):
        FactorsConfig(batch_size=48, images_per_texture=5)
    FactorsConfig(batch_size=48, images_per_texture=48)


def test_features_and_their_weights_come_together() -> None:
    weights = (0.0, 0.1, 0.0, 0.0)
    with pytest.raises(ArgumentError, match=r"features 'none' do not fit gram_weights \(0.0, 0.1"):
        FactorsConfig(gram_weights=weights)
    with pytest.raises(ArgumentError, match=r"features 'random' do not fit gram_weights \(0.0, 0."):
        FactorsConfig(features="random")
    FactorsConfig(features="random", gram_weights=weights)


def test_later_stages_need_earlier_ones() -> None:
    none, shapes = MaskerConfig(num_steps=0), ShapesConfig(num_steps=0)
    untextured = TexturesConfig(num_steps=0)
    for settings in ({"texturing": untextured}, {"shapes": shapes}):
        with pytest.raises(
            ArgumentError, match=r"later stages need masks .* give masker.num_steps"
        ):
            SmallConfig("colored", masker=none, **settings)
    SmallConfig("colored", masker=none, texturing=untextured, shapes=shapes)
    with pytest.raises(ArgumentError, match=r"shapes .* give 'deep', or set shapes.num"):
        SmallConfig("colored", shape_network="published")
    SmallConfig("colored", shape_network="published", shapes=shapes)
    with pytest.raises(ArgumentError, match=r"textures .* give 'deep', or set texturing.num"):
        SmallConfig("colored", texture_network="published")
    SmallConfig("colored", texture_network="published", texturing=untextured)
    with pytest.raises(ArgumentError, match=r"shapes.batch_size \(64\) .* num_train \(20\)"):
        SmallConfig("colored", num_train=20, factors=FactorsConfig(num_steps=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps must be 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 2 or more, got 0"),
        ({"num_textures": 0}, "num_textures must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"kl_weight": -1.0}, "kl_weight must be 0 or more, got -1.0"),
        ({"average": 1.0}, r"average must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_of_the_textures_stage_are_checked_when_made(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        TexturesConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator": "mlp"}, "discriminator must be one of patch, linear, conv, got 'mlp'"),
        ({"adversarial": "wgan"}, "adversarial must be one of hinge, lsgan, got 'wgan'"),
        ({"initialization": "he"}, "initialization must be one of .*, got 'he'"),
        (
            {"features": "vgg", "gram_weights": (1, 0, 0, 0)},
            "features must be one of .*, got 'vgg'",
        ),
        ({"features": "random", "gram_weights": (-1, 0, 0, 0)}, "gram_weights must be four"),
        ({"features": "random", "gram_weights": (math.nan, 0, 0, 0)}, "gram_weights must be four"),
        ({"features": "random", "gram_weights": (1, 0, 0)}, "gram_weights must be four"),
        ({"average": 1.0}, r"average must be in \[0, 1\), got 1.0"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"size_low": 0.5, "size_high": 0.4}, "size_low and size_high must be .*, got 0.5 and 0.4"),
        ({"size_high": 1.1}, "size_low and size_high must be .*, got 0.08 and 1.1"),
        ({"border": 16}, "border must be less than 16, got 16"),
    ],
)
def test_settings_of_the_adversarial_stage_are_checked_when_made(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        FactorsConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "purple"}, "variant must be one of .*, got 'purple'"),
        ({"shape_network": "big"}, "shape_network must be one of published, deep, got 'big'"),
        ({"texture_network": "big"}, "texture_network must be one of published, deep, got 'big'"),
        ({"precision": "fp64"}, "precision must be one of no, bf16, got 'fp64'"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"num_train": 0}, "num_train must be 1 or more, got 0"),
    ],
)
def test_settings_of_the_training_are_checked_when_made(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        SmallConfig(**{"variant": "colored", **settings})


def test_the_average_of_the_shapes_forgets_something() -> None:
    with pytest.raises(ArgumentError, match=r"average must be in \[0, 1\), got 1.0"):
        ShapesConfig(average=1.0)


def test_settings_cannot_be_changed_and_are_checked_again_when_replaced() -> None:
    config = SmallConfig("colored")
    with pytest.raises(FrozenInstanceError):
        config.seed = 3
    with pytest.raises(ArgumentError, match="seed"):
        replace(config, seed=-1)
    assert config == SmallConfig("colored", factors=FactorsConfig(), shapes=ShapesConfig())


# The command line


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SmallConfig, Path, dict[str, object]]]:
    """What the command would have trained."""
    calls: list[tuple[SmallConfig, Path, dict[str, object]]] = []

    class Noted:
        def __init__(self, config: SmallConfig, folder: Path, **arguments: object) -> None:
            calls.append((config, folder, arguments))
            self.trainer = self
            self.seconds = 0.0

        def train(self) -> Path:
            return Path(CGN_FILE)

    monkeypatch.setattr(commands, "SmallTraining", Noted)
    monkeypatch.setattr(commands, "write_card", lambda *_, **__: Path("card"), raising=False)
    return calls


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["train-generator", "small", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_alone_has_the_recipe(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--variant", "wildlife") == 0
    (config, folder, arguments) = asked[0]
    assert config == SmallConfig("wildlife")
    assert folder == Path("runs/small")
    assert arguments == {"resume": False, "save_every": 200}


def test_flags_win_over_the_file_and_the_file_over_the_defaults(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "variant: double_colored\n"
        "factors:\n  num_steps: 7\n  gram_weights: [0.1, 0, 0, 0]\n  features: random\n"
        "shapes:\n  kl_weight: 2.5\n"
    )
    flags = ["--factors.num_steps=9", "--seed=3", "--out=here", "--resume=true", "--save_every=5"]
    assert run(monkeypatch, f"--config={tmp_path}/mine.yaml", *flags) == 0
    (config, folder, arguments) = asked[0]
    assert config == SmallConfig(
        "double_colored",
        seed=3,
        factors=FactorsConfig(num_steps=9, gram_weights=(0.1, 0.0, 0.0, 0.0), features="random"),
        shapes=ShapesConfig(kl_weight=2.5),
    )
    assert folder == Path("here")
    assert arguments == {"resume": True, "save_every": 5}


@pytest.mark.parametrize("variant", ["colored", "double_colored", "wildlife"])
def test_the_papers_settings_are_files(
    variant: str, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, f"--config={PAPER}/{variant}.yaml") == 0
    config = asked[0][0]
    assert (config.variant, config.shape_network) == (variant, "published")
    assert config.masker.num_steps == config.texturing.num_steps == config.shapes.num_steps == 0
    factors = config.factors
    assert factors.discriminator == ("conv" if variant == "wildlife" else "linear")
    assert (factors.adversarial, factors.features) == ("lsgan", "vgg16")
    assert factors.num_steps * factors.batch_size == 15 * 50_000
    assert factors.gain == {"colored": 0.1, "double_colored": 0.2, "wildlife": 0.03}[variant]
    # What the paper does not have is off.
    assert factors.blob_steps == factors.instance_noise == factors.average == 0
    assert factors.size_weight == factors.border_weight == 0
    assert factors.images_per_texture == 1


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_setting_stands_twice_in_a_file(path: Path) -> None:
    names = [line.split(":")[0] for line in path.read_text().splitlines()]
    indented = [name for name in names if name.startswith("  ") and name != "  num_steps"]
    assert len(indented) == len(set(indented))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factors: {num_step: 3}", "num_step"),
        ("colour: red", "colour"),
        ("variant: purple", "variant"),
        ("factors: {discriminator: mlp}", "discriminator"),
        ("factors: {num_steps: many}", "num_steps"),
        ("precision: fp64", "precision"),
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
