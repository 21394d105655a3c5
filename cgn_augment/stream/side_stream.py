"""Steps ahead on a GPU: a second CUDA stream copies, draws and mixes while the loop trains."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cgn_augment.stream.planning import Planned
from cgn_augment.stream.state import Position


class _Launched(NamedTuple):
    """A step that the GPU is making or has made."""

    made: Any
    after: Position
    read: Any
    done: torch.cuda.Event


class SideStream:
    """Makes steps on its own CUDA stream, which lives as long as the object.

    PyTorch's allocator keeps memory per stream, so a new stream for each epoch would waste it. The
    stream is created on first use; a copy in another process creates its own.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"device": self.device, "_stream": None}

    def run(
        self,
        planned: Iterator[Planned],
        make: Callable[[Planned], Any],
        note: Callable[[], Any],
        depth: int,
    ) -> Iterator[tuple[Any, Position, Any]]:
        """Yields steps while `depth` more are under way.

        An error in a step is raised where that step would have been yielded.

        Args:
            planned: reads and plans the steps; runs in the loop's own stream.
            make: makes a planned step, in the side stream.
            note: returns what to remember of the real data after a batch was read.
            depth: number of steps ahead.

        Yields:
            The step, the position after it, and what `note` returned.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side, failed, is_at_end = self._stream, None, False
        # Wait for whatever the loop has done with the source or its own networks.
        side.wait_stream(torch.cuda.current_stream(self.device))
        waiting: deque[_Launched] = deque()
        try:
            while True:
                while not is_at_end and len(waiting) <= depth:
                    try:
                        waiting.append(self._launch(next(planned), make, note, side))
                    except StopIteration:
                        is_at_end = True
                    except Exception as error:  # raised when its turn comes
                        failed, is_at_end = error, True
                if not waiting:
                    break
                # Launched before the loop's work on the step yielded now, so that the two can
                # overlap even when the side stream waits for the loop's.
                yield self._deliver(waiting.popleft())
            if failed is not None:
                raise failed
        finally:
            failed = None  # its traceback holds this frame
            waiting.clear()
            if not sys.is_finalizing():
                torch.cuda.current_stream(self.device).wait_stream(side)

    def _launch(
        self,
        step: Planned,
        make: Callable[[Planned], Any],
        note: Callable[[], Any],
        side: torch.cuda.Stream,
    ) -> _Launched:
        read = note()
        here = [part for part in tensors_in(step.batch) if part.is_cuda]
        if here:  # the loop's stream made them, and may free them before they are read
            side.wait_stream(torch.cuda.current_stream(self.device))
        for part in here:
            part.record_stream(side)
        with torch.cuda.stream(side):
            made = make(pin_images(step))
            done = side.record_event()
        return _Launched(made, step.after, read, done)

    def _deliver(self, step: _Launched) -> tuple[Any, Position, Any]:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(step.done)
        for part in tensors_in(step.made):
            if part.is_cuda:
                part.record_stream(current)
        return step.made, step.after, step.read


def pin_images(step: Planned) -> Planned:
    """Puts images in pinned memory, so that a GPU can copy them while the host goes on."""
    images, labels = step.layout.take(step.batch)
    if images.device.type != "cpu" or images.is_pinned():
        return step
    batch = step.layout.rebuild(step.batch, images.pin_memory(), labels, lambda _, value: value)
    return step._replace(batch=batch)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of a batch at any depth of mappings, lists and tuples.

    Examples:
        >>> import torch
        >>> from cgn_augment.stream.side_stream import tensors_in
        >>> batch = {"image": torch.zeros(2), "further": [torch.ones(3), ("a", torch.ones(1))]}
        >>> [len(part) for part in tensors_in(batch)]
        [2, 3, 1]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
