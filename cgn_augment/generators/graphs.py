"""CUDA graphs: records the GPU launches of a mechanism once, and replays them as one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cgn_augment.generators.watch import Watch

MOST_GRAPHS = 24
"""Recordings kept: eight batch sizes of three mechanisms; the oldest is dropped first."""

_WARM_UP = 3
"""Runs before a recording, so that libraries choose kernels and allocate memory."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Recording:
    graph: Any
    given: Tensor
    made: Tensor
    watch: Watch


class Graphs:
    """Replays functions of one tensor, for each size that it was called with twice.

    The first call of a size runs normally; the second is recorded. Results are copies, so that
    nothing drawn changes later. Threads and streams take turns.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, _Recording] = {}
        self._seen: set[Hashable] = set()
        self._lock = threading.Lock()
        self._pool: Any = None
        self._done: Any = None

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        """Copies, in this process or another, start without recordings."""
        return Graphs, ()

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, name: Hashable, function: Run, given: Tensor, read: Sequence[Tensor]) -> Tensor:
        """Returns the result of `function` for `given`.

        Args:
            name: name of the function; with the size of `given` it selects the recording.
            function: launches the same kernels at every call.
            given: its argument. The function runs normally on the CPU, with gradients, and inside
                autocast or another recording.
            read: the other tensors that the function reads: a recording keeps them, and a change in
                one makes a new recording.
        """
        if not _can_record(given):
            return function(given)
        key = (name, tuple(given.shape), given.dtype, given.device)
        with self._lock:
            found = self._recorded.get(key)
            if found is None or not found.watch.unchanged():
                if found is None and key not in self._seen:
                    self._seen.add(key)
                    return function(given)
                self._recorded.pop(key, None)
                found = self._recorded[key] = self._record(function, given, read)
                while len(self._recorded) > MOST_GRAPHS:
                    del self._recorded[next(iter(self._recorded))]
            with torch.cuda.device(given.device):
                stream = torch.cuda.current_stream()
                stream.wait_event(self._done)
                found.given.copy_(given)
                found.graph.replay()
                made = found.made.clone()
                self._done.record(stream)
            return made

    def _record(self, function: Run, given: Tensor, read: Sequence[Tensor]) -> _Recording:
        cuda: Any = torch.cuda
        with cuda.device(given.device):
            if self._pool is None:
                self._pool, self._done = cuda.graph_pool_handle(), cuda.Event()
                self._done.record()
            given = given.clone()
            side, current = cuda.Stream(), cuda.current_stream()
            side.wait_stream(current)
            with cuda.stream(side):
                for _ in range(_WARM_UP):
                    function(given)
            current.wait_stream(side)
            cuda.synchronize()
            graph = cuda.CUDAGraph()
            # Other threads may continue their own work meanwhile.
            with cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                made = function(given)
        return _Recording(graph, given, made, Watch(read))


def _can_record(given: Tensor) -> bool:
    return (
        given.is_cuda
        and not (torch.is_grad_enabled() and given.requires_grad)
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )
