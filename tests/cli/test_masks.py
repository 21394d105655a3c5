"""The command that finds masks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import run_command
from file_helpers import FORKS, own
from layout_helpers import WATERBIRDS, make_waterbirds
from mask_helpers import make_images, read_mask
from torch import Tensor

from cgn_augment.cli import masks as commands
from cgn_augment.cli import program


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        return run_command(program.main, patch, "masks", *arguments)


def test_the_command_writes_masks_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "masks"
    (photos / "cat" / "broken.jpg").write_bytes(b"nothing")
    given = (photos, out, "--masker", "grabcut", "--size", 64, "--largest", "true")
    assert run(*given) == 0
    told = capsys.readouterr()
    assert "3 masks written" in told.out
    assert "1 images could not be read and have no mask: " in told.out
    assert "image/s" in told.err
    assert read_mask(out / "dog" / "a" / "3.png").shape == (64, 30)
    assert run(*given, "--batch-size", 2) == 0
    assert "0 masks written, 3 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say what finds the masks, --masker M: a masker is a file model.onnx"),
        (("--masker", "nothing"), "there is no masker 'nothing'"),
        (("--masker", "u2net.onnx"), "there is no file u2net.onnx"),
        (("--masker", "grabcut", "--mean", "[0.5,0.5,0.5]"), "grabcut has no mean: leave it out"),
        (("--masker", "grabcut", "--edges", "soft"), "edges"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    assert run(make_images(tmp_path / "photos"), tmp_path / "masks", *arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "masks").exists()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*args: object, **kwargs: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "write_masks", press)
    assert run(tmp_path, tmp_path / "masks", "--masker", "grabcut") == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


def test_a_benchmark_is_masked_and_taken_apart_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = f"waterbirds:{make_waterbirds(tmp_path / 'birds', side=48)}", tmp_path / "masks"
    assert run(place, out, "--masker", "grabcut", "--size", 32, "--split", "val") == 0
    assert f"{sum(WATERBIRDS['val'])} masks written" in capsys.readouterr().out
    words = ["parts", place, tmp_path / "parts", "--masks", out, "--fill", "none", "--split", "val"]
    with pytest.MonkeyPatch.context() as patch:
        assert run_command(program.main, patch, *words, "--num-workers", 0) == 0
    assert f"complete, {sum(WATERBIRDS['val'])} images" in capsys.readouterr().out
    assert run(f"waterbirds:{tmp_path}", out, "--masker", "grabcut") == 2
    assert "there is no " in capsys.readouterr().err


def test_images_of_which_none_can_be_read_are_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"nothing")
    assert run(tmp_path / "photos", tmp_path / "masks", "--masker", "grabcut") == 1
    assert "1 images could not be read and have no mask: " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_processes_that_write_masks_into_one_folder_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "masks"
    other = FORKS.Process(target=own, args=(out, False))
    other.start()
    try:
        while not (out / "owned").exists():
            time.sleep(0.01)
        assert run(photos, out, "--masker", "grabcut", "--size", 64) == 2
    finally:
        other.kill()
        other.join()
    assert "error: another process is writing to " in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["owned"]
    assert run(photos, out, "--masker", "grabcut", "--size", 64) == 0
