"""Learning rates over the steps of a training."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimizer: torch.optim.Optimizer, learning_rate: float, num_steps: int) -> OneCycleLR:
    """Makes the learning rate rise in the first third of the steps, and then fall to 0.

    Both parts follow half a cosine (Smith and Topin, Super-Convergence, 2018).

    Args:
        optimizer: the optimizer whose learning rate is set.
        learning_rate: the highest learning rate.
        num_steps: number of steps; call the scheduler after each.

    Examples:
        >>> import torch
        >>> from train_generator.training.schedules import one_cycle
        >>> adam = torch.optim.Adam([torch.zeros(1)])
        >>> schedule = one_cycle(adam, 0.5, num_steps=3)
        >>> adam.step()
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """
    peak = max(1, num_steps // 3)
    return OneCycleLR(
        optimizer,
        learning_rate,
        total_steps=num_steps + 1,
        pct_start=(peak + 1) / (num_steps + 1),
        cycle_momentum=False,
        final_div_factor=math.inf,
    )
