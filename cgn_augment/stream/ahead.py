"""Steps ahead on a CPU: a thread draws the counterfactuals of coming steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from cgn_augment.stream.mixing import Proportion
from cgn_augment.stream.planning import Planned, foresee, split
from cgn_augment.stream.state import Position
from cgn_augment.stream.step import Drawn, StepMaker

THREAD = "cgn-augment-ahead"
"""Prefix of the names of these threads."""


class _Coming(NamedTuple):
    """A step whose real batch is not read yet, and what is drawn for it."""

    num_real: int
    num: int
    position: Position
    after: Position
    drawn: Future[Drawn] | None

    def is_as_planned(self, step: Planned) -> bool:
        return self[:3] == (step.num_real, step.num, step.position)


@dataclass(frozen=True)
class DrawAhead:
    """Makes steps whose counterfactuals a thread drew while the loop trained.

    The thread only draws. Real batches are read, transformed and mixed in the loop's thread,
    because they may use the global random numbers. What the thread draws is a function of the step
    alone, so it changes nothing. If a step has another number of images than expected, it is drawn
    again.

    Args:
        maker: makes the steps; its source must not need real batches.
        proportion: gives the number of counterfactuals of each step.
        sizes: images of each step of the epoch, if known.
        num_steps: steps of the epoch; if unknown, nothing is drawn ahead.
        depth: number of steps to draw ahead.
    """

    maker: StepMaker
    proportion: Proportion
    sizes: Sequence[int] | None
    num_steps: int | None
    depth: int

    def run(self, planned: Iterator[Planned]) -> Iterator[tuple[Any, Position]]:
        """Yields each step and the position after it.

        The thread ends with the iterator. An error in the thread is raised at the step it belongs
        to.
        """
        coming: deque[_Coming] = deque()
        threads = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        try:
            for step in planned:
                expected = coming.popleft() if coming else None
                if expected is not None and not (expected.is_as_planned(step) and _may_draw()):
                    _cancel(expected, *coming)
                    coming.clear()
                    expected = None
                if expected is None:
                    # This step before later ones: a bank that is refreshed goes only forward.
                    made = self._make(step, None)
                    self._look_ahead(coming, step, threads.submit)
                else:
                    self._look_ahead(coming, step, threads.submit)
                    drawn = None if expected.drawn is None else expected.drawn.result()
                    made = self._make(step, drawn)
                yield made, step.after
        finally:
            _cancel(*coming)
            threads.shutdown(wait=True)

    def _make(self, step: Planned, drawn: Drawn | None) -> Any:
        return self.maker.make(step.batch, step.layout, step.num, step.position, step.items, drawn)

    def _look_ahead(
        self, coming: deque[_Coming], step: Planned, submit: Callable[..., Future[Drawn]]
    ) -> None:
        """Starts to draw the steps after this one."""
        images = step.layout.take(step.batch)[0]
        like = torch.empty_like(images[:1])  # does not keep the batch in memory
        while _may_draw() and len(coming) < self.depth:
            position = coming[-1].after if coming else step.after
            num_real = foresee(self.sizes, self.num_steps, position.step, step.num_real)
            if num_real is None:
                return
            try:
                num, after = split(self.proportion, position, num_real)
            except Exception:  # from the user's schedule; that step will raise it itself
                return
            drawn = submit(self.maker.draw_ahead, num, position, num_real, like) if num else None
            coming.append(_Coming(num_real, num, position, after, drawn))


def _may_draw() -> bool:
    """Whether a thread may draw; asked in the loop's thread.

    The default type of new tensors belongs to the whole process, and the loop sets it.
    """
    return torch.get_default_dtype() == torch.float32


def _cancel(*coming: _Coming) -> None:
    for step in coming:
        if step.drawn is not None:
            step.drawn.cancel()
