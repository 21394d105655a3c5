"""Short texts that identify the weights of a network, or other tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

BYTES_BAR: Any = {"unit": "B", "unit_scale": True, "delay": 2, "disable": None}
"""A bar of bytes, for interactive use, of whatever takes over two seconds."""


def hash_weights(module: nn.Module) -> str:
    """Returns twelve hexadecimal digits of a hash of names and weights.

    Independent of the order of layers, the device and the memory layout.

    Examples:
        >>> from torch import nn
        >>> from cgn_augment.generators.fingerprint import hash_weights
        >>> layer = nn.Linear(2, 2)
        >>> hash_weights(layer) == hash_weights(nn.Linear(2, 2))
        False
    """
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns twelve hexadecimal digits of a hash of names and values, in the names' order.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.fingerprint import hash_tensors
        >>> hash_tensors({"y": torch.arange(3)}) == hash_tensors({"y": torch.arange(3)})
        True
    """
    digest = hashlib.sha256()
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    with tqdm(total=total, desc="hashing weights", **BYTES_BAR) as bar:
        for name, value in sorted(tensors.items()):
            digest.update(name.encode())
            # As bytes, since NumPy has no bfloat16; as a view, to avoid copying a large network.
            flat: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(flat)
            bar.update(flat.nbytes)
    return digest.hexdigest()[:12]
