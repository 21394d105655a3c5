"""The running average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves each weight and statistic of `average` a little towards `network`, in place.

    average += (1 - d) * (network - average), with d = min(decay, (step + 1) / (step + 10)), so that
    the first steps, far from the final weights, are soon forgotten. Integer buffers, such as counts
    of batches, are copied.

    Args:
        average: a copy of the network.
        network: the network in training.
        decay: in [0, 1); 0 copies.
        step: counted from 0.

    Examples:
        >>> import torch
        >>> from train_generator.training.average import update_average
        >>> average, network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> _ = torch.nn.init.zeros_(average.weight), torch.nn.init.ones_(network.weight)
        >>> update_average(average, network, decay=0.75, step=1000)
        >>> average.weight.item()
        0.25
    """
    decay = min(decay, (step + 1) / (step + 10))
    now = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(now[name], 1 - decay)
        else:
            value.copy_(now[name])
