"""How a process loads labelled images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

Transform = Callable[[Image.Image], Tensor]
"""Turns an RGB picture into (3, H, W) float32."""


@dataclass(frozen=True)
class LoadConfig:
    """How a process loads labelled images.

    Attributes:
        batch_size: images per step.
        num_workers: processes that decode.
        rank: which of `world_size` processes this is.
        world_size: processes that train together; each reads its part.
        seed: seed of the order and of random transforms.
        pin_memory: whether batches are put in pinned memory, from which a GPU copies faster.
    """

    batch_size: int
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    pin_memory: bool = False


def make_loader(dataset: Any, config: LoadConfig, batch_size: int | None) -> DataLoader[Any]:
    """Returns a loader that leaves the global generators alone; None means ready batches.

    Args:
        dataset: the dataset to read.
        config: how the process loads images.
        batch_size: images per batch; None if the dataset yields batches.
    """
    return DataLoader(
        dataset,
        batch_size,
        num_workers=config.num_workers,
        pin_memory=config.pin_memory,
        generator=torch.Generator().manual_seed(config.seed),
    )
