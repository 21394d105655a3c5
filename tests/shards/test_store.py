"""Where a set lies: a folder or an object store, whose files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import fsspec
import pytest
import torch
from file_helpers import names_in
from shard_helpers import FIFTY, contents, render

from cgn_augment import ShardSource, Step
from cgn_augment.errors import ArgumentError, CGNError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards, verify_shards
from cgn_augment.shards.store import Store


def test_leftovers_of_killed_processes_are_removed_and_files_in_use_are_not(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out, world_size=2, ranks=[1])
    left = [".counterfactuals-000002.tmp-0123abcd.tar", "_records/.x.tmp-0123abcd.json"]
    foreign = ["._counterfactuals-000002.tar", ".notes.txt"]
    for name in (*left, *foreign):
        (out / name).write_bytes(b"half")
    told = [problem.name for problem in verify_shards(out) if "--resume removes it" in problem.what]
    assert told == left
    with Store(out).writing("counterfactuals-000004.tar") as file:
        file.write(b"of another process")
        render(tiny_cgn, out, world_size=2, ranks=[0], resume=True)
        names = {path.name for path in out.rglob(".*")}
        assert len(names) == 3  # the one in use, and two that are not ours
    render(tiny_cgn, out, ranks=[0], resume=True)
    for name in foreign:
        (out / name).unlink()
    assert contents(out) == contents(whole)


def test_what_lies_in_the_shared_temporary_folder_stops_no_resume(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.mkfifo(tmp_path / ".cgn-augment-shard.tmp-00000000")
    (tmp_path / ".cgn-augment-shard.tmp-00000001").write_bytes(b"half")
    url = "memory://shards/spool"
    try:
        render_shards(tiny_cgn, url, FIFTY)
        render_shards(tiny_cgn, url, FIFTY, resume=True)
    finally:
        fsspec.filesystem("memory").rm("/shards", recursive=True)
    assert names_in(tmp_path) == [".cgn-augment-shard.tmp-00000000"]


@pytest.mark.parametrize("name", ["run{1,2}", "a::b", "a b\\c", "[ab]*", "~x", "%20"])
def test_a_folder_may_have_any_name(name: str, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    folder = tmp_path / name
    render(tiny_cgn, folder, ShardConfig(num=4, block_size=4))
    assert verify_shards(folder) == []
    for urls in (folder, [folder / "counterfactuals-000000.tar"]):
        assert len(ShardSource(urls, refresh=4, size=4).sample(4, torch.Generator()).shape) == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["counterfactuals-000001.tar", "_settings.json", "manifest.json"])
def test_a_pipe_in_the_place_of_a_file_hangs_nothing(name: str, copied: Path) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    if name == "manifest.json":
        with pytest.raises(CGNError, match=r"no regular file|is not a complete set"):
            ShardSource(copied)
    elif name == "_settings.json":
        with pytest.raises(CGNError, match=r"no regular file|has no _settings"):
            verify_shards(copied)
    else:
        assert any(problem.name == name for problem in verify_shards(copied))
        with pytest.raises(CGNError, match="no regular file"):
            ShardSource(copied).sample(4, torch.Generator())


@pytest.mark.parametrize(
    "name", ["counterfactuals-000001.tar", ".counterfactuals-000001.tmp-01234567.tar"]
)
def test_a_pipe_hangs_no_resume(name: str, copied: Path, tiny_cgn: SmallCGN) -> None:
    before = contents(copied)
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    config = ShardConfig(num=40, shard_size=10, members=("mask",))
    render(tiny_cgn, copied, config, resume=True)
    assert contents(copied) == before


def test_a_pipe_in_the_place_of_settings_hangs_no_resume(copied: Path, tiny_cgn: SmallCGN) -> None:
    (copied / "_settings.json").unlink()
    os.mkfifo(copied / "_settings.json")
    config = ShardConfig(num=40, shard_size=10, members=("mask",))
    with pytest.raises(CGNError, match=r"no regular file|no _settings\.json"):
        render(tiny_cgn, copied, config, resume=True)


def test_unknown_protocols_are_an_error(tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentError, match="'nowhere://set' cannot be used: Protocol not known"):
        render_shards(tiny_cgn, "nowhere://set", FIFTY)


# Other libraries leave files open, and warn of what they themselves do.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_a_set_in_a_bucket_is_rendered_resumed_checked_and_read(
    bucket: str, whole: Path, tiny_cgn: SmallCGN
) -> None:
    url = f"{bucket}/some/set"
    assert render_shards(tiny_cgn, url, FIFTY, rank=1, world_size=2) is None
    files, root = fsspec.core.url_to_fs(url)
    files.rm(f"{root}/counterfactuals-000003.tar")
    render_shards(tiny_cgn, url, FIFTY, resume=True)
    files.invalidate_cache()
    found = files.find(root)
    assert {p.removeprefix(f"{root}/"): files.cat(p) for p in found} == contents(whole)
    assert verify_shards(url) == []
    local, remote = (ShardSource(place, refresh=8) for place in (whole, url))
    assert remote.fingerprint == local.fingerprint
    drawn = [s.sample(8, torch.Generator().manual_seed(2), Step(2)) for s in (local, remote)]
    assert torch.equal(drawn[0].images, drawn[1].images)
