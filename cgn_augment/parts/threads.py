"""A pool of threads that may be forked, pickled and dropped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from cgn_augment.checks import require_count

Result = TypeVar("Result")


class Threads:
    """Threads that start on first use, anew in each process.

    Args:
        num: number of threads; 0 works in the caller.

    Examples:
        >>> from cgn_augment.parts.threads import Threads
        >>> Threads(2).map(lambda a, b: a + b, [1, 2], [10, 20])
        [11, 22]
    """

    def __init__(self, num: int) -> None:
        self.num = require_count("num_threads", num, 0)
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"num": self.num, "_executor": None, "_process": 0}

    def map(self, work: Callable[..., Result], *parts: Iterable[Any]) -> list[Result]:
        """Returns the results in order; the first error is raised."""
        if self.num == 0:
            return list(map(work, *parts))
        return list(self._started().map(work, *parts))

    def submit(self, work: Callable[..., Result], *given: Any) -> Future[Result]:
        """Starts some work; there must be at least one thread."""
        return self._started().submit(work, *given)

    def _started(self) -> ThreadPoolExecutor:
        # A fork has the object but none of its threads.
        if self._executor is None or self._process != os.getpid():
            self._executor = ThreadPoolExecutor(self.num, thread_name_prefix="cgn-augment")
            self._process = os.getpid()
        return self._executor
