"""Who writes which shard, and what is refused; tests/cli/test_ray.py has a real cluster."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import socket
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import run_command
from part_helpers import config_for, make_photos
from shard_helpers import FIFTY, contents, render

from cgn_augment.cli import program
from cgn_augment.errors import ArgumentError, MissingPackageError, UsageError
from cgn_augment.generators import SmallCGN
from cgn_augment.parts.writing import write_parts
from cgn_augment.shards import render_shards
from cgn_augment.shards.manifest import look_up
from cgn_augment.shards.on_ray import RayEngine, _connected, _Work, _write
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import Contents, write_shards


class Pickling:
    """Writes each shard alone and backwards, from contents that went through bytes, as tasks do."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []
        self.work: _Work | None = None

    def __call__(
        self, store: Store, contents: Contents, shards: Sequence[int]
    ) -> Generator[int, None, None]:
        work = _Work(store, contents, contents.versions, str(Path.cwd()), (*contents.local_files,))
        data = pickle.dumps(work)
        for shard in reversed(shards):
            self.work = pickle.loads(data)
            self.work.settle_here()
            counts = list(write_shards(self.work.store, self.work.contents, [shard]))
            self.counts.append(counts)
            yield from counts


def test_shards_that_are_written_one_by_one_elsewhere_are_the_same(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    engine = Pickling()
    render_shards(tiny_cgn, tmp_path / "set", FIFTY, engine=engine)
    assert [sum(counts) for counts in engine.counts] == [2, 12, 12, 12, 12]
    assert contents(tmp_path / "set") == contents(whole)


def test_parts_that_are_written_one_by_one_elsewhere_are_the_same(tmp_path: Path) -> None:
    make_photos(tmp_path)
    engine, config = Pickling(), config_for(tmp_path)
    write_parts(tmp_path / "photos", tmp_path / "set", config, engine=engine)
    write_parts(tmp_path / "photos", tmp_path / "here", config, num_workers=0)
    assert contents(tmp_path / "set") == contents(tmp_path / "here")
    assert engine.work is not None
    assert engine.work.local_files == tuple(
        str(tmp_path / name / "cat" / "000.png") for name in ("photos", "masks")
    )


def test_a_task_says_how_far_it_is_in_the_same_steps_each_time(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Pickling()
    render_shards(tiny_cgn, tmp_path / "set", replace(FIFTY, block_size=1), engine=engine)
    monkeypatch.setattr("cgn_augment.shards.on_ray._receive", lambda _: engine.work)
    monkeypatch.setattr("cgn_augment.shards.on_ray._PORTIONS", 4)
    assert [list(_write([None], shard)) for shard in (0, 0, 4)] == [[3] * 4, [3] * 4, [2]]


def test_a_worker_that_would_write_something_else_is_refused(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    engine = Pickling()
    render_shards(tiny_cgn, tmp_path / "set", FIFTY, engine=engine)
    work = engine.work
    assert work is not None
    with pytest.raises(UsageError, match=r"other versions, .*'torch': '.* there, 1\.0 here'"):
        replace(work, versions={**work.versions, "torch": "1.0"}).settle_here()
    with pytest.raises(UsageError, match=r"does not see /nowhere/1.png: put images and masks"):
        replace(work, local_files=("/nowhere/1.png",)).settle_here()


def test_what_is_complete_by_now_is_looked_up(whole: Path, tmp_path: Path) -> None:
    store = Store(shutil.copytree(whole, tmp_path / "set"))
    settings = json.loads(store.read("_settings.json"))["settings"]
    found = look_up(store, settings, 1)
    assert found is not None
    assert found.num_samples == 12
    (tmp_path / "set" / "counterfactuals-000001.tar").write_bytes(b"cut off")
    (tmp_path / "set" / "_records" / "counterfactuals-000002.json").unlink()
    assert look_up(store, settings, 1) is None
    assert look_up(store, settings, 2) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpus": 0}, "cpus must be a number above 0"),
        ({"gpus": 2}, "gpus must be 0 to 1, got 2: a task draws on one GPU"),
        ({"retries": -1}, "retries must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_used(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RayEngine(**given)


def test_ranks_and_workers_are_not_shared_out_twice(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="this is one of 2 ranks: start one process"):
        render(tiny_cgn, tmp_path / "set", world_size=2, engine=RayEngine())
    make_photos(tmp_path, 1)
    with pytest.raises(ArgumentError, match=r"num_workers is of one process, .*: leave it out"):
        write_parts(
            tmp_path / "photos", "set", config_for(tmp_path), num_workers=2, engine=RayEngine()
        )


def test_without_ray_the_command_says_how_to_get_it(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs Ray: .* 'cgn-augment\[ray\]'"):
        render_shards(tiny_cgn, tmp_path / "set", FIFTY, engine=RayEngine())
    assert not (tmp_path / "set").exists()


def test_an_address_where_nobody_listens_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        ray: Any = SimpleNamespace(is_initialized=lambda: False)
        with pytest.raises(UsageError, match=r"no Ray cluster at RAY_ADDRESS=127.*refused"):
            _connected(ray).__enter__()
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UsageError, match="start the command on a node of the cluster"):
        _connected(ray).__enter__()


def test_a_cluster_without_the_gpus_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    ray: Any = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with caplog.at_level(logging.WARNING):
        RayEngine(gpus=0.5)._warn_of_what_lacks(ray)
    assert caplog.messages == [
        "no node of the Ray cluster has 0.5 GPU: the tasks wait until one is there"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shards", "--cgn", "c", "--ray.gpus", 1), "--ray is for the engine ray: pass --engine"),
        (("shards", "--cgn", "c", "--engine", "ray", "--device", "cuda"), "--ray.gpus 1, or neit"),
        (("shards", "--cgn", "c", "--engine", "ray", "--ray.gpus", 1), "pass --device cuda"),
        (("shards", "--cgn", "c", "--engine", "ray", "--device", "cuda:1"), "cpu or cuda, got"),
        (("parts", "photos", "--engine", "ray", "--ray.gpus", 1), "leave --ray.gpus out"),
        (("parts", "photos", "--engine", "ray", "--masker", "grabcut"), "cgn-augment masks first"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    arguments: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ("--out", "set", "--num", 5) if arguments[0] == "shards" else ("set",)
    given = (*arguments[:2], *out, *arguments[2:]) if len(out) == 1 else (*arguments, *out)
    assert run_command(program.main, monkeypatch, *given) == 2
    assert message in capsys.readouterr().err
