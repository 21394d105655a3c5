"""The commands on sets of parts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import pytest
from conftest import run_command
from part_helpers import make_photos, write
from shard_helpers import contents

from cgn_augment.cli import parts as commands
from cgn_augment.cli import program
from cgn_augment.errors import ArgumentError
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import draw_parts
from cgn_augment.parts.verify import verify_parts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and their parts; one mask is missing, and one class has none."""
    folder = make_photos(tmp_path_factory.mktemp("command"))
    (folder / "masks" / "cat" / "002.png").unlink()
    for path in (folder / "masks" / "dog").iterdir():
        path.unlink()
    write(folder, folder / "set")
    return folder


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        return run_command(program.main, patch, "parts", *arguments)


def settings(place: Path) -> tuple[object, ...]:
    return ("--masks", place / "masks", "--fill", "none", "--shard-size", 3, "--num-workers", 1)


def test_the_command_writes_what_the_function_writes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (place / "photos", tmp_path / "set", *settings(place), "--world-size", 2)
    assert run(*given, "--rank", 1) == 0
    assert "those of others are not yet" in capsys.readouterr().out
    assert run(*given, "--rank", 0) == 0
    told = capsys.readouterr()
    assert "complete, 8 images in 3 shards" in told.out
    assert "left out: 5 no mask; left_out.jsonl lists them" in told.out
    assert "of the class dog no object could be used" in told.out
    assert "of the class cat" not in told.out
    assert "image/s" in told.err
    assert "rank 0: " in told.err
    assert contents(tmp_path / "set") == contents(place / "set")
    assert run(*given, "--rank", 0) == 2
    assert "pass --resume" in capsys.readouterr().err
    (tmp_path / "set" / "parts-000002.tar").unlink()
    assert run("verify", tmp_path / "set") == 1
    assert "to write again: 1 of the shards (2)" in capsys.readouterr().out
    assert run(*given, "--rank", 0, "--resume") == 0
    assert run("verify", tmp_path / "set") == 0


def test_info_prints_a_summary_and_draws_a_contact_sheet(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", place / "set", "--sheet", tmp_path / "sheet.png") == 0
    printed = capsys.readouterr().out
    for line in (
        "8 of 8",
        "3 of 3",
        "left out             5 no mask",
        "class cat            3 objects and 3 backgrounds of 4 images (75 % usable)",
        "class dog            0 objects and 0 backgrounds of 4 images (0 % usable)",
        "warning              0 % of the images of class dog are usable (4 no mask)",
    ):
        assert line in printed
    assert matplotlib.image.imread(tmp_path / "sheet.png").std() > 0.05
    (tmp_path / "set").mkdir()
    assert run("info", tmp_path / "set", "--sheet", tmp_path / "sheet.png") == 2
    assert "no _settings.json, so it is not a complete set of parts" in capsys.readouterr().err


def test_a_list_of_what_was_left_out_can_be_excluded(place: Path, tmp_path: Path) -> None:
    listed = place / "set" / "left_out.jsonl"
    assert run(place / "photos", tmp_path / "set", *settings(place), "--exclude", listed) == 0
    assert PartSet.open(tmp_path / "set").counts == {"usable": 3, "excluded": 5}


def test_of_a_set_without_any_object_it_is_said_why(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--masks", "alpha", "--fill", "none", "--num-workers", 0)
    assert run(place / "photos", tmp_path / "set", *given) == 0
    told = capsys.readouterr().out
    assert "left out: 8 unreadable" in told
    assert "of the class" not in told
    assert "no image has an object that can be used: cat/000 is left out as unreadable" in told
    assert "alpha" in told


def test_the_command_says_what_is_missing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place / "photos", tmp_path / "set") == 2
    assert "say where the masks are: --masks FOLDER" in capsys.readouterr().err
    assert run(place / "photos") == 2
    assert "out" in capsys.readouterr().err
    assert run("--help") == 0
    assert "--max-hole" in capsys.readouterr().out


def test_a_masker_finds_the_masks_first(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "set"
    given = ("--masks", masks, *settings(place)[2:], "--masker", "grabcut")
    refined = ("--masking.size", 64, "--masking.largest", "true")
    assert run(place / "photos", out, *given, *refined) == 0
    assert f"{masks}: 8 masks written" in capsys.readouterr().out
    assert PartSet.open(out).counts == {"usable": 8}
    made = contents(out)
    assert run("verify", out) == 0
    shutil.rmtree(out)
    assert run(place / "photos", out, "--masks", masks, *settings(place)[2:]) == 0
    assert contents(out) == made


def test_no_mask_is_found_for_a_set_among_the_images(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--masks", tmp_path / "masks", "--masker", "grabcut")
    assert run(place / "photos", place / "photos" / "set", *given) == 2
    assert "give a folder beside it" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_each_rank_finds_the_masks_of_its_shards(place: Path, tmp_path: Path) -> None:
    given = ("--fill", "none", "--shard-size", 3, "--num-workers", 0, "--masker", "grabcut")
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert run(place / "photos", whole / "set", "--masks", whole / "masks", *given) == 0
    for rank in (3, 1, 0, 2):  # the last one has no shard
        ranks = ("--rank", rank, "--world-size", 4, "--resume")
        masks = ("--masks", shared / "masks")
        assert run(place / "photos", shared / "set", *masks, *given, *ranks) == 0
        found = len(list((shared / "masks").rglob("*.png")))
        assert found == {3: 1, 1: 4, 0: 6, 2: 8}[rank]  # of shards of three, three and two
    for path in (whole / "masks").rglob("*.png"):
        other = shared / "masks" / path.relative_to(whole / "masks")
        assert other.read_bytes() == path.read_bytes()
    assert PartSet.open(shared / "set").counts == PartSet.open(whole / "set").counts


@pytest.mark.parametrize(
    ("images", "arguments", "told"),
    [
        ("photos", ("--masker", "nothing"), "there is no masker 'nothing'"),
        ("photos", ("--masking.size", "64"), "--masking is for a masker: pass --masker too"),
        ("a.tar", ("--masker", "grabcut", "--classes", "2"), "there is no shard"),
        ("photos", ("--masker", "grabcut", "--rank", "0"), "give rank and world_size together"),
        (
            "photos",
            ("--masker", "grabcut", "--masks", "alpha"),
            "--masks must name the folder that a masker's masks are written to, got 'alpha'",
        ),
        (
            "photos",
            ("--masker", "grabcut", "--masks", "own"),
            "are written to: --masks masks",
        ),
        # No mask is found for a set that cannot be written.
        ("photos", ("--masker", "grabcut", "--num-workers", "-1"), "num_workers must be 0 or more"),
        ("photos", ("--masker", "grabcut", "--exclude", "none.txt"), "none.txt cannot be read as"),
        ("photos", ("--masker", "grabcut", "--exclude", __file__), "keys to exclude are of no"),
    ],
)
def test_a_masker_that_cannot_be_used_is_one_line(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    images: str,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    given = ("--masks", tmp_path / "masks", *arguments)
    assert run(place / images, tmp_path / "set", *given) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_mask_is_found_for_a_set_below_a_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    given = ("--masks", tmp_path / "masks", "--masker", "grabcut")
    for out in (tmp_path / "file", tmp_path / "file" / "set"):
        assert run(place / "photos", out, *given) == 2
        error = capsys.readouterr().err
        assert f"{out} cannot be written ({tmp_path / 'file'} is a file)" in error
        assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_split_that_is_taken_apart_is_masked(place: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(place / "photos", tmp_path / "photos" / split)
    given = ("--masks", tmp_path / "masks", *settings(place)[2:], "--masker", "grabcut")
    assert run(tmp_path / "photos", tmp_path / "set", *given, "--masking.size", 64) == 0
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["masks.json", "train"]
    assert PartSet.open(tmp_path / "set").counts == {"usable": 8}


def test_ctrl_c_says_how_to_go_on(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def press(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "write_parts", press)
        assert run(place / "photos", tmp_path / "set", *settings(place)) == 130
    error = capsys.readouterr().err
    assert "interrupted; the same command with --resume completes the set" in error


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_ends_the_workers_and_resume_completes(tmp_path: Path) -> None:
    make_photos(tmp_path, 300)
    out = tmp_path / "set"
    command = [sys.executable, "-m", "cgn_augment.cli", "parts", tmp_path / "photos", out]
    command += ["--masks", tmp_path / "masks", "--shard-size", 20, "--num-workers", 2]
    words = list(map(str, command))
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        while len(list(out.glob("*.tar"))) < 2:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to workers too
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted; the same command with --resume" in error
    assert b"Traceback" not in error
    with pytest.raises(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, 0)
    subprocess.run([*words, "--resume"], check=True, timeout=300)
    assert verify_parts(out) == []


@pytest.mark.slow
def test_torchrun_starts_the_ranks(place: Path, tmp_path: Path) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [torchrun, "--nproc-per-node", 2, "--module", "cgn_augment.cli", "parts"]
    command += [place / "photos", tmp_path / "set", *settings(place)]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    assert contents(tmp_path / "set") == contents(place / "set")


@pytest.mark.parametrize("num", [0, -1])
@pytest.mark.parametrize("command", ["info", "review"])
def test_a_number_of_images_below_1_is_refused_before_anything_is_printed(
    command: str,
    num: int,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command, place / "set", "--num", num) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"cgn-augment: error: num must be 1 or more, got {num}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_not_there_is_one_line_without_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "not a complete set of parts" in printed.err


def test_a_contact_sheet_has_a_column(place: Path) -> None:
    for num in (0, -1):
        with pytest.raises(ArgumentError, match="num_columns must be 1 or more"):
            draw_parts(PartSet.open(place / "set"), num)
