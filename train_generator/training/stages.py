"""What the trainer asks of a part of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor


class StepAbandonedError(Exception):
    """A stage raises it to give up a step for an interrupt, while all is as before the step."""


class Stateful(Protocol):
    """What a checkpoint can keep: a network, an optimizer, a scheduler, a stream."""

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Goes on from what `state_dict` returned."""
        ...


class Stage(Protocol):
    """One part of a training, such as the adversarial one."""

    @property
    def name(self) -> str:
        """A word, shown before the losses."""
        ...

    @property
    def num_steps(self) -> int | None:
        """How many steps it takes; 0 leaves it out."""
        ...

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """What a checkpoint keeps beside the weights while the stage lasts: each is `Stateful`."""
        ...

    def step(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Trains once.

        Args:
            step: counted from 0 within the stage.
            generator: a CPU generator, for this step alone. The global generators are seeded too,
                for what knows only them (dropout).

        Returns:
            Losses by name, detached scalars.

        Raises:
            StepAbandonedError: `Trainer.stops` was asked in the middle of a long step and said so.
        """
        ...


@runtime_checkable
class EpochStage(Stage, Protocol):
    """A pass over a stream, with a result at its end.

    Its number of steps is for the bar alone, and None where nobody knows it. The stream's own state
    is among what `Trainer` is given to keep.
    """

    def fetch(self) -> bool:
        """Gets what the next step is trained on; returns False where nothing is left."""
        ...

    def finish(self) -> Mapping[str, float]:
        """Says what the stage came to, by name; it may test the network, which may take long.

        A training that is killed meanwhile is resumed here, without any step taken twice.
        """
        ...


def descend(
    accelerator: Accelerator | None, optimizer: torch.optim.Optimizer, loss: Tensor
) -> None:
    """Takes one step of an optimizer down the gradient of a scalar."""
    optimizer.zero_grad()
    if accelerator is None:
        torch.autograd.backward(loss)
    else:
        accelerator.backward(loss)
    optimizer.step()
