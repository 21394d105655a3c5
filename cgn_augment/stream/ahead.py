"""Steps ahead on a CPU: a thread draws the counterfactuals of coming steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from cgn_augment.functional import look_at_rng
from cgn_augment.stream.mixing import Proportion
from cgn_augment.stream.planning import Planned, foresee, split
from cgn_augment.stream.spare_thread import SpareThread
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
        num_steps: steps of the epoch.
        depth: number of steps to draw ahead.
    """

    maker: StepMaker
    proportion: Proportion
    sizes: Sequence[int] | None
    num_steps: int
    depth: int

    def run(self, planned: Iterator[Planned]) -> Iterator[tuple[Any, Position]]:
        """Yields each step and the position after it.

        The thread ends with the iterator. An error in the thread is raised at the step it belongs
        to.
        """
        coming: deque[_Coming] = deque()
        thread = SpareThread(THREAD)
        try:
            for step in planned:
                expected = coming.popleft() if coming else None
                if expected is not None and not (expected.is_as_planned(step) and _may_draw()):
                    _cancel(expected, *coming)
                    coming.clear()
                    expected = None
                if expected is None:
                    # This step before later ones: a bank that is refreshed goes only forward.
                    made = self.maker.make_planned(step)
                    self._look_ahead(coming, step, thread)
                else:
                    self._look_ahead(coming, step, thread)
                    drawn = None if expected.drawn is None else thread.result(expected.drawn)
                    made = self.maker.make_planned(step, drawn)
                yield made, step.after
        finally:
            _cancel(*coming)
            thread.close()

    def _look_ahead(self, coming: deque[_Coming], step: Planned, thread: SpareThread) -> None:
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
            draw = partial(self.maker.draw_ahead, num, position, num_real, like)
            drawn = thread.submit(draw) if num else None
            coming.append(_Coming(num_real, num, position, after, drawn))


class _Read(NamedTuple):
    """A step whose real batch is read, and what is drawn for it."""

    step: Planned
    read: Any
    drawn: Future[Drawn] | None


@dataclass(frozen=True)
class ReadAhead:
    """Makes steps whose real batches were read early, so that a thread could draw with them.

    Real batches are read in the loop's thread. A dataset that draws from the global random
    generators there would draw before the loop does, and other numbers. So the first two batches
    are read when they are wanted, and the others ahead only as long as reading leaves the
    generators as they are.

    Args:
        maker: makes the steps.
        note: returns what to remember of the real data after a batch was read.
        depth: number of steps to read ahead.
    """

    maker: StepMaker
    note: Callable[[], Any]
    depth: int

    def run(self, planned: Iterator[Planned]) -> Iterator[tuple[Any, Position, Any]]:
        """Yields each step, the position after it, and what `note` returned.

        The thread ends with the iterator. An error in reading or drawing is raised at the step it
        belongs to.
        """
        waiting: deque[_Read] = deque()
        failed: Exception | None = None
        thread, num_read, is_apart = SpareThread(THREAD), 0, True
        try:
            while True:
                early = num_read > 1 and is_apart and _may_draw()
                ahead = self.depth if early else 0
                while failed is None and len(waiting) <= ahead:
                    before = look_at_rng()
                    try:
                        step = next(planned)
                    except Exception as error:  # raised when its turn comes
                        failed = error
                        break
                    num_read += 1
                    # A sampler draws its seed when it begins.
                    is_apart = num_read == 1 or before == look_at_rng()
                    ahead = ahead if is_apart else 0
                    draw = partial(self.maker.draw_for, step)
                    drawn = thread.submit(draw) if early and step.num else None
                    waiting.append(_Read(step, self.note(), drawn))
                if not waiting:
                    break
                if not _may_draw():
                    _cancel(*waiting)
                    waiting = deque(each._replace(drawn=None) for each in waiting)
                step, read, job = waiting.popleft()
                made = self.maker.make_planned(step, None if job is None else thread.result(job))
                yield made, step.after, read
            if failed is not None and not isinstance(failed, StopIteration):
                raise failed
        finally:
            failed = None  # its traceback holds this frame
            _cancel(*waiting)
            thread.close()


def _may_draw() -> bool:
    """Whether a thread may draw; asked in the loop's thread.

    The default type of new tensors belongs to the whole process, and the loop sets it.
    """
    return torch.get_default_dtype() == torch.float32


def _cancel(*coming: _Coming | _Read) -> None:
    for step in coming:
        if step.drawn is not None:
            step.drawn.cancel()
