"""Runs a benchmark's jobs in several processes of one thread each, with one bar over all steps."""

from __future__ import annotations

import json
import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing

_SPAWN = multiprocessing.get_context("spawn")


class Steps(Protocol):
    """A run."""

    @property
    def steps(self) -> int:
        """Steps that it takes."""


def find_left(
    jobs: Sequence[Any], out: Path, describe: Callable[[Any], dict[str, Any]]
) -> list[Any]:
    """Returns the runs that have no file yet.

    Args:
        jobs: each with the name of its `file`.
        out: where files are.
        describe: says the settings of a run, which its file has too.

    Raises:
        ArgumentError: a file is of other settings.
    """
    left = []
    for job in jobs:
        file = out / job.file
        if not file.is_file():
            left.append(job)
        elif json.loads(file.read_text())["settings"] != describe(job):
            raise ArgumentError(f"{file} is of other settings: pass another --out, or remove it")
    return left


Run = Callable[[Any, Callable[[], object]], object]
"""Does a run, and calls its second argument after each step; goes to other processes."""

_reports: Any = None  # of a process of its own: where it says that steps are done


def _begin(reports: Any) -> None:
    global _reports
    torch.set_num_threads(1)
    _reports = reports


def _run_there(run: Run, job: Any) -> None:
    run(job, lambda: _reports.put(1))


def run_jobs(jobs: Sequence[Steps], left: Sequence[Steps], run: Run, num: int) -> None:
    """Does the runs that are left.

    Args:
        jobs: all runs, for the bar.
        left: those that are not done yet.
        run: does one.
        num: how many at once; 1 does them in this process.
    """
    with tqdm(total=sum(job.steps for job in jobs), unit="step", smoothing=0.02) as bar:
        bar.update(sum(job.steps for job in jobs) - sum(job.steps for job in left))
        bar.set_postfix_str(f"{len(jobs) - len(left)} of {len(jobs)} runs")
        if num == 1:
            torch.set_num_threads(1)
            for place, job in enumerate(left):
                run(job, bar.update)
                bar.set_postfix_str(f"{len(jobs) - len(left) + place + 1} of {len(jobs)} runs")
            return
        reports = _SPAWN.Queue()
        with processes(num, reports) as pool:
            # The longest first, so that none is left to one process at the end.
            longest = sorted(left, key=lambda job: -job.steps)
            futures = [pool.submit(_run_there, run, job) for job in longest]
            while not all(future.done() for future in futures):
                with suppress(queue.Empty):
                    bar.update(reports.get(timeout=1))
                done = sum(future.done() for future in futures)
                bar.set_postfix_str(f"{len(jobs) - len(left) + done} of {len(jobs)} runs")
            for future in futures:
                future.result()


def spread_out(work: Callable[..., object], items: Sequence[tuple[Any, ...]], num: int) -> None:
    """Calls `work` with each of the items, in `num` processes of one thread each; 1 is this one.

    The others are done where one fails; then its error is raised.
    """
    with tqdm(total=len(items), desc=work.__name__.strip("_")) as bar:
        if num == 1:
            for item in items:
                work(*item)
                bar.update()
            return
        with processes(num) as pool:
            futures = [pool.submit(work, *item) for item in items]
            for _ in as_completed(futures):
                bar.update()
    for future in futures:
        future.result()


@contextmanager
def processes(num: int, reports: Any = None) -> Iterator[ProcessPoolExecutor]:
    """Gives processes of one thread each, which end at once where Ctrl-C interrupts the block."""
    with ProcessPoolExecutor(num, _SPAWN, _begin, (reports,)) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def write_result(found: dict[str, Any], path: Path) -> None:
    """Writes what a run came to, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n")
