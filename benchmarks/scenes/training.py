"""The common part of the trainings of the prior and of the saliency network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cgn_augment.files import replacing


def to_bytes(images: Tensor) -> Tensor:
    """Returns images in [-1, 1] as uint8 of the same shape."""
    return ((images + 1) * 127.5).round().byte()


def to_floats(images: Tensor) -> Tensor:
    """Returns uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def write_state(network: nn.Module, path: Path) -> Path:
    """Writes a state dict as the published networks have theirs, whole or not at all."""
    with replacing(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return path
