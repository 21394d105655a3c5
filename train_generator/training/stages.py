"""What the trainer asks of a part of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor


class StepAbandonedError(Exception):
    """A stage raises it to give up a step for an interrupt, while all is as before the step."""


class Stage(Protocol):
    """One part of a training, such as the adversarial one.

    Attributes:
        name: a word, shown before the losses.
        num_steps: steps that it takes; 0 leaves it out.
        optimizers: what a checkpoint keeps beside the weights.
    """

    name: str
    num_steps: int
    optimizers: Mapping[str, Any]

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
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


def descend(accelerator: Accelerator, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes one step of an optimizer down the gradient of a scalar."""
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
