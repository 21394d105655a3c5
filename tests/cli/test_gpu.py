"""Commands that draw on a GPU, with a generator that the package brings along."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import run_command

from cgn_augment.cli import program
from cgn_augment.shards import verify_shards

pytestmark = pytest.mark.gpu

NAME = "colored-mnist"


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        return run_command(program.main, patch, *arguments)


def test_a_sheet_drawn_on_a_gpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    pictures = []
    for device in ("cpu", "cuda"):
        assert run("sheet", NAME, tmp_path / f"{device}.png", "--num", 4, "--device", device) == 0
        pictures.append(matplotlib.image.imread(tmp_path / f"{device}.png"))
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.01


def test_shards_are_rendered_on_a_gpu(tmp_path: Path) -> None:
    settings = "--num", 40, "--shard-size", 10, "--members", "[mask]", "--device", "cuda"
    assert run("shards", "--cgn", NAME, "--out", tmp_path / "set", *settings) == 0
    verify_shards(tmp_path / "set")
    assert run("shards", "--cgn", NAME, "--out", tmp_path / "set", *settings, "--resume") == 0


def test_images_are_sampled_on_a_gpu(tmp_path: Path) -> None:
    settings = "--num", 6, "--chunk", 4, "--save", "[mask, composite]", "--device", "cuda"
    assert run("sample", NAME, tmp_path / "samples", *settings) == 0
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 12


def test_a_way_between_classes_is_drawn_on_a_gpu(tmp_path: Path) -> None:
    settings = "[0, 3]", "--steps", 3, "--device", "cuda"
    assert run("interpolate", NAME, tmp_path / "way.png", *settings) == 0
    assert (tmp_path / "way.png").stat().st_size > 1000
