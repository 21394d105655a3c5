"""Which of several processes this is."""

from __future__ import annotations

import os

import torch

from cgn_augment.errors import ArgumentError


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns rank and world size: as given, from torch.distributed, or from torchrun.

    Raises:
        ArgumentError: only one of them was given, or they do not fit.
    """
    if (rank is None) != (world_size is None):
        raise ArgumentError("give rank and world_size together, or neither")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world_size:
        raise ArgumentError(f"rank must be 0 to {world_size - 1} of {world_size}, got {rank}")
    return rank, world_size
