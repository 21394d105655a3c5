"""Reads the first real batches of an epoch, and leaves no trace of it in the user's loader."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cgn_augment.errors import UsageError
from cgn_augment.stream.loaders import PASSED_ON, RealData, State, parts_of


def first_batches(
    real: RealData, epoch: int, random: State | None, most: int
) -> Iterator[tuple[Any, Tensor | None]]:
    """Yields the first batches of an epoch, and which items each holds, where that is known.

    A `DataLoader` is not touched: another one reads its dataset in the order of a copy of its
    sampler, with one worker where it has any. Any other iterable is iterated once more. The global
    generators move on; the caller puts them back.

    Args:
        real: the user's real data.
        epoch: whose batches.
        random: what the order of the epoch is drawn from, as `RealData.state` has it; None for
            the generators as they are now.
        most: batches that are wanted.

    Raises:
        UsageError: a sampler, or an iterable dataset, that cannot be copied.
    """
    loader = real.loader
    if random is not None:
        torch.random.set_rng_state(random["global"])
    items: list[Any] | None = None
    if not isinstance(loader, DataLoader) or _reads_in_its_own_way(loader):
        batches = loader
    elif isinstance(loader.dataset, IterableDataset):
        batches = _like_iterable(loader, epoch)
    else:
        order, whole = _draw_order(real, epoch, random)
        drawn = list(islice(order, most))
        set_epoch([loader.dataset], epoch)
        how: dict[str, Any] = {"batch_sampler": drawn}
        if not whole:
            how = {"batch_size": None, "sampler": drawn}
        batches = _like(loader, loader.dataset, num_workers=min(1, loader.num_workers), **how)
        items = drawn if whole else None
    for step, batch in enumerate(islice(batches, most)):
        yield batch, None if items is None else torch.as_tensor(items[step])


def set_epoch(parts: Iterable[Any], epoch: int) -> None:
    """Sets the epoch of those that know one."""
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def _reads_in_its_own_way(loader: DataLoader[Any]) -> bool:
    """Whether a loader may do more than read and collate; Accelerate's and torchdata's do not."""
    known = hasattr(loader, "use_stateful_dataloader") or hasattr(loader, "load_state_dict")
    return type(loader).__iter__ is not DataLoader.__iter__ and not known


def _like(loader: DataLoader[Any], dataset: Any, **options: Any) -> DataLoader[Any]:
    """Returns a loader that reads and collates as another one does."""
    passed_on = {name: getattr(loader, name) for name in PASSED_ON}
    return DataLoader(dataset, generator=torch.Generator(), **{**passed_on, **options})


def _like_iterable(loader: DataLoader[Any], epoch: int) -> DataLoader[Any]:
    # With workers each of them reads its own copy anyway.
    dataset = loader.dataset if loader.num_workers else _copy(loader.dataset, {})
    set_epoch([dataset], epoch)
    if loader.batch_size is None:
        return _like(loader, dataset, batch_size=None)
    return _like(loader, dataset, batch_size=loader.batch_size, drop_last=loader.drop_last)


def _draw_order(real: RealData, epoch: int, random: State | None) -> tuple[Iterator[Any], bool]:
    """Returns what the sampler of an epoch draws, and whether that is whole batches of indices."""
    loader = real.loader
    generators = {
        id(generator): generator
        for part in parts_of(loader)
        if isinstance(generator := getattr(part, "generator", None), torch.Generator)
    }
    copies = {key: generator.clone_state() for key, generator in generators.items()}
    for generator, saved in zip(copies.values(), random["own"] if random else (), strict=False):
        generator.set_state(saved)
    shared = {id(each): each for each in (loader.dataset, real.dataset)}
    whole = real.batch_sampler is not None
    sampler = _copy(real.batch_sampler if whole else loader.sampler, {**shared, **copies})
    set_epoch(parts_of(sampler), epoch)
    # As a DataLoader does it: its workers' seed before a lazy sampler draws, and with workers a
    # second iterator.
    order = iter(sampler)
    running = loader.persistent_workers and loader._iterator is not None
    if not (random["seeded"] if random else running):  # which workers that stay are once
        seeds = copies.get(id(loader.generator))
        torch.zeros((), dtype=torch.int64).random_(generator=seeds)
        order = iter(sampler) if loader.num_workers else order
    return order, whole


def _copy(thing: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(thing, memo)
    except Exception as error:  # whatever the user's own class raises
        raise UsageError(
            f"a look would move {type(thing).__name__} on, since it cannot be copied ({error}): "
            "look at another stream, made for it with the same arguments"
        ) from error
