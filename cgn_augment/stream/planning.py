"""Plans a step before it is made: its real batch, and how many counterfactuals it gets."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cgn_augment.stream.batches import Layout
from cgn_augment.stream.mixing import Proportion
from cgn_augment.stream.state import Position


class Planned(NamedTuple):
    """A step that can be made.

    Attributes:
        batch: the real batch, as read.
        layout: where its images and labels are.
        num_real: number of images read.
        num: number of counterfactuals.
        position: position of the step.
        after: position after it.
        items: (B,) int64 on the CPU, dataset indices of the batch, if known.
    """

    batch: Any
    layout: Layout
    num_real: int
    num: int
    position: Position
    after: Position
    items: Tensor | None


def split(proportion: Proportion, position: Position, num_real: int) -> tuple[int, Position]:
    """Returns the number of counterfactuals of the step, and the position after it."""
    num, carry = proportion.split(position.total, num_real, position.carry)
    return num, Position(position.epoch, position.step + 1, position.total + 1, carry)


def plan_steps(
    batches: Iterator[Any],
    find_layout: Callable[[Any], Layout],
    proportion: Proportion,
    position: Position,
    items: Iterator[list[int]] | None,
) -> Generator[Planned, None, None]:
    """Reads real batches one by one and plans the step of each, beginning at `position`."""
    for batch in batches:
        layout = find_layout(batch)
        num_real = len(layout.take(batch)[0])
        num, after = split(proportion, position, num_real)
        chosen = None if items is None else torch.as_tensor(next(items))
        yield Planned(batch, layout, num_real, num, position, after, chosen)
        position = after


def foresee(sizes: Sequence[int] | None, num_steps: int, step: int, last: int) -> int | None:
    """Returns how many images a step will probably read, or None if there is no such step.

    Args:
        sizes: images of each step of the epoch, if known.
        num_steps: number of steps of the epoch.
        step: step, counted in the epoch.
        last: images of the step read last.

    Examples:
        >>> from cgn_augment.stream.planning import foresee
        >>> foresee([8, 8, 3], 3, 2, 8), foresee(None, 3, 2, 8), foresee(None, 3, 3, 8)
        (3, 8, None)
    """
    if sizes is not None:
        return sizes[step] if step < len(sizes) else None
    return last if step < num_steps else None
