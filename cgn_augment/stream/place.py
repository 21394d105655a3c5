"""Where a stream cannot be iterated: in a worker, in a fork, in a loader that batches it."""

from __future__ import annotations

import os
import sys

import torch
from torch.utils.data import get_worker_info

from cgn_augment.errors import UsageError


def require_usable_place(device: torch.device, pid: int) -> None:
    """Refuses the workers of a loader, and forks of the process `pid` that holds a GPU.

    Raises:
        UsageError: this process is one of them.
    """
    if get_worker_info() is not None:
        raise UsageError(
            "CounterfactualDataset was iterated inside a DataLoader worker, where it would copy "
            "the generator: pass num_workers to CounterfactualDataset, and use num_workers=0 "
            "outside: DataLoader(stream, batch_size=None)"
        )
    if device.type == "cuda" and os.getpid() != pid:
        raise UsageError(
            "this process was forked from the one that holds the generator on the GPU, and CUDA "
            "does not survive a fork: make the CounterfactualDataset in this process"
        )


def require_no_batching() -> None:
    """Refuses, called in `__iter__`, a `DataLoader` that batches what it gets.

    Such a loader passes nothing on that would tell, so this looks at who called `__iter__`; a test
    holds it against the installed torch.

    Raises:
        UsageError: the caller is such a loader.
    """
    caller = sys._getframe(2)
    fetches = caller.f_globals.get("__name__") == "torch.utils.data._utils.fetch"
    if fetches and getattr(caller.f_locals.get("self"), "auto_collation", False):
        raise UsageError(
            "DataLoader(stream) would batch the ready batches once more and add a dimension: use "
            "DataLoader(stream, batch_size=None), or iterate the stream itself"
        )
