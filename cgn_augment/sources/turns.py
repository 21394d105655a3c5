"""Lets CUDA streams use the same tensors in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Turns:
    """Orders the work of several CUDA streams on the tensors of one object.

    Otherwise one stream could read a tensor before another has written it.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.turns import Turns
        >>> turns, kept = Turns(), torch.zeros(2)
        >>> with turns.take(kept.device, [kept]):     # on a CPU there is nothing to order
        ...     kept += 1
    """

    def __init__(self) -> None:
        self._last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}

    @contextmanager
    def take(self, device: torch.device, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Makes the current stream wait until the previous one has finished with the tensors."""
        if device.type != "cuda":
            yield
            return
        current = torch.cuda.current_stream(device)
        event = None
        if self._last is not None:
            before, event = self._last
            if before != current:
                current.wait_event(event)
                for tensor in tensors:  # keeps its memory while this stream uses it
                    tensor.record_stream(current)
        try:
            yield
        finally:
            self._last = current, current.record_event(event)
