"""A thread that works in the time that the training leaves over.

A loop that trains on all cores leaves gaps: while Python runs, and while its threads wait for the
last of them. On Linux a thread of the policy SCHED_IDLE runs in these gaps alone. At the usual
priority it takes turns with the training's threads, and while one of them waits for its turn, the
others wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

SHORT = 0.1
"""Seconds of processor time up to which a job may run in the gaps."""

LONG_WAIT, SHARE = 0.1, 0.25
"""A job starves if somebody waits this many seconds for it and it gets less than this of a core."""


class SpareThread:
    """Runs jobs one by one, in the order in which they come, beside a training.

    The gaps may never come: if other programs want all cores, a thread of the policy SCHED_IDLE
    gets next to nothing, and it may not raise its own priority again. So the first job runs at the
    usual priority. If it is short, another thread takes over, which runs in the gaps. If somebody
    waits for a job there that gets no time, a third thread takes over, at the usual priority, and
    no thread of this process runs in the gaps from then on.

    Args:
        name: how the names of the threads begin.

    Attributes:
        is_in_gaps: whether the next job will run in the gaps.

    Examples:
        >>> from cgn_augment.stream.spare_thread import SpareThread
        >>> thread = SpareThread("adding")
        >>> thread.result(thread.submit(lambda: 1 + 1))
        2
        >>> thread.close()
    """

    _is_starved = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(1, name)
        self._first_took: float | None = None
        self._ident = 0
        self.is_in_gaps = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Starts a job after those before it."""
        if not self.is_in_gaps and self._may_use_gaps():
            self._hand_over(in_gaps=True)
        return self._pool.submit(self._time if self._first_took is None else _call, job)

    def result(self, job: Future[T]) -> T:
        """Waits for a job; returns what it returned, or raises what it raised."""
        if job.done() or not (self.is_in_gaps and self._ident):
            return job.result()
        clock = time.pthread_getcpuclockid(self._ident)
        begun, had = time.monotonic(), time.clock_gettime(clock)
        try:
            return job.result()
        finally:
            waited, got = time.monotonic() - begun, time.clock_gettime(clock) - had
            if waited > LONG_WAIT and got < SHARE * waited:
                logger.info("other programs want all cores: steps ahead at the usual priority")
                SpareThread._is_starved = True
                self._hand_over(in_gaps=False)

    def close(self) -> None:
        """Waits for the jobs that are not cancelled, and ends."""
        self._pool.shutdown()

    def _may_use_gaps(self) -> bool:
        return (
            hasattr(os, "SCHED_IDLE")
            and not SpareThread._is_starved
            and self._first_took is not None
            and self._first_took < SHORT
        )

    def _hand_over(self, *, in_gaps: bool) -> None:
        """Lets a new thread take over once the jobs before are done."""
        old, self.is_in_gaps, self._ident = self._pool, in_gaps, 0
        self._pool = ThreadPoolExecutor(1, self._name, self._enter_gaps if in_gaps else None)
        self._pool.submit(old.shutdown)

    def _enter_gaps(self) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            self._ident = threading.get_ident()
        except OSError:  # a sandbox may forbid it: the jobs run at the usual priority
            logger.info("this system has no priority for the gaps of a training", exc_info=True)

    def _time(self, job: Callable[[], T]) -> T:
        begun = time.thread_time()
        try:
            return job()
        finally:
            self._first_took = time.thread_time() - begun


def _call(job: Callable[[], T]) -> T:
    return job()
