"""The commands that draw numbered images, interpolations and animations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import run_command
from imagenet_helpers import make_reduced_cgn
from PIL import Image

from cgn_augment.cli import program as cli
from cgn_augment.generators import SmallCGN, save_cgn


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return lambda *arguments: run_command(cli.main, monkeypatch, *arguments)


@pytest.fixture
def small_path(tiny_cgn: SmallCGN, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_cgn(tiny_cgn, path)
    return path


def test_the_command_samples_what_is_asked_for(
    run: Callable[..., int], small_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--mode=per-class", "--num=2", "--shape=[3, 7]", "--texture=1", "--save=[mask]"]
    assert run("sample", small_path, out, *options) == 0
    assert "4 images" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert [(line["shape"], line["texture"]) for line in lines] == [(3, 1)] * 2 + [(7, 1)] * 2
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.csv",
        "labels.jsonl",
        "mask",
        "settings.json",
    ]
    assert json.loads((out / "settings.json").read_text())["mode"] == "per-class"
    assert run("sample", small_path, out) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_the_command_samples_an_imagenet_cgn_at_a_truncation(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_cgn(make_reduced_cgn(), tmp_path / "cgn.safetensors")
    arguments = ["sample", tmp_path / "cgn.safetensors", tmp_path / "out", "--num=2", "--same=true"]
    assert run(*arguments, "--truncation=0.5", "--fixed_noise=true") == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["truncation"] == 0.5
    assert settings["fixed_noise"]
    assert run("sample", tmp_path / "cgn.safetensors", tmp_path / "new", "--shape=tench") == 2
    assert "6 classes of this CGN have no names, got 'tench'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "gif", "mp4"])
def test_the_command_interpolates_into_sheets_and_animations(
    suffix: str, run: Callable[..., int], small_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"way.{suffix}"
    options = ["--factor=shape", "--background=2", "--steps=2", "--save=[mask, composite]"]
    assert run("interpolate", small_path, out, "[3, 7]", *options) == 0
    if suffix == "mp4":
        with av.open(str(out)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    else:
        with Image.open(out) as image:
            frames = [np.asarray(image.convert("RGB"))] * getattr(image, "n_frames", 1)
    assert len(frames) == (1 if suffix == "png" else 3)
    assert frames[0].std() > 10
    if suffix != "png":
        assert frames[0].shape == (256, 512, 3)  # mask and composite side by side


def test_the_commands_errors_are_one_line(
    run: Callable[..., int], small_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["interpolate", "missing", tmp_path / "a.avi", "[1, 2]"], "saved as one of .png"),
        (["interpolate", small_path, tmp_path / "a.png", "[1]"], "two classes or more"),
        (["interpolate", small_path, tmp_path / "a.gif", "[1, 12]"], "the classes 0 to 9, not 12"),
        (["sample", small_path, tmp_path / "o", "--truncation=0.5"], "has no truncation"),
        (["sample", small_path, tmp_path / "o", "--mode=best"], "best classes are known of"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
