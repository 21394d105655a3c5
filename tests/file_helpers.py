"""Processes that write files, and are killed while they do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cgn_augment.files import owning, owning_file, remove_leftovers, replacing

# A fork costs no import; what it does here needs none of the threads that it lacks.
FORKS = multiprocessing.get_context("fork")


def names_in(folder: Path) -> list[str]:
    """The names of all that lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def write_often(path: Path) -> None:
    for number in range(60):
        with replacing(path) as temporary:
            temporary.write_text(str(number))
            remove_leftovers(path.parent)


def own(folder: Path, kill: bool) -> None:
    with owning(folder):
        (folder / "owned").touch()
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def run(target: Callable[..., None], *arguments: object) -> int | None:
    process = FORKS.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def own_file(path: Path) -> None:
    with owning_file(path):
        path.touch()
        time.sleep(60)
