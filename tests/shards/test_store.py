"""Where a set lies: a folder or an object store, whose files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import torch
from shard_helpers import FIFTY, contents, render

from cgn_augment import ShardSource, Step
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import render_shards, verify_shards
from cgn_augment.shards.store import Store


def test_leftovers_of_killed_processes_are_removed_and_files_in_use_are_not(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out, world_size=2, ranks=[1])
    for name in (".counterfactuals-000002.abc.tar", ".manifest.abc.json", "_records/.x"):
        (out / name).write_bytes(b"half")
    with Store(out).writing("counterfactuals-000004.tar") as file:
        file.write(b"of another process")
        render(tiny_cgn, out, world_size=2, ranks=[0], resume=True)
        names = {path.name for path in out.rglob(".*")}
        assert len(names) == 2  # the one in use, and one that is not ours
        assert ".x" in names
    (out / "_records" / ".x").unlink()
    render(tiny_cgn, out, ranks=[0], resume=True)
    assert contents(out) == contents(whole)


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
