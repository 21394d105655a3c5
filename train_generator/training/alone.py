"""A short training of one network with one loss; writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from train_generator.training.stages import descend
from train_generator.training.trainer import Trainer


def train_alone(
    name: str,
    network: nn.Module,
    num_steps: int,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    *,
    progress: bool = False,
) -> None:
    """Minimises a loss.

    Args:
        name: shown before the bar.
        network: the network, in train mode.
        num_steps: number of steps.
        optimizer: optimizer of its weights.
        loss: draws a batch and returns its loss, a scalar.
        schedule: schedule of the learning rate, advanced after each step.
        progress: shows a bar on standard error.

    Raises:
        CheckpointError: the training has diverged.
        KeyboardInterrupt: Ctrl-C was pressed.

    Examples:
        >>> import torch
        >>> from train_generator.training.alone import train_alone
        >>> line = torch.nn.Linear(1, 1)
        >>> sgd = torch.optim.SGD(line.parameters(), lr=0.1)
        >>> loss = lambda: line(torch.ones(1, 1)).square().mean()
        >>> train_alone("line", line, 100, sgd, loss)
        >>> loss().item() < 1e-6
        True
    """

    def step(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        value = loss()
        descend(None, optimizer, value)
        if schedule is not None:
            schedule.step()
        return {"loss": value.detach()}

    stage: Any = SimpleNamespace(name=name, num_steps=num_steps, optimizers={}, step=step)
    Trainer(None, {name: network}, {name: lambda: stage}, {}).train(progress=progress)
