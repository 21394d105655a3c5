"""Detects callers in which a stream cannot be iterated, or would lose or change its batches."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from cgn_augment.errors import UsageError

if TYPE_CHECKING:
    from cgn_augment.stream.dataset import CounterfactualDataset

logger = logging.getLogger(__name__)

_DEPTH = 20
"""Names of the callers to examine."""

_STATEFUL = "torchdata.stateful_dataloader.stateful_dataloader"
_LIGHTNING = tuple(
    f"{name}.utilities.combined_loader" for name in ("lightning.pytorch", "pytorch_lightning")
)
_LOADERS = ("torch.utils.data._utils.fetch", "accelerate.data_loader", _STATEFUL, *_LIGHTNING)

_CUT = ("DataLoaderDispatcher", "IterableDatasetShard")
"""Accelerate's loaders that split a batch among processes."""

REBUILDERS = (
    "collate_fn",
    "generator",
    "multiprocessing_context",
    "persistent_workers",
    "pin_memory_device",
    "prefetch_factor",
)
"""Attributes that only code that rebuilds a loader reads.

`worker_init_fn` is not among them: Lightning checks whether every iterable has one.
"""


def require_usable_place(
    stream: CounterfactualDataset, pid: int, knows_epoch: bool, loaded_step: int
) -> Any:
    """Raises where a stream cannot be iterated; called in `__iter__`.

    These places are a worker, a fork of the process that holds a GPU, and a loader that would
    batch, slice or skip the batches. Such a loader does not identify itself, so this looks at the
    callers of `__iter__`; tests run it in the installed clients.

    Args:
        stream: the stream to iterate.
        pid: the process that created it.
        knows_epoch: whether anything has set the next epoch.
        loaded_step: step to continue at after a load, else 0.

    Returns:
        The loader of `skip_first_batches` that called, or None. That loader does not detect the
        last batch itself.

    Raises:
        UsageError: this is such a place.
    """
    if get_worker_info() is not None:
        raise UsageError(
            "CounterfactualDataset was iterated inside a DataLoader worker, where it would copy "
            "the generator: pass num_workers to CounterfactualDataset, and iterate the stream "
            "itself or stream.as_loader()"
        )
    if stream.device.type == "cuda" and os.getpid() != pid:
        raise UsageError(
            "this process was forked from the one that holds the generator on the GPU, and CUDA "
            "does not survive a fork: make the CounterfactualDataset in this process"
        )
    skipping = None
    hidden = reads_ahead = False
    for module, loader in _loaders():
        kind = type(loader).__name__
        reads_ahead = reads_ahead or module in _LIGHTNING
        if module == _STATEFUL:
            hidden = False
        if getattr(loader, "dataset", None) is not stream:
            continue
        if getattr(loader, "auto_collation", False):
            raise UsageError(
                "a DataLoader would batch the ready batches of the stream once more: iterate the "
                "stream itself, or give a client that insists on a DataLoader stream.as_loader() "
                "(transformers: trainer.get_train_dataloader = stream.as_loader)"
            )
        hidden = hidden or kind == "_IterableDatasetFetcher"
        if kind in _CUT and stream.world_size > 1:
            raise UsageError(
                f"accelerate would cut each batch of the stream into {stream.world_size} parts, "
                "though every process reads its own: pass stream.as_loader() to "
                "accelerator.prepare, instead of a DataLoader of the stream"
            )
        if kind != "SkipDataLoader":
            continue
        skipping, hidden = loader, False
        if not loader.skip_batches:
            continue
        if loaded_step:
            raise UsageError(
                f"the state that was loaded goes on at step {loaded_step} of its epoch by itself, "
                f"and skip_first_batches would leave out {loader.skip_batches} more batches: "
                "iterate the loader itself"
            )
        if not knows_epoch:
            raise UsageError(
                f"skip_first_batches leaves out {loader.skip_batches} batches of an epoch, and "
                "nothing has said of which: call set_epoch(epoch) of the stream or its loader "
                "first (transformers.Trainer: with the epoch of the checkpoint, "
                "int(TrainerState.load_from_json(…).epoch))"
            )
    if reads_ahead and not _has_length(stream):
        logger.warning(
            "Lightning reads one batch ahead of a stream whose length is unknown, and a run that "
            "is resumed inside an epoch leaves that batch out: give the real data a length"
        )
    if hidden:
        logger.warning(
            "a DataLoader around the stream hides its epoch and its state from those who save and "
            "resume: iterate the stream itself, or use stream.as_loader()"
        )
    return skipping


def _has_length(stream: CounterfactualDataset) -> bool:
    try:
        len(stream)
    except TypeError:
        return False
    return True


def refuse_rebuilding(name: str) -> None:
    """Raises `UsageError` when an attribute is read that only rebuilding a loader needs.

    A loader rebuilt from the stream's dataset and sampler would yield only real images.
    """
    if name in REBUILDERS:
        raise UsageError(
            f"{name} of a CounterfactualDataset was asked for, as by a library that builds a new "
            "DataLoader, which would yield real images alone: give that library "
            "stream.as_loader()"
        )


def _loaders() -> Iterator[tuple[str, Any]]:
    """Yields module and instance of the known libraries' loaders that called `__iter__`."""
    frame: FrameType | None = sys._getframe(3)
    for _ in range(_DEPTH):
        if frame is None:
            return
        # Read locals in these modules only: a frame would keep those of others alive.
        module = frame.f_globals.get("__name__", "")
        if module in _LOADERS:
            yield module, frame.f_locals.get("self")
        frame = frame.f_back
