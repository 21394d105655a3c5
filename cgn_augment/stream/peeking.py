"""A copy of a stream that can be iterated without moving the stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from cgn_augment.errors import UsageError
from cgn_augment.functional import kept_rng
from cgn_augment.sources.real_shapes import RealShapeSource
from cgn_augment.stream.loaders import PASSED_ON, RealData, parts_of

if TYPE_CHECKING:
    from cgn_augment.stream.dataset import CounterfactualDataset


@contextmanager
def peeking(stream: CounterfactualDataset) -> Iterator[CounterfactualDataset]:
    """Yields a copy of a stream, at the same position, that yields `MixedBatch`es.

    The two share the dataset and the contents of the source. A `DataLoader` is not touched: another
    one reads its dataset in the order of a copied sampler, with one worker if it has any. Any other
    iterable is iterated again. After the block the global random generators and the epochs of
    shared objects are restored.

    Raises:
        UsageError: a sampler, or an iterable dataset, cannot be copied.
    """
    source = stream.source
    if isinstance(source, RealShapeSource):  # it counts the masks that it judges
        source = source.with_options()
    memo: dict[int, Any] = {}
    real = _copy_real(stream._real, memo)
    twin = object.__new__(type(stream))
    twin.__dict__.update(vars(stream))
    twin.source, twin._real, twin._ranks = source, real, copy.deepcopy(stream._ranks, memo)
    twin._maker = replace(stream._maker, output="namedtuple", source=source)
    twin.prefetch = 0
    twin._bound, twin._history = None, stream._history.copy(real)
    with kept_rng(stream.device), _kept_epochs(stream):
        yield twin


@contextmanager
def _kept_epochs(stream: CounterfactualDataset) -> Iterator[None]:
    parts = [part for part in (*parts_of(stream._real.loader), stream.dataset) if _has_epoch(part)]
    before = [getattr(part, "epoch", None) for part in parts]
    try:
        yield
    finally:
        for part, epoch in zip(parts, before, strict=True):
            if epoch is None and stream._history.is_under_way:
                epoch = stream.epoch
            if isinstance(epoch, int):
                part.set_epoch(epoch)


def _has_epoch(part: Any) -> bool:
    return hasattr(part, "set_epoch")


def _copy_real(real: RealData, memo: dict[int, Any]) -> RealData:
    """Returns real data with its own order, generators and loader; `memo` is that of `deepcopy`."""
    loader = real.loader
    for part in parts_of(loader):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            memo[id(generator)] = generator.clone_state()
    if not isinstance(loader, DataLoader) or _reads_in_its_own_way(loader):
        shared = [*parts_of(loader), real.dataset]
        memo.update({id(part): part for part in shared})
        whole: RealData = _copy(real, memo)
        return whole
    by_index = not isinstance(loader.dataset, IterableDataset)
    if by_index or loader.num_workers:  # workers read their own copies
        memo[id(real.dataset)] = real.dataset
    passed_on = {name: getattr(loader, name) for name in PASSED_ON}
    memo.update({id(value): value for value in passed_on.values()})
    if by_index:
        passed_on["num_workers"] = min(1, loader.num_workers)
    if not by_index and loader.batch_size is not None:
        passed_on |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif by_index and loader.batch_sampler is not None:
        passed_on["batch_sampler"] = _copy(loader.batch_sampler, memo)
    else:
        passed_on["batch_size"] = None
        passed_on["sampler"] = _copy(loader.sampler, memo) if by_index else None
    memo[id(loader)] = DataLoader(
        _copy(loader.dataset, memo), generator=_copy(loader.generator, memo), **passed_on
    )
    twin: RealData = _copy(real, memo)
    twin._stateful = False
    return twin


def _reads_in_its_own_way(loader: DataLoader[Any]) -> bool:
    """Whether a loader may do more than read and collate; Accelerate's and torchdata's do not."""
    known = hasattr(loader, "use_stateful_dataloader") or hasattr(loader, "load_state_dict")
    return type(loader).__iter__ is not DataLoader.__iter__ and not known


def _copy(thing: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(thing, memo)
    except Exception as error:  # the user's own class may raise anything
        raise UsageError(
            f"a look would move the sampler or the dataset on, which cannot be copied ({error}): "
            "look at another stream, made for it with the same arguments"
        ) from error
