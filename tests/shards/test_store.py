"""Where a set lies: a folder or an object store, whose files appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
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


def test_a_set_in_memory_has_the_same_files(whole: Path, tiny_cgn: SmallCGN) -> None:
    files = fsspec.filesystem("memory")
    render_shards(tiny_cgn, "memory://bucket/set", FIFTY, rank=1, world_size=2)
    assert len(files.find("/bucket/set")) < len(contents(whole))
    render_shards(tiny_cgn, "memory://bucket/set", FIFTY, resume=True)
    found = files.find("/bucket/set")
    assert {p.removeprefix("/bucket/set/"): files.cat(p) for p in found} == contents(whole)
    assert verify_shards("memory://bucket/set") == []
    files.rm("/bucket", recursive=True)


def test_unknown_protocols_are_an_error(tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentError, match="'nowhere://set' cannot be used: Protocol not known"):
        render_shards(tiny_cgn, "nowhere://set", FIFTY)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a local server that speaks S3; fsspec finds it by the environment."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("shards")
    yield "s3://shards"
    server.stop()


# Other libraries leave files open, and warn of what they themselves do.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_a_set_is_rendered_to_s3_resumed_checked_and_read(
    bucket: str, whole: Path, tiny_cgn: SmallCGN
) -> None:
    url = f"{bucket}/some/set"
    assert render_shards(tiny_cgn, url, FIFTY, rank=1, world_size=2) is None
    files = fsspec.filesystem("s3")
    files.rm("shards/some/set/counterfactuals-000003.tar")
    render_shards(tiny_cgn, url, FIFTY, resume=True)
    files.invalidate_cache()
    found = files.find("shards/some/set")
    prefix = "shards/some/set/"
    assert {p.removeprefix(prefix): files.cat(p) for p in found} == contents(whole)
    assert verify_shards(url) == []
    local, remote = ShardSource(whole, refresh=8), ShardSource(url, refresh=8)
    assert remote.fingerprint == local.fingerprint
    step, seeded = Step(2), torch.Generator().manual_seed
    assert torch.equal(
        remote.sample(8, seeded(2), step).images, local.sample(8, seeded(2), step).images
    )
