"""A short text that identifies the weights of a network."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def hash_weights(module: nn.Module) -> str:
    """Returns twelve hexadecimal digits of a hash of names and weights.

    The order of the layers, the device and the layout in memory have no part in it.

    Example:
        >>> from torch import nn
        >>> from cgn_augment.generators.fingerprint import hash_weights
        >>> layer = nn.Linear(2, 2)
        >>> hash_weights(layer) == hash_weights(nn.Linear(2, 2))
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        # As bytes: NumPy knows no bfloat16. A view, so that a large network is not copied.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
