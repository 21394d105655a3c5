"""The commands on sets of shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from conftest import run_command
from shard_helpers import contents, render

from cgn_augment.cli import program
from cgn_augment.cli import shards as commands
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.shards import ShardConfig, verify_shards

CONFIG = ShardConfig(num=40, shard_size=10, members=("mask",))
SETTINGS = ("--num", "4_0", "--shard-size", 10, "--members", "[mask]")


@pytest.fixture(scope="module")
def place(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CGN and four shards of ten images with a mask."""
    folder = tmp_path_factory.mktemp("tools")
    save_cgn(tiny_cgn, folder / "tiny.safetensors")
    render(tiny_cgn, folder / "set", CONFIG)
    return folder


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        return run_command(program.main, patch, "shards", *arguments)


def test_the_command_renders_what_the_function_renders(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    settings = ("--cgn", place / "tiny.safetensors", "--out", out, *SETTINGS, "--world-size", 2)
    assert run(*settings, "--rank", 1) == 0
    assert "those of others are not yet" in capsys.readouterr().out
    assert run(*settings, "--rank", 0) == 0
    assert "complete, 40 images in 4 shards" in capsys.readouterr().out
    assert contents(out) == contents(place / "set")
    assert run(*settings, "--rank", 0) == 2
    assert "pass --resume" in capsys.readouterr().err
    assert run("verify", out) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    (out / "counterfactuals-000002.tar").unlink()
    assert run("verify", out) == 1
    assert "to write again: 1 of the shards (2)" in capsys.readouterr().out
    assert run("info", out, "--sheet", tmp_path / "sheet.png") == 0
    assert "30 of 40" in capsys.readouterr().out
    assert run(*settings, "--rank", 0, "--resume") == 0
    assert contents(out) == contents(place / "set")


@pytest.mark.slow
def test_torchrun_starts_the_ranks(place: Path, tmp_path: Path) -> None:
    torchrun, program = (Path(sys.executable).with_name(n) for n in ("torchrun", "cgn-augment"))
    command = [torchrun, "--nproc-per-node", 2, "--no-python", "--", program, "shards"]
    command += ["--cgn", place / "tiny.safetensors", "--out", tmp_path / "set", *SETTINGS]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    assert contents(tmp_path / "set") == contents(place / "set")


def test_ctrl_c_keeps_complete_shards_and_says_how_to_go_on(
    place: Path,
    tiny_cgn: SmallCGN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "set"
    given = ("--cgn", place / "tiny.safetensors", "--out", out, *SETTINGS)

    def press(*args: object, **kwargs: object) -> None:
        render(tiny_cgn, out, CONFIG, ranks=[0, 1], world_size=3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "render_shards", press)
        assert run(*given) == 130
    error = capsys.readouterr().err
    assert "interrupted; the same command with --resume completes the set" in error
    assert "Traceback" not in error
    assert run(*given, "--resume") == 0
    assert verify_shards(out) == []


def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--num", 5) == 2
    assert "are required: cgn, out" in capsys.readouterr().err
    assert run("--help") == 0
    assert "--resume" in capsys.readouterr().out
    assert run("verify", "nowhere") == 2
    error = capsys.readouterr().err
    assert "nowhere has no _settings.json" in error
    assert "damaged" not in error


def test_info_prints_a_summary_and_draws_a_sheet(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", place / "set", "--sheet", tmp_path / "sheet.png") == 0
    printed = capsys.readouterr().out
    for line in ("40 of 40", "4 of 4", "cls, json, mask.png, png", "32x32", "10 of 10"):
        assert line in printed
    assert matplotlib.image.imread(tmp_path / "sheet.png").std() > 0.05
    assert run("info", place / "set", "--sheet", "sheet.gif") == 2
    assert "a picture is saved as one of" in capsys.readouterr().err
