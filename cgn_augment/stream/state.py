"""Where a stream is, in its epochs and in which process, and where it can go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

from cgn_augment.errors import CheckpointError, UsageError

STATE_VERSION = 1


class Position(NamedTuple):
    """Where a stream is.

    Attributes:
        epoch: counted from 0.
        step: steps of the epoch that are done.
        total: steps of all epochs that are done.
        carry: part of a counterfactual that is left for the next step, in 1/UNIT.
    """

    epoch: int
    step: int
    total: int
    carry: int

    def next_epoch(self) -> Position:
        """Returns the start of the epoch after this one, where this one is complete."""
        return self._replace(epoch=self.epoch + 1, step=0)


def require_state(state: Mapping[str, Any], fingerprint: Mapping[str, str]) -> None:
    """Refuses what `state_dict()` of a stream with this fingerprint did not return.

    Raises:
        CheckpointError: the state is of another version or another configuration, or damaged.
    """
    version = state.get("version") if isinstance(state, Mapping) else type(state).__name__
    if version != STATE_VERSION:
        raise CheckpointError(
            f"not a state of this version of CounterfactualDataset: expected version "
            f"{STATE_VERSION}, got {version!r}"
        )
    for key in (*Position._fields, "start", "real", "fingerprint"):
        if key not in state:
            raise CheckpointError(
                f"the state is damaged: expected what state_dict() returned, and {key!r} is missing"
            )
    then = state["fingerprint"]
    differing = [
        f"{key}: {then.get(key)!r} then, {now!r} now"
        for key, now in fingerprint.items()
        if then.get(key) != now
    ]
    if differing:
        raise CheckpointError(
            f"the state belongs to another configuration ({'; '.join(differing)}): make the stream "
            "as it was when the state was saved"
        )


def require_usable_place(device: torch.device, pid: int) -> None:
    """Refuses, called in `__iter__`, where a stream cannot be iterated.

    That is a worker, a fork of the process `pid` that holds a GPU, and a `DataLoader` that batches
    what it gets. Such a loader passes nothing on that would tell, so this looks at who called
    `__iter__`; a test holds it against the installed torch.

    Raises:
        UsageError: it is one of them.
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
    caller = sys._getframe(2)
    fetches = caller.f_globals.get("__name__") == "torch.utils.data._utils.fetch"
    if fetches and getattr(caller.f_locals.get("self"), "auto_collation", False):
        raise UsageError(
            "DataLoader(stream) would batch the ready batches once more and add a dimension: use "
            "DataLoader(stream, batch_size=None), or iterate the stream itself"
        )
