"""Which of several processes this is, and how many cores are its own."""

from __future__ import annotations

import os

import torch

from cgn_augment.errors import ArgumentError, UsageError


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns rank and world size: as given, from torch.distributed, or from torchrun.

    Raises:
        ArgumentError: only one of them was given, or they do not fit.
        UsageError: there are several processes and nothing says which one this is.
    """
    if (rank is None) != (world_size is None):
        raise ArgumentError("give rank and world_size together, or neither")
    if rank is None or world_size is None:
        if is_distributed():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
            if world_size > 1 and "RANK" not in os.environ:
                raise UsageError(
                    f"WORLD_SIZE is {world_size} and RANK is not set, so this process may be any "
                    "of them: ask after torch.distributed has started, or pass rank and world_size"
                )
    if not 0 <= rank < world_size:
        raise ArgumentError(f"rank must be 0 to {world_size - 1} of {world_size}, got {rank}")
    return rank, world_size


def is_distributed() -> bool:
    """Returns whether torch.distributed has started, so that it knows the rank."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def count_cores() -> int:
    """Returns how many cores this process may use, beside those that torchrun started with it.

    Examples:
        >>> from cgn_augment.ranks import count_cores
        >>> count_cores() >= 1
        True
    """
    usable = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Ranks:
    """Rank and world size, found when they are first needed and held against later answers.

    Clients make their data before their processes exist. So nothing is found on construction, and
    a forked or spawned process finds its own.

    Args:
        rank: of this process; given together with `world_size`, or found.
        world_size: how many processes there are.

    Raises:
        ArgumentError: only one of them was given, or they do not fit.

    Examples:
        >>> from cgn_augment.ranks import Ranks
        >>> Ranks(1, 4).find()
        (1, 4)
    """

    def __init__(self, rank: int | None = None, world_size: int | None = None) -> None:
        given = rank is not None or world_size is not None
        self._given = find_rank(rank, world_size) if given else None
        self._found: tuple[int, int] | None = None
        self._pid = 0

    def is_settled(self) -> bool:
        """Returns whether the answer can no longer change in this process."""
        return self._given is not None or is_distributed()

    def look(self) -> tuple[int, int]:
        """Returns rank and world size as they seem now, without holding later answers to them.

        Raises:
            UsageError: nothing says which process this is.
        """
        if self._given is not None:
            return self._given
        return find_rank(None, None)

    def find(self) -> tuple[int, int]:
        """Returns rank and world size, for good.

        Raises:
            UsageError: they have changed since they were first found in this process, or nothing
                says which process this is.
        """
        now = self.look()
        if self._found is None or self._pid != os.getpid():
            self._found, self._pid = now, os.getpid()
        elif is_distributed() and now != self._found:
            raise UsageError(
                f"this process was rank {self._found[0]} of {self._found[1]} when the stream was "
                f"first asked for its length or a batch, and is rank {now[0]} of {now[1]} now: ask "
                "after torch.distributed has started, or pass rank and world_size"
            )
        return self._found
