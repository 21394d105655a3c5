"""Sets of shards for tests, and processes that render them."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cgn_augment import load_cgn
from cgn_augment.errors import DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards.store import Store

# The server imports what can be imported without pytest once: a process then costs a fork.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cgn_augment.shards", "train_generator.training.trainer"])

NUM_KILLS = int(os.environ.get("CGN_AUGMENT_KILLS", "100"))
"""Of each kind of work, in the slow tests."""

FIFTY = ShardConfig(num=50, shard_size=12, block_size=8)


class FailingCGN(SmallCGN):
    """A CGN that fails when it draws a shape: it raises, or its process dies."""

    way = "raise"

    def shape(self, *_: object) -> Any:
        if self.way == "die":
            os._exit(9)
        raise DataError("it is broken")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def members(path: Path) -> dict[str, bytes]:
    """The files of a tar."""
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def render(cgn: SmallCGN, out: Path, config: ShardConfig = FIFTY, **kwargs: Any) -> None:
    """Renders the shards of some ranks, one after the other; of all by default."""
    world_size = kwargs.pop("world_size", 1)
    for rank in kwargs.pop("ranks", range(world_size)):
        render_shards(cgn, out, config, rank=rank, world_size=world_size, **kwargs)


def render_rank(checkpoint: Path, out: Path, config: ShardConfig, rank: int) -> None:
    """Renders the shards of one of two ranks, of a set that may have been begun."""
    render(load_cgn(checkpoint), out, config, ranks=[rank], world_size=2, resume=True)


def start_ranks(*arguments: Any) -> list[BaseProcess]:
    """Starts `render_rank` in two processes."""
    processes = [PROCESSES.Process(target=render_rank, args=(*arguments, r)) for r in (0, 1)]
    for process in processes:
        process.start()
    return processes


def render_rank_elsewhere(
    variables: dict[str, str], spool: Path, url: str, checkpoint: Path, *rest: Any
) -> None:
    """Renders to a URL, by the variables of the test, and spools to a folder of its own."""
    os.environ.update(variables)
    tempfile.tempdir = str(spool)
    config, rank = rest
    render_shards(load_cgn(checkpoint), url, config, rank=rank, world_size=2, resume=True)


def kill_until_complete(
    out: Path | str,
    num: int,
    chance: random.Random,
    ahead: int,
    start: Callable[[Any], list[BaseProcess]],
    pause: float = 0.01,
) -> int:
    """Starts ranks and kills them after 1 to `ahead` more shards, until the set is complete.

    The set is looked at after random pauses of at most `pause` seconds.

    Returns:
        How often a living process was killed; at most `num`.
    """
    store, kills = Store(out), 0

    def count() -> int:
        return sum(name.endswith(".tar") for name in store.sizes())

    while kills < num and "manifest.json" not in store.sizes():
        enough = count() + chance.randint(1, ahead)
        processes = start(out)
        while count() < enough and any(process.is_alive() for process in processes):
            time.sleep(chance.uniform(0, pause))
        kills += any(process.is_alive() for process in processes)
        for process in processes:
            process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
    return kills


Change = Callable[[str, bytes], bytes | None]


def rewrite_tar(path: Path, change: Change) -> None:
    """Writes a shard anew, each file changed; None leaves it out."""
    with tarfile.open(path) as tar:
        files = [(info, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w") as tar:
        for info, data in files:
            changed = change(info.name, data)
            if changed is not None:
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))
