"""Sets on servers that fail: asked again, then an error that says so; never taken for damage."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from conftest import make_tiny_cgn
from server_helpers import ERRORS, FAULTS, Faults, failing_folder, failing_proxy
from shard_helpers import (
    FIFTY,
    NUM_KILLS,
    PROCESSES,
    contents,
    kill_until_complete,
    render,
    render_rank_elsewhere,
)

from cgn_augment import ShardSource
from cgn_augment.errors import ArgumentError, CGNError, DataError, FileError
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.images.remote import PATIENCE
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.verify import verify_parts
from cgn_augment.shards import ShardConfig, render_shards, verify_shards
from cgn_augment.shards.store import Store
from cgn_augment.shards.summary import summarize_shards

# Other libraries leave connections open, and warn of what they themselves do.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
FIRST = "counterfactuals-000001.tar"
BUCKETS = count()
PASSING = [fault for fault in FAULTS if fault not in ("denied", "missing")]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    """A server of S3 behind a proxy that fails on request."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    inner = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    inner.start()
    faults = Faults()
    with failing_proxy(*inner.get_host_and_port(), faults) as url:
        yield url, faults
    inner.stop()


@pytest.fixture(scope="module")
def address(server: tuple[str, Faults]) -> Iterator[None]:
    """The environment in which s3fs finds the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server[0],
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            PATIENCE: "8",
        }.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def make_bucket() -> str:
    name = f"failing-{next(BUCKETS)}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/set"


@pytest.fixture
def bucket(server: tuple[str, Faults], address: None) -> Iterator[tuple[str, Faults]]:
    """A new bucket whose server does what the faults say."""
    faults = server[1]
    yield make_bucket(), faults
    faults.set(None)


@pytest.fixture(scope="module")
def filled(server: tuple[str, Faults], address: None, whole: Path) -> str:
    """A complete set in a bucket, which no test changes."""
    url = make_bucket()
    store = Store(url)
    for name, data in contents(whole).items():
        store.write(name, data)
    return url


@pytest.fixture
def stored(filled: str, server: tuple[str, Faults]) -> Iterator[tuple[str, Faults]]:
    """The complete set, whose server does what the faults say."""
    faults = server[1]
    yield filled, faults
    faults.set(None)


def mostly_slow(quick: Sequence[str], every: Sequence[str]) -> list[Any]:
    """Parameters of which a few run by default, and the others are slow."""
    return [x if x in quick else pytest.param(x, marks=pytest.mark.slow) for x in every]


def drawn(source: ShardSource) -> torch.Tensor:
    return source.sample(50, torch.Generator().manual_seed(0)).images


@pytest.mark.parametrize("fault", mostly_slow(["busy", "cut"], PASSING))
def test_a_shard_is_asked_for_again_until_it_comes(
    fault: str, stored: tuple[str, Faults], whole: Path
) -> None:
    url, faults = stored
    source = ShardSource(url, refresh=10, size=50, shuffle=0)
    faults.set(fault, FIRST, left=2)
    images = drawn(source)
    assert faults.happened >= 1
    assert source.num_skipped == 0
    assert torch.equal(images, drawn(ShardSource(whole, refresh=10, size=50, shuffle=0)))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", mostly_slow(["denied", "broken"], [*ERRORS, "cut", "stall"]))
def test_a_server_that_goes_on_failing_is_one_error_that_says_so_and_no_damage(
    fault: str, num_workers: int, stored: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, faults = stored
    monkeypatch.setenv(PATIENCE, "1")
    source = ShardSource(url, refresh=10, size=50, shuffle=0, num_workers=num_workers)
    faults.set(fault, FIRST)
    expected = {"denied": "access to .* is denied", "missing": "is missing"}
    with pytest.raises(FileError, match=expected.get(fault, "has failed for .* seconds")) as told:
        drawn(source)
    assert FIRST in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert source.num_skipped == 0
    faults.set(None)
    assert len(drawn(source)) == 50


@pytest.mark.parametrize("fault", mostly_slow(["busy"], ["broken", "busy", "slow"]))
def test_what_is_written_through_failures_is_whole(
    fault: str, bucket: tuple[str, Faults], whole: Path, tiny_cgn: SmallCGN
) -> None:
    url, faults = bucket
    faults.set(fault, left=4, method="PUT")
    render_shards(tiny_cgn, url, FIFTY)
    assert faults.happened == 4
    files, root = fsspec.core.url_to_fs(url)
    found = {path.removeprefix(f"{root}/"): files.cat(path) for path in files.find(root)}
    assert found == contents(whole)


@pytest.mark.parametrize("fault", mostly_slow(["denied"], ["denied", "busy"]))
def test_a_server_that_takes_nothing_is_one_error_and_resume_completes_the_set(
    fault: str,
    bucket: tuple[str, Faults],
    tiny_cgn: SmallCGN,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, faults = bucket
    monkeypatch.setenv(PATIENCE, "1")
    faults.set(fault, FIRST, method="PUT")
    with pytest.raises(FileError, match=r"cannot be written .*--resume goes on") as told:
        render_shards(tiny_cgn, url, FIFTY)
    assert FIRST in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    faults.set(None)
    assert render_shards(tiny_cgn, url, FIFTY, resume=True) is not None
    assert verify_shards(url) == []


def go_on(url: str) -> object:
    return render_shards(make_tiny_cgn().freeze(), url, FIFTY, resume=True)


READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "read": (ShardSource, "manifest.json"),
    "verify": (verify_shards, "_settings.json"),
    "info": (summarize_shards, "_settings.json"),
    "resume": (go_on, "_settings.json"),
    "parts": (PartSet.open, "manifest.json"),
    "parts verify": (verify_parts, "_settings.json"),
}


@pytest.mark.parametrize("command", mostly_slow(["read", "verify", "resume"], [*READERS]))
@pytest.mark.parametrize("fault", ["denied", "missing", "broken"])
def test_denied_failed_and_missing_are_told_apart(
    fault: str, command: str, stored: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, faults = stored
    monkeypatch.setenv(PATIENCE, "0.5" if fault == "broken" else "20")  # the others come at once
    read, name = READERS[command]
    expected = {"denied": "is denied", "broken": "has failed for", "missing": f"has no {name}"}
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # where others listed the folder
    for method in ("HEAD", "GET") if command in ("read", "verify", "info") else ("GET",):
        faults.set(fault, name, method=method)
        with pytest.raises(CGNError, match=expected[fault]) as told:
            read(url)
        assert len(str(told.value).splitlines()) == 1


@pytest.mark.slow
def test_ranks_that_are_killed_while_they_fill_a_bucket_leave_the_same_set_and_no_files(
    bucket: tuple[str, Faults], tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    url, faults = bucket
    faults.set("slow", ".tar", method="PUT")  # so that kills hit uploads
    checkpoint, spool = tmp_path / "tiny.safetensors", tmp_path / "spool"
    save_cgn(tiny_cgn, checkpoint)
    spool.mkdir()
    config = ShardConfig(num=120, shard_size=4, block_size=8)
    render(tiny_cgn, tmp_path / "whole", config)
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    chance, kills, names = random.Random(0), 0, 0
    while kills < NUM_KILLS:
        names += 1
        out = f"{url}/{names}"
        store = Store(out)

        def start(at: str) -> list[BaseProcess]:
            given = variables, spool, at, checkpoint, config
            ranks = [
                PROCESSES.Process(target=render_rank_elsewhere, args=(*given, r)) for r in (0, 1)
            ]
            for rank in ranks:
                rank.start()
            return ranks

        kills += kill_until_complete(out, NUM_KILLS - kills, chance, 4, start, pause=0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(spool))
            render_shards(tiny_cgn, out, config, resume=True)
        assert {name: store.read(name) for name in store.sizes()} == contents(tmp_path / "whole")
        assert list(spool.iterdir()) == []


# Web servers


def test_a_set_on_a_web_server_without_lists_and_ranges_is_read_and_checked(whole: Path) -> None:
    with failing_folder(whole, Faults()) as url:
        assert verify_shards(url) == []
        images = drawn(ShardSource(url, refresh=10, size=50))
    assert torch.equal(images, drawn(ShardSource(whole, refresh=10, size=50)))


@pytest.mark.parametrize("fault", ["broken", "cut", "stall"])
def test_a_web_server_is_asked_again(
    fault: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "3")
    faults = Faults()
    with failing_folder(whole, faults) as url:
        source = ShardSource(url, refresh=10, size=50, shuffle=0)
        faults.set(fault, FIRST, left=2)
        assert len(drawn(source)) == 50
    assert faults.happened == 2
    assert source.num_skipped == 0


@pytest.mark.parametrize("fault", ["denied", "missing", "broken"])
def test_a_web_server_that_goes_on_failing_is_told_of(
    fault: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.5")
    faults = Faults()
    expected = {"denied": "is denied", "missing": "has no manifest"}
    with failing_folder(whole, faults) as url:
        faults.set(fault, "manifest.json")
        with pytest.raises(CGNError, match=expected.get(fault, "has failed for")):
            ShardSource(url)
        for method in ("HEAD", "GET") if fault in ERRORS else ():
            faults.set(fault, "_settings.json", method=method)
            if method == "GET":
                with pytest.raises(CGNError, match=r"denied|has no _settings|has failed"):
                    verify_shards(url)


def test_verify_asks_again_for_a_shard_that_breaks_off_and_takes_it_for_no_damage(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "3")
    faults = Faults()
    with failing_folder(whole, faults) as url:
        faults.set("cut", FIRST, left=2)
        assert verify_shards(url) == []
        assert faults.happened == 2
        monkeypatch.setenv(PATIENCE, "0.5")
        faults.set("cut", FIRST)
        with pytest.raises(FileError, match=r"has failed for .* seconds") as told:
            verify_shards(url)
    assert FIRST in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_server_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0.5")
    with pytest.raises(FileError, match="nothing answers there"):
        ShardSource("http://127.0.0.1:9/set")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_patience_must_be_seconds(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, value)
    with pytest.raises(ArgumentError, match="must be a number of seconds above 0"):
        ShardSource("http://127.0.0.1:9/set")


def test_missing_credentials_are_one_error(
    bucket: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, _ = bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises((FileError, DataError), match="credentials") as told:
        verify_shards(url)
    assert len(str(told.value).splitlines()) == 1
    fsspec.get_filesystem_class("s3").clear_instance_cache()
