"""Draws for the next step while this one runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from cgn_augment.parts.threads import Threads


class Ahead:
    """Draws in a thread what the next step will ask for.

    On a GPU the thread uses the CUDA stream of the step that starts it. A step taken in another
    CUDA stream draws for itself.

    Args:
        draw: a function of rank and step alone.
        device: device it draws on.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.ahead import Ahead
        >>> ahead = Ahead(lambda rank, step: 10 * rank + step, torch.device("cpu"))
        >>> ahead.begin(1, 5)
        >>> ahead.take(1, 5), ahead.take(0, 7)
        (15, 7)
    """

    def __init__(self, draw: Callable[[int, int], Any], device: torch.device) -> None:
        self._draw, self._device, self._threads = draw, device, Threads(1)
        self._begun: tuple[tuple[Any, ...], Future[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_begun": None}

    def begin(self, rank: int, number: int) -> None:
        """Starts to draw for a step, unless that has begun."""
        key = self._key(rank, number)
        if self._begun is None or self._begun[0] != key:
            self._begun = key, self._threads.submit(self._run, rank, number, key[-1])

    def take(self, rank: int, number: int) -> Any:
        """Returns what was drawn for a step, or draws it now."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] == self._key(rank, number):
            return begun[1].result()
        return self._draw(rank, number)

    def _key(self, rank: int, number: int) -> tuple[Any, ...]:
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.current_stream(self._device) if on_gpu else None
        return os.getpid(), rank, number, stream

    def _run(self, rank: int, number: int, stream: torch.cuda.Stream | None) -> Any:
        # Each thread has its own modes and current stream.
        with torch.no_grad(), torch.cuda.stream(stream):
            return self._draw(rank, number)
