"""Finds this process's rank, and how many cores it may use."""

from __future__ import annotations

import os
from textwrap import shorten

import torch

from cgn_augment.errors import ArgumentError, UsageError

_MOST_DIGITS = 18  # Python refuses to convert thousands


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns rank and world size: as given, else from torch.distributed, else from torchrun.

    Args:
        rank: of this process, or None to find it.
        world_size: number of processes, or None to find it.

    Raises:
        ArgumentError: only one of them was given, or they do not fit together.
        UsageError: there are several processes, and nothing says which one this is; or torchrun's
            variables hold no numbers.
    """
    if (rank is None) != (world_size is None):
        raise ArgumentError("give rank and world_size together, or neither")
    if rank is None or world_size is None:
        if is_distributed():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = _number("RANK", 0), _number("WORLD_SIZE", 1, least=1)
            if world_size > 1 and "RANK" not in os.environ:
                raise UsageError(
                    f"WORLD_SIZE is {world_size} and RANK is not set, so this process may be any "
                    "of them: ask after torch.distributed has started, or pass rank and world_size"
                )
    if not 0 <= rank < world_size:
        raise ArgumentError(f"rank must be 0 to {world_size - 1} of {world_size}, got {rank}")
    return rank, world_size


def is_distributed() -> bool:
    """Returns whether torch.distributed has started and so knows the rank."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def count_cores() -> int:
    """Returns how many cores this process may use, after sharing with torchrun's other processes.

    Raises:
        UsageError: torchrun's variable holds no number.

    Examples:
        >>> from cgn_augment.ranks import count_cores
        >>> count_cores() >= 1
        True
    """
    usable = getattr(os, "sched_getaffinity", None)  # missing on some systems
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, cores // _number("LOCAL_WORLD_SIZE", 1, least=1))


def _number(name: str, default: int, least: int = 0) -> int:
    """Returns the number in one of torchrun's environment variables."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) >= least):
        raise UsageError(
            f"the environment variable {name} must be an integer of {least} or more, as torchrun "
            f"sets it, got {shorten(repr(text), 90)}: unset it, or start with torchrun"
        )
    return int(text)


class Ranks:
    """Rank and world size, found on first use; a later change is an error.

    Clients make their data before their processes exist. So the constructor looks up nothing, and a
    forked or spawned process finds its own rank.

    Args:
        rank: of this process; give it together with `world_size`, or neither.
        world_size: number of processes.

    Raises:
        ArgumentError: only one of them was given, or they do not fit together.

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
        """Returns rank and world size as they are now, without fixing them.

        Raises:
            UsageError: nothing says which process this is.
        """
        if self._given is not None:
            return self._given
        return find_rank(None, None)

    def find(self) -> tuple[int, int]:
        """Returns rank and world size, and fixes them.

        Raises:
            UsageError: they changed since the first call in this process, or nothing says which
                process this is.
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
