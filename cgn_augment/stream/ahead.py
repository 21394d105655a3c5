"""Steps ahead on a CPU: a thread makes coming steps, or draws their counterfactuals."""

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

Made = tuple[Any, Position, Any]
"""A step, the position after it and, if more was read, what to remember of the real data."""


@dataclass(frozen=True)
class StepsAhead:
    """Makes steps of which a thread did what it may while the loop trained.

    Real batches are read in the loop's thread. A dataset that draws from the global random
    generators there would draw before the loop does, and other numbers, if it were read early. So
    the first two batches are read when they are wanted. If reading leaves the generators as they
    are, the others are read early, and the thread makes their steps; where the transform may use
    these generators, it only draws. If not, and the source does not need the real batches, the
    thread draws before they are read.

    What the thread does is a function of the step alone, so it changes nothing.

    Args:
        maker: makes the steps; its source may draw in a thread.
        note: returns what to remember of the real data after a batch was read.
        depth: number of steps ahead.
        proportion: gives the number of counterfactuals of each step.
        sizes: images of each step of the epoch, if known.
        num_steps: steps of the epoch, if known.
    """

    maker: StepMaker
    note: Callable[[], Any]
    depth: int
    proportion: Proportion
    sizes: Sequence[int] | None
    num_steps: int | None

    def run(self, planned: Iterator[Planned]) -> Iterator[Made]:
        """Yields the steps.

        The thread ends with the iterator. An error in reading or in the thread is raised at the
        step it belongs to.
        """
        reader, thread = _Reader(planned, self.note), SpareThread(THREAD)
        foreseen = self.num_steps if self.maker.can_draw_ahead else None
        try:
            yield from self._with_early_batches(reader, thread, or_without=foreseen is not None)
            if reader.failed is None:
                if foreseen is not None:
                    yield from self._with_late_batches(planned, thread, foreseen)
            elif not isinstance(reader.failed, StopIteration):
                raise reader.failed
        finally:
            reader.failed = None  # its traceback holds this frame
            thread.close()

    def _with_early_batches(
        self, reader: _Reader, thread: SpareThread, *, or_without: bool
    ) -> Iterator[Made]:
        """Yields steps whose batches are read early where that changes nothing.

        Ends with the batches or, if the thread can do without them, where it would change things.
        """
        coming: deque[_Read] = deque()
        try:
            while (found := coming.popleft() if coming else reader.read()) is not None:
                step, read, job = found
                if job is not None and not _may_draw():
                    _cancel(found, *coming)
                    coming = deque(each._replace(job=None) for each in coming)
                    job = None
                made = self.maker.make_planned(step) if job is None else thread.result(job)()
                # Later steps after this one: a bank that is refreshed goes only forward, and the
                # two threads would wait for each other.
                while _may_draw() and reader.is_apart and len(coming) < self.depth:
                    found = reader.read()
                    if found is None:
                        break
                    if found.step.num:
                        job = thread.submit(partial(_prepare, self.maker, found.step))
                        found = found._replace(job=job)
                    coming.append(found)
                yield made, step.after, read
                if or_without and reader.is_apart is False and not coming:
                    return
        finally:
            _cancel(*coming)

    def _with_late_batches(
        self, planned: Iterator[Planned], thread: SpareThread, num_steps: int
    ) -> Iterator[Made]:
        """Yields steps for which the thread drew before their batches were read.

        If a step has another number of images than expected, it is drawn again.
        """
        coming: deque[_Coming] = deque()
        try:
            for step in planned:
                expected = coming.popleft() if coming else None
                if expected is not None and not (expected.is_as_planned(step) and _may_draw()):
                    _cancel(expected, *coming)
                    coming.clear()
                    expected = None
                job = None if expected is None else expected.job
                made = self.maker.make_planned(step, None if job is None else thread.result(job))
                self._draw_ahead(coming, step, thread, num_steps)
                yield made, step.after, None
        finally:
            _cancel(*coming)

    def _draw_ahead(
        self, coming: deque[_Coming], step: Planned, thread: SpareThread, num_steps: int
    ) -> None:
        """Starts to draw the steps after this one."""
        images = step.layout.take(step.batch)[0]
        like = torch.empty_like(images[:1])  # does not keep the batch in memory
        while _may_draw() and len(coming) < self.depth:
            position = coming[-1].after if coming else step.after
            num_real = foresee(self.sizes, num_steps, position.step, step.num_real)
            if num_real is None:
                return
            try:
                num, after = split(self.proportion, position, num_real)
            except Exception:  # from the user's schedule; that step will raise it itself
                return
            draw = partial(self.maker.draw_ahead, num, position, num_real, like)
            job = thread.submit(draw) if num else None
            coming.append(_Coming(num_real, num, position, after, job))


class _Read(NamedTuple):
    """A step whose real batch is read, and what finishes it, if the thread prepares that."""

    step: Planned
    read: Any
    job: Future[Callable[[], Any]] | None


class _Coming(NamedTuple):
    """A step whose real batch is not read yet, and what is drawn for it."""

    num_real: int
    num: int
    position: Position
    after: Position
    job: Future[Drawn] | None

    def is_as_planned(self, step: Planned) -> bool:
        return self[:3] == (step.num_real, step.num, step.position)


def _prepare(maker: StepMaker, step: Planned) -> Callable[[], Any]:
    """Does all of a step that a thread may do; returns what does the rest."""
    if maker.can_make_apart:
        made = maker.make_planned(step)
        return lambda: made
    return partial(maker.make_planned, step, maker.draw_for(step))


class _Reader:
    """Reads the batches of planned steps, and keeps an error until its step is wanted.

    Attributes:
        is_apart: whether the last batch left the global random generators as they were. None after
            the first one, where a sampler draws its seed.
        failed: the error, or the end of the data.
    """

    def __init__(self, planned: Iterator[Planned], note: Callable[[], Any]) -> None:
        self._planned, self._note, self._has_begun = planned, note, False
        self.is_apart: bool | None = None
        self.failed: Exception | None = None

    def read(self) -> _Read | None:
        """Returns the next step, or None if it failed."""
        if self.failed is not None:
            return None
        before = look_at_rng()
        try:
            step = next(self._planned)
        except Exception as error:
            self.failed = error
            return None
        self.is_apart = before == look_at_rng() if self._has_begun else None
        self._has_begun = True
        return _Read(step, self._note(), None)


def _may_draw() -> bool:
    """Whether a thread may draw; asked in the loop's thread.

    The default type of new tensors belongs to the whole process, and the loop sets it.
    """
    return torch.get_default_dtype() == torch.float32


def _cancel(*coming: _Coming | _Read) -> None:
    for step in coming:
        if step.job is not None:
            step.job.cancel()
