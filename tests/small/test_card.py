"""Cards say how a generator was made, how good it is, and what was assumed."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch
from conftest import load_tool, make_tiny_cgn
from matplotlib.figure import Figure
from small_helpers import make_images

from cgn_augment import load_cgn
from cgn_augment.generators import SmallCGN, bundled_generators, save_cgn
from train_generator.small.card import Measured, assumptions, write_card
from train_generator.small.config import FactorsConfig, SmallConfig


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "cgn.safetensors"
    path.parent.mkdir()
    save_cgn(make_tiny_cgn(num_classes=3), path, versions={"torch": "2"})
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [1, 0])
    table = [["of", "mask area"], ["this generator", "0.123"]]
    overlap = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.5])
    measured = Measured(table, "What the columns mean.", figure, overlap=overlap)
    config, data = SmallConfig(seed=3), make_images()[0]
    write_card(path, config, data, {"images": "my images"}, 90 * 60, measured)
    return path


def test_a_card_says_all(trained: Path) -> None:
    text = trained.with_suffix(".md").read_text()
    for part in (
        "for a made-up world: 32x32 pixels, 3 classes: box, bar, post;",
        "Trained from nothing but 24 images and their labels.",
        "`train-generator small --images 'my images' --seed 3`",
        "time: 90 minutes on",
        " GiB\n",
        f"fingerprint: {load_cgn(trained).fingerprint}",
        "5 true masks 0.6000; worst classes: post 0.000, bar 0.500, box 1.000",
        "What is assumed: each image shows one object; it is in the centre;",
        "| this generator | 0.123       |\n",
        "What the columns mean.",
        "(cgn.png)",
    ):
        assert part in text, part
    assert matplotlib.image.imread(trained.with_suffix(".png")).std() > 0.05


def test_what_the_settings_do_not_assume_is_not_claimed() -> None:
    free = FactorsConfig(blob_steps=0, size_weight=0.0, border_weight=0.0)
    assert "keeps 5 pixels" in assumptions(SmallConfig())
    text = assumptions(SmallConfig(factors=free))
    assert not [word for word in ("centre", "edges", "%") if word in text]


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
