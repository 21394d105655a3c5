"""A thread that works in the time that the training leaves over.

A loop that trains on all cores leaves gaps: while Python runs, and while its threads wait for the
last of them. On Linux a thread of the policy SCHED_IDLE runs in these gaps alone. At the usual
priority it takes turns with the training's threads, and while one of them waits for its turn, the
others wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

SHORT = 0.05
"""Seconds of processor time up to which a job may run in the gaps."""

LONG_WAIT, SHARE = 0.1, 0.25
"""A job starves if somebody waits this many seconds for it and it gets less than this of a core."""

GAPS = 0.05
"""Share of a core from which on there are gaps worth using."""

PAUSE = 60.0
"""Seconds for which this process leaves the gaps alone when there were none."""

_LONG_TEXT = 2**22
"""Bytes whose hash takes some milliseconds, without Python's lock."""


class SpareThread:
    """Runs jobs one by one, in the order in which they come, beside a training.

    If other programs want all cores, a thread of the policy SCHED_IDLE gets next to nothing, and it
    may not raise its own priority again. So jobs run at the usual priority at first. If the first
    one was short, another thread tries how much time is left over. If it is enough, that thread
    takes over. If somebody later waits for a job that gets no time, a new thread takes over, at the
    usual priority, and this process tries again only after a while.

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

    _not_before = 0.0

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(1, name)
        self._first_took: float | None = None
        self._trying: tuple[ThreadPoolExecutor, Future[float]] | None = None
        self._ident = 0
        self.is_in_gaps = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Starts a job after those before it."""
        if not self.is_in_gaps:
            self._use_gaps()
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
                self._leave_gaps_alone()
                self._hand_over(ThreadPoolExecutor(1, self._name), in_gaps=False)

    def close(self) -> None:
        """Waits for the jobs that are not cancelled, and ends."""
        self._pool.shutdown()
        if self._trying is not None:
            self._end_trial(*self._trying)

    def _use_gaps(self) -> None:
        """Tries the gaps if that makes sense, and uses them once that went well."""
        if self._trying is None:
            if self._may_use_gaps():
                pool = ThreadPoolExecutor(1, self._name)
                self._trying = pool, pool.submit(self._try_gaps)
            return
        pool, share = self._trying
        if not share.done():
            return
        self._trying = None
        if share.result() >= GAPS:
            self._hand_over(pool, in_gaps=True)
        else:
            self._end_trial(pool, share)

    def _end_trial(self, pool: ThreadPoolExecutor, share: Future[float]) -> None:
        pool.shutdown()
        if share.result() < GAPS:
            self._leave_gaps_alone()

    def _may_use_gaps(self) -> bool:
        return (
            hasattr(os, "SCHED_IDLE")
            and self._first_took is not None
            and self._first_took < SHORT
            and time.monotonic() >= SpareThread._not_before
        )

    def _leave_gaps_alone(self) -> None:
        logger.info("no time is left over: steps ahead run at the usual priority for a while")
        SpareThread._not_before = time.monotonic() + PAUSE

    def _hand_over(self, pool: ThreadPoolExecutor, *, in_gaps: bool) -> None:
        """Lets another thread take over once the jobs before are done."""
        old, self._pool, self.is_in_gaps = self._pool, pool, in_gaps
        pool.submit(old.shutdown)

    def _try_gaps(self) -> float:
        """Lowers the calling thread's priority; returns the share of a core that is left for it."""
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a sandbox may forbid it
            return 0.0
        self._ident = threading.get_ident()
        begun, had = time.monotonic(), time.thread_time()
        hashlib.sha256(bytes(_LONG_TEXT))
        return (time.thread_time() - had) / (time.monotonic() - begun)

    def _time(self, job: Callable[[], T]) -> T:
        begun = time.thread_time()
        try:
            return job()
        finally:
            self._first_took = time.thread_time() - begun


def _call(job: Callable[[], T]) -> T:
    return job()
