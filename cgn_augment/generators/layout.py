"""The order in which the weights of convolutions lie in memory."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def put_channels_last(module: nn.Module) -> None:
    """Lays the weights of all convolutions channels last, in the memory that they already have.

    Convolutions are faster so: on a CPU the two networks of ImageNet by about a sixth.
    `Module.to(memory_format=…)` would do the same in new memory; where weights are mapped from a
    file, both would be held.

    Example:
        >>> import torch
        >>> from cgn_augment.generators.layout import put_channels_last
        >>> layer = torch.nn.Conv2d(2, 4, 3)
        >>> at, expected = layer.weight.data_ptr(), layer.weight.clone()
        >>> put_channels_last(layer)
        >>> layer.weight.is_contiguous(memory_format=torch.channels_last)
        True
        >>> layer.weight.data_ptr() == at, torch.equal(layer.weight, expected)
        (True, True)
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.weight.is_contiguous():
            weight = part.weight.data
            ordered = weight.clone(memory_format=torch.channels_last)
            part.weight.data = weight.as_strided(ordered.size(), ordered.stride()).copy_(ordered)
