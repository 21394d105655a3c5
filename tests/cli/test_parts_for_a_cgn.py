"""The commands that draw from a CGN draw from a folder of parts too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from colored_parts_helpers import write_set
from conftest import run_command

from cgn_augment.cli import program


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return lambda *arguments: run_command(program.main, monkeypatch, *arguments)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]


def test_sheet_and_info(
    run: Callable[..., int], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sheet", parts, tmp_path / "sheet.png", "--num=3", "--size=24") == 0
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    assert run("info", parts) == 0
    told = capsys.readouterr().out
    assert "40x40" in told
    assert "0 ant, 1 bee, 2 cow" in told
    assert run("sheet", "colored-mnist", tmp_path / "sheet.png", "--size=24") == 2
    assert "leave size out" in capsys.readouterr().err


def test_sample(
    run: Callable[..., int], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--shape=bee", "--background=other", "--num=12", "--size=20", "--save=[mask]"]
    assert run("sample", parts, tmp_path / "out", *options) == 0
    found = rows(tmp_path / "out")
    assert {row["shape_name"] for row in found} == {row["texture_name"] for row in found} == {"bee"}
    assert {row["background_name"] for row in found} == {"ant", "cow"}
    assert run("sample", parts, tmp_path / "same", "--same=true", "--mode=per-class") == 0
    assert all(row["shape"] == row["background"] for row in rows(tmp_path / "same"))
    assert run("sample", parts, tmp_path / "no", "--shape=dog") == 2
    assert "'dog' is none of the classes ['ant', 'bee', 'cow']" in capsys.readouterr().err
    assert run("sample", parts, tmp_path / "no", "--texture=[0, 1]") == 2
    assert "no foreground of class 0" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_preview(
    run: Callable[..., int], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = parts.parent / "photos", tmp_path / "preview.png"
    options = ["--cgn", parts, "--out", out, "--batch-size=6", "--image-size=24"]
    assert run("preview", photos, *options) == 0
    assert out.stat().st_size > 5000
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ant").symlink_to(photos / "ant")
    assert run("preview", tmp_path / "photos", *options) == 2
    assert "that class_to_idx lacks" in capsys.readouterr().err


def test_shards(
    run: Callable[..., int], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    options = ["--num", 24, "--shard-size", 12, "--background", "other", "--size", 20]
    assert run("shards", "--cgn", parts, "--out", out, *options) == 0
    assert run("shards", "verify", out) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert settings["image_size"] == 20
    assert settings["interventions"]["texture"] == "shape"
    assert settings["interventions"]["background"] == "other"
    assert (
        run("shards", "--cgn", parts, "--out", tmp_path / "no", "--texture", "[0]", *options) == 2
    )
    assert "no foreground of class 0" in capsys.readouterr().err
