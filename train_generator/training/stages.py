"""The protocols that the trainer requires of the parts of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor


class StepAbandonedError(Exception):
    """Raised by a stage to give up a step for an interrupt, if nothing has changed in that step."""


class Stateful(Protocol):
    """Something that a checkpoint can hold: a network, an optimizer, a scheduler, a stream."""

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restores what `state_dict` returned.

        Args:
            state_dict: what `state_dict` returned.
        """
        ...


class Stage(Protocol):
    """One part of a training, such as the adversarial one."""

    @property
    def name(self) -> str:
        """A word, shown before the losses."""
        ...

    @property
    def num_steps(self) -> int | None:
        """Number of steps; 0 leaves the stage out."""
        ...

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """What a checkpoint holds besides the weights while the stage lasts; each is `Stateful`."""
        ...

    def step(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Trains once.

        Args:
            step: counted from 0 within the stage.
            generator: a CPU generator, for this step alone. The global generators are seeded too,
                for code that knows only those (dropout).

        Returns:
            Losses by name, detached scalars.

        Raises:
            StepAbandonedError: `Trainer.stops` returned True in the middle of a long step.
        """
        ...


@runtime_checkable
class EpochStage(Stage, Protocol):
    """A pass over a stream, with a result at its end.

    Its number of steps is only for the bar, and None if unknown. The stream's own state is among
    the state that `Trainer` keeps.
    """

    def fetch(self) -> bool:
        """Gets the data for the next step; returns False if nothing is left."""
        ...

    def finish(self) -> Mapping[str, float]:
        """Returns the results of the stage by name; it may test the network, which may take long.

        A training that is killed meanwhile is resumed here, without repeating a step.
        """
        ...


def descend(
    accelerator: Accelerator | None, optimizer: torch.optim.Optimizer, loss: Tensor
) -> None:
    """Takes one optimizer step down the gradient of a scalar.

    Args:
        accelerator: knows precision and processes; None for plain PyTorch.
        optimizer: the optimizer.
        loss: a scalar with a gradient.
    """
    optimizer.zero_grad()
    if accelerator is None:
        torch.autograd.backward(loss)
    else:
        accelerator.backward(loss)
    optimizer.step()
