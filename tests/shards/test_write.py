"""Rendering shards: the same bytes whoever renders them, and nothing half-written."""

from __future__ import annotations

import random
import resource
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import REPO
from shard_helpers import (
    FIFTY,
    NUM_KILLS,
    contents,
    kill_until_complete,
    members,
    render,
    start_ranks,
)

from cgn_augment import Interventions
from cgn_augment.errors import ArgumentError, ArgumentTypeError, FileError
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.shards import ShardConfig, render_shards, verify_shards, write

# The same set whoever renders it


@pytest.mark.parametrize("world_size", [2, 7])
def test_ranks_write_disjoint_shards_of_the_same_set(
    world_size: int, whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    written: list[set[str]] = []
    for rank in reversed(range(world_size)):
        before = set(contents(tmp_path))
        render(tiny_cgn, tmp_path / "set", world_size=world_size, ranks=[rank])
        tars = {name for name in set(contents(tmp_path)) - before if name.endswith(".tar")}
        assert not any(tars & other for other in written)
        written.append(tars)
    assert contents(tmp_path / "set") == contents(whole)


def test_torchrun_says_which_rank_this_is(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        render_shards(tiny_cgn, tmp_path / "set", FIFTY)
    assert contents(tmp_path / "set") == contents(whole)


def test_encoders_and_threads_do_not_change_the_bytes(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        render(tiny_cgn, tmp_path / "set", num_encoders=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "set") == contents(whole)


def test_a_sample_depends_neither_on_the_shard_size_nor_on_how_many_there_are(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render(tiny_cgn, tmp_path / "set", ShardConfig(num=33, shard_size=5, block_size=8))
    expected, found = (
        {name: data for path in folder.glob("*.tar") for name, data in members(path).items()}
        for folder in (whole, tmp_path / "set")
    )
    assert found == {name: data for name, data in expected.items() if int(name[:9]) < 33}


def test_another_seed_is_another_set(whole: Path, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    render(tiny_cgn, tmp_path / "set", replace(FIFTY, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    for name, data in contents(tmp_path / "set").items():
        assert name == "_info.json" or data != contents(whole)[name]


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("CUDA out of memory")])
def test_what_is_complete_stays_and_resume_gives_the_same_bytes(
    error: BaseException,
    whole: Path,
    tiny_cgn: SmallCGN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = (0, 1, 1, 2, 3)  # two shards, which share one, and a part of the third
    drawn = [write.draw_block(tiny_cgn, FIFTY, number) for number in blocks]
    with monkeypatch.context() as stopping:
        stopping.setattr(write, "draw_block", Mock(side_effect=[*drawn, error]))
        with pytest.raises(type(error)):
            render(tiny_cgn, tmp_path / "set")
    left = contents(tmp_path / "set")
    assert 3 <= len(left) < len(contents(whole))
    assert left.items() <= contents(whole).items()
    render(tiny_cgn, tmp_path / "set", resume=True)
    assert contents(tmp_path / "set") == contents(whole)


def test_resume_renders_only_what_is_missing(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    (out / "counterfactuals-000001.tar").unlink()
    (out / "_records" / "counterfactuals-000003.json").unlink()
    damaged = out / "counterfactuals-000004.tar"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    drawn: list[int] = []
    draw_block = write.draw_block
    monkeypatch.setattr(
        write, "draw_block", lambda *args: drawn.append(args[2]) or draw_block(*args)
    )
    render(tiny_cgn, out, resume=True)
    assert drawn == [1, 2, 4, 5, 6]  # blocks of shards 1, 3 and 4, in that order
    assert contents(out) == contents(whole)
    drawn.clear()
    render(tiny_cgn, out, resume=True)
    assert drawn == []


def test_a_file_that_cannot_grow_keeps_the_complete_shards_and_leaves_nothing_half_written(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out, world_size=2, ranks=[1])
    begun, before = contents(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(FileError, match=r"\(File too large\): complete .* --resume goes on"):
            render(tiny_cgn, out, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert contents(out) == begun
    render(tiny_cgn, out, resume=True)
    assert contents(out) == contents(whole)


def test_a_target_that_cannot_be_written_is_one_clear_error(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match=r"cannot be written \(.*\): complete shards stay"):
        render(tiny_cgn, tmp_path / "file" / "set")
    with pytest.raises(FileError, match="cannot be written"):
        render(tiny_cgn, Path("/proc/set"))  # read-only for everyone


def test_bit_rot_survives_a_resume_as_the_page_says_and_verify_finds_it(
    copied: Path, tiny_cgn: SmallCGN
) -> None:
    path = copied / "counterfactuals-000001.tar"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    render(tiny_cgn, copied, ShardConfig(num=40, shard_size=10, members=("mask",)), resume=True)
    assert path.read_bytes() == data
    assert [problem.shard for problem in verify_shards(copied)] == [1]
    page = (REPO / "docs" / "shards.md").read_text(encoding="utf-8")
    assert "`--resume` compares each shard's size with its record and does not read it" in page
    assert "so bytes that have changed on the disk stay as they are" in page


@pytest.mark.parametrize("num_kills", [1, pytest.param(NUM_KILLS, marks=pytest.mark.slow)])
def test_sets_of_killed_ranks_equal_an_uninterrupted_one(
    num_kills: int, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    config = ShardConfig(num=400, shard_size=10, format="jpg", block_size=16)
    checkpoint = tmp_path / "tiny.safetensors"
    save_cgn(tiny_cgn, checkpoint)
    render(tiny_cgn, tmp_path / "whole", config)
    chance, kills = random.Random(0), 0
    while kills < num_kills:
        out = tmp_path / f"set{kills}"
        kills += kill_until_complete(
            out, num_kills - kills, chance, 9, lambda at: start_ranks(checkpoint, at, config)
        )
        render(tiny_cgn, out, config, resume=True)
        assert contents(out) == contents(tmp_path / "whole")
        assert verify_shards(out) == []


def test_a_wrong_argument_is_known_before_anything_is_written(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    with pytest.raises(ArgumentTypeError, match="rendered by a frozen CGN"):
        render_shards(SmallCGN(width=4), out, FIFTY)
    with pytest.raises(ArgumentError, match="num_encoders must be 1 or more"):
        render_shards(tiny_cgn, out, FIFTY, num_encoders=0)
    with pytest.raises(ArgumentError, match="shape lists class 10"):
        render_shards(tiny_cgn, out, ShardConfig(5, interventions=Interventions(shape=10)))
    with pytest.raises(ArgumentError, match="rank must be 0 to 1 of 2, got 2"):
        render_shards(tiny_cgn, out, FIFTY, rank=2, world_size=2)
    assert not out.exists()
