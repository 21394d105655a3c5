"""Steps ahead on a CPU: a thread draws the counterfactuals of the next steps."""

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
"""What the names of these threads begin with."""


class _Coming(NamedTuple):
    """A step whose real batch was not read yet, and what is drawn for it."""

    num_real: int
    num: int
    position: Position
    after: Position
    drawn: Future[Drawn] | None

    def is_as_planned(self, step: Planned) -> bool:
        return self[:3] == (step.num_real, step.num, step.position)


@dataclass(frozen=True)
class DrawAhead:
    """Makes steps whose counterfactuals a thread has drawn while the loop trained.

    The thread does nothing but draw: real batches are read, transformed and mixed where the loop
    runs, for they may use the random numbers of the whole process. What it draws is a function of
    the step alone, so it is the same as without the thread. A step that turns out to have another
    number of images than was expected is drawn anew.

    Args:
        maker: makes the steps; its source must not need real batches.
        proportion: says how many counterfactuals each step gets.
        sizes: of the steps of the epoch, where they are known.
        num_steps: of the epoch; nothing is drawn ahead where it is unknown.
        depth: steps that are drawn ahead.
    """

    maker: StepMaker
    proportion: Proportion
    sizes: Sequence[int] | None
    num_steps: int | None
    depth: int

    def run(self, planned: Iterator[Planned]) -> Iterator[tuple[Any, Position]]:
        """Yields the steps as they are made, and the position after each.

        The thread ends with the iterator. What went wrong in it is raised at its own step.
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
                    # First this step and then later ones: a bank that is refreshed goes forward.
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
        """Has the steps after this one drawn."""
        images = step.layout.take(step.batch)[0]
        like = torch.empty_like(images[:1])  # keeps no batch in memory
        while _may_draw() and len(coming) < self.depth:
            position = coming[-1].after if coming else step.after
            num_real = foresee(self.sizes, self.num_steps, position.step, step.num_real)
            if num_real is None:
                return
            try:
                num, after = split(self.proportion, position, num_real)
            except Exception:  # of the user's schedule; that step will raise it itself
                return
            drawn = submit(self.maker.draw_ahead, num, position, num_real, like) if num else None
            coming.append(_Coming(num_real, num, position, after, drawn))


def _may_draw() -> bool:
    """Whether a thread may draw; asked where the loop runs.

    The type of new tensors is of the whole process and the loop's to set, not a thread's.
    """
    return torch.get_default_dtype() == torch.float32


def _cancel(*coming: _Coming) -> None:
    for step in coming:
        if step.drawn is not None:
            step.drawn.cancel()
