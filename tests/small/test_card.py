"""Cards say how a generator was made, so that it can be made again."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest
from conftest import load_tool, make_tiny_cgn

from cgn_augment import load_cgn
from cgn_augment.generators import SmallCGN, bundled_generators, save_cgn
from train_generator.cli import generators as commands
from train_generator.cli import program as cli
from train_generator.mnist import AppearanceJudge, Judges, load_shape_judge
from train_generator.small import card
from train_generator.small.card import repeat_command, write_card
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)

REPO = Path(__file__).resolve().parents[2]
CONFIGS = {
    "default": SmallConfig("wildlife"),
    "top": SmallConfig(
        "colored", seed=3, precision="bf16", texturing=TexturesConfig(num_steps=7), textures=None
    ),
    "nested": SmallConfig(
        "double_colored",
        num_train=100,
        factors=FactorsConfig(num_steps=5, adversarial="lsgan"),
        masker=MaskerConfig(noise=0.25),
        shapes=ShapesConfig(class_weight=0.0),
    ),
    "gram": SmallConfig(
        "colored",
        factors=FactorsConfig(features="random", gram_weights=(0.05, 0.1, 0.01, 0.0)),
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_command_on_a_card_trains_with_the_same_settings(
    config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(config: SmallConfig, folder: Path, **options: object) -> SimpleNamespace:
        seen.append((config, folder))
        return SimpleNamespace(train=lambda: folder, trainer=SimpleNamespace(seconds=1.0))

    monkeypatch.setattr(commands, "SmallTraining", note)
    monkeypatch.setattr(commands, "write_card", lambda *_: "card")
    words = shlex.split(repeat_command(config))
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path)])
    cli.main()
    assert seen == [(config, tmp_path)]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
    monkeypatch.setattr(card, "load_judges", lambda *_: judges)
    path = tmp_path / "run" / "cgn.safetensors"
    path.parent.mkdir()
    save_cgn(make_tiny_cgn(), path, versions={"torch": "2"})
    write_card(path, SmallConfig("colored"), seconds=90 * 60, num=60)
    return path


def test_a_card_has_command_time_memory_metrics_and_picture(trained: Path) -> None:
    text = trained.with_suffix(".md").read_text()
    assert "`train-generator small --variant colored`" in text
    assert "time: 90 minutes on" in text
    assert " GiB\n" in text
    assert load_cgn(trained).fingerprint in text
    header, _, row, real = [line for line in text.splitlines() if line.startswith("|")]
    assert header.startswith("| generator | shape |")
    assert row.startswith("| this generator |")
    assert real.startswith("| real data |")
    assert "(cgn.png)" in text
    assert matplotlib.image.imread(trained.with_suffix(".png")).std() > 0.05


def test_a_finished_run_is_bundled_under_a_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    load_tool("bundle_generator").bundle(trained.parent, "mine", weights)
    monkeypatch.setattr("cgn_augment.generators.checkpoint.WEIGHTS", weights)
    assert bundled_generators() == ["mine"]
    assert load_cgn("mine").fingerprint == load_cgn(trained).fingerprint
    text = (weights / "mine.md").read_text()
    assert text.startswith("# mine\n")
    assert "(mine.png)" in text
    assert (weights / "mine.png").is_file()


def test_a_card_of_another_generator_is_not_bundled(trained: Path, tmp_path: Path) -> None:
    save_cgn(SmallCGN(width=4), trained)
    with pytest.raises(SystemExit, match="is of another generator"):
        load_tool("bundle_generator").bundle(trained.parent, "mine", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
