"""`train-generator small` on images of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_command
from matplotlib.figure import Figure
from safetensors.torch import load_file
from small_helpers import PARTS, write_folders

from train_generator.cli import generators as commands
from train_generator.cli import program as cli
from train_generator.small.config import ShapesConfig, TexturesConfig
from train_generator.small.training import SmallTraining
from train_generator.training.machine import CGN_FILE

FEW_STEPS = pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning")


@FEW_STEPS
def test_own_images_get_generator_sheet_and_card_and_masks_decide_no_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path)
    images, masks = str(tmp_path / "images"), str(tmp_path / "masks")
    monkeypatch.setattr(SmallTraining, "draw", lambda *_: Figure(figsize=(1, 1)))
    parts = {**PARTS, "texturing": TexturesConfig(num_steps=0), "shapes": ShapesConfig(num_steps=0)}
    weights, cards = [], []
    for number, given in enumerate(({}, {"masks": masks})):
        out = tmp_path / str(number)
        options: dict[str, Any] = {"images": images, "device": "cpu", **given, **parts}
        commands.small(out=str(out), **options)
        weights.append(load_file(out / CGN_FILE))
        cards.append((out / "cgn.md").read_text())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "masks found in the images" not in cards[0]
    assert "with 24 true masks 0." in cards[1]
    assert f"--images {images} --masks {masks}" in cards[1]
    for card in cards:
        assert "| this generator |" in card
        assert "3 classes: bar, box, post;" in card
    said = capsys.readouterr().out
    assert said.count("What is assumed: each image shows one object") == 2
    assert (tmp_path / "0" / "sheets").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "mine", "--variant", "colored"], "--variant.* for MNIST: give one"),
        (["--images", "mine", "--num-train", "10"], "--num-train for MNIST: give one"),
        (["--variant", "colored", "--masks", "m"], "give --images FOLDER too"),
        (["--image-size", "64"], "its images have 32 pixels"),
        (["--images", ".", "--image-size", "64"], "image_size must be 32, got 64"),
        (["--images", "nowhere"], "there is no folder nowhere"),
        (["--images", "i", "--masks", "m", "--masker.num_steps", "0"], "masker.num_steps above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_told(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages = ["--shapes.num_steps=0", "--texturing.num_steps=0"]
    out = tmp_path / "out"
    assert run_command(cli.main, monkeypatch, "small", "--out", out, *stages, *arguments) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert re.search(message, first)
    assert not out.exists()


def test_a_variant_is_trained_on_what_the_recipe_may_know() -> None:
    given = commands.open_images("colored", None, None, None, num=40)
    assert given.data.facts == {"variant": "colored", "textures": "none"}
    assert given.data.description == "colored MNIST"
    assert given.masks is not None
    assert given.masks.shape == (40, 1, 32, 32)
    assert given.flags == {"variant": "colored", "textures": None, "num_train": 40}
