"""Sets of shards for tests, and processes that render them and are killed."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cgn_augment import load_cgn
from cgn_augment.shards import ShardConfig, render_shards

# The server imports the package once, so that a rank costs a fork and not an import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["shard_helpers"])


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def render_rank(checkpoint: Path, out: Path, settings: dict[str, Any], rank: int) -> None:
    """Renders the shards of one of two ranks."""
    config = ShardConfig(**settings)
    render_shards(load_cgn(checkpoint), out, config, rank=rank, world_size=2, resume=True)


def start_ranks(checkpoint: Path, out: Path, settings: dict[str, Any]) -> list[BaseProcess]:
    arguments = [(checkpoint, out, settings, rank) for rank in (0, 1)]
    processes = [PROCESSES.Process(target=render_rank, args=args) for args in arguments]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess]) -> None:
    for process in processes:
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
    finish(start_ranks(checkpoint, folder / "starting", settings))  # and the server with them
    start = time.monotonic()
    finish(start_ranks(checkpoint, folder / "timing", settings))
    duration = time.monotonic() - start
    kills, sets = 0, [folder / "set0"]
    while kills < num_kills:
        processes = start_ranks(checkpoint, sets[-1], settings)
        for process in chance.sample(processes, 2):
            time.sleep(chance.uniform(0, duration / 2))
            kills += process.is_alive()
            process.kill()
        for process in processes:
            process.join()
        if (sets[-1] / "manifest.json").exists() and kills < num_kills:
            sets.append(folder / f"set{len(sets)}")
    finish(start_ranks(checkpoint, sets[-1], settings))
    for begun in sets[:-1]:  # those that were killed after their manifest was written
        finish(start_ranks(checkpoint, begun, settings))
    return sets
