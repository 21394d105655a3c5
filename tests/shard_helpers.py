"""Sets of shards for tests, and processes that render them and are killed."""

from __future__ import annotations

import multiprocessing
import random
import tarfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cgn_augment import load_cgn
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards

# The server imports the package once, so that a rank costs a fork and not an import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["shard_helpers"])

FIFTY = ShardConfig(num=50, shard_size=12, block_size=8)


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


def render_rank(
    checkpoint: Path, out: Path, settings: dict[str, Any], rank: int, world_size: int = 2
) -> None:
    """Renders the shards of a rank, of a set that may have been begun."""
    render(
        load_cgn(checkpoint),
        out,
        ShardConfig(**settings),
        ranks=[rank],
        world_size=world_size,
        resume=True,
    )


def start_rank(*arguments: Any) -> BaseProcess:
    """Starts `render_rank` in a process of its own."""
    process = PROCESSES.Process(target=render_rank, args=arguments)
    process.start()
    return process


def finish(checkpoint: Path, out: Path, settings: dict[str, Any]) -> None:
    """Completes a set with two ranks."""
    for process in [start_rank(checkpoint, out, settings, rank) for rank in (0, 1)]:
        process.join()
        assert process.exitcode == 0


def kill_and_resume(
    checkpoint: Path, folder: Path, settings: dict[str, Any], num_kills: int, seed: int
) -> list[Path]:
    """Renders sets with two ranks, killing both at random moments; returns the sets, complete.

    A set is resumed until it is complete, and then the next is begun, until so many kills have met
    a rank at work.
    """
    chance = random.Random(seed)
    finish(checkpoint, folder / "starting", settings)  # and the server with it
    start = time.monotonic()
    finish(checkpoint, folder / "timing", settings)
    duration = time.monotonic() - start
    kills, sets = 0, [folder / "set0"]
    while kills < num_kills:
        processes = [start_rank(checkpoint, sets[-1], settings, rank) for rank in (0, 1)]
        for process in chance.sample(processes, 2):
            time.sleep(chance.uniform(0, duration / 2))
            kills += process.is_alive()
            process.kill()
        for process in processes:
            process.join()
        if (sets[-1] / "manifest.json").exists() and kills < num_kills:
            sets.append(folder / f"set{len(sets)}")
    for begun in sets:  # those before the last were killed after their manifest was written
        finish(checkpoint, begun, settings)
    return sets
