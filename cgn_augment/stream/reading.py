"""The real data behind one interface, whatever the user has: a dataset, a loader, an iterable.

Each kind can say how long an epoch is, start in the middle of one, and save where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import Purpose, step_seed
from cgn_augment.stream.epochs import (
    EpochDataset,
    EpochIterableDataset,
    SkippingBatchSampler,
    batch_sizes,
)
from cgn_augment.stream.loaders import LoaderData, State, find_sampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadConfig:
    """How a dataset is read; the arguments of `CounterfactualDataset` of the same names."""

    batch_size: int | None
    shuffle: bool
    drop_last: bool
    seed: int
    rank: int
    world_size: int
    num_workers: int
    seed_items: bool
    shard_iterable: bool | None
    loader_options: Mapping[str, Any]


class RealData(Protocol):
    """Real batches, epoch by epoch.

    Attributes:
        dataset: the user's dataset, or None.
        sampler: what draws indices, or None.
        batch_sampler: what draws batches of indices, or None.
    """

    dataset: Any
    sampler: Any
    batch_sampler: Any

    def batch_sizes(self) -> Sequence[int] | None:
        """Returns the number of images of each step of an epoch, or None if it is unknown."""

    def num_steps(self) -> int | None:
        """Returns the steps of an epoch, or None if they are unknown."""

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        """Returns the batches of `epoch` from `step` on; `state` is one of `state()`."""

    def items(self, step: int) -> Iterator[list[int]] | None:
        """Returns which items the batches from `step` of the started epoch on hold, if known."""

    def state(self, started: bool) -> State:
        """Returns what `start` needs to go on; `started` says that an epoch is under way."""

    def key(self) -> str:
        """Identifies the data in the fingerprint of a saved state."""


class MapStyleData:
    """A map-style dataset, read through a `DataLoader` that is made here.

    The order is that of torch's `DistributedSampler` with this seed, so a plain loader with such a
    sampler gives the same batches. Its generators are its own; the global ones stay untouched.
    """

    def __init__(self, dataset: Any, batch_size: int, config: ReadConfig) -> None:
        if len(dataset) < 1:
            raise ArgumentError("the real dataset is empty")
        self.dataset, self._config = dataset, config
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            dataset,
            config.world_size,
            config.rank,
            shuffle=config.shuffle,
            seed=config.seed,
            drop_last=config.drop_last,
        )
        batches = BatchSampler(self.sampler, batch_size, config.drop_last)
        if len(batches) == 0:
            raise ArgumentError(
                f"drop_last leaves nothing: {len(self.sampler)} images of this rank do not fill a "
                f"batch of {batch_size}"
            )
        self.batch_sampler = SkippingBatchSampler(batches)
        self._read = dataset
        if config.seed_items or hasattr(dataset, "set_epoch"):
            self._read = EpochDataset(dataset, config.seed if config.seed_items else None)
        self.loader: DataLoader[Any] = DataLoader(
            self._read,
            batch_sampler=self.batch_sampler,
            num_workers=config.num_workers,
            generator=torch.Generator(),
            **config.loader_options,
        )

    def num_steps(self) -> int:
        return len(self.batch_sampler)

    def batch_sizes(self) -> Sequence[int]:
        return batch_sizes(
            len(self.sampler), self.batch_sampler.batch_size, self.batch_sampler.drop_last
        )

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        self.sampler.set_epoch(epoch)
        self.batch_sampler.skip = step
        if isinstance(self._read, EpochDataset):
            self._read.set_epoch(epoch)
        # The loader draws the seeds of its workers from this generator.
        seed = step_seed(Purpose.LOADER, self._config.seed, epoch, self._config.rank)
        self.loader.generator.manual_seed(seed)
        return iter(self.loader)

    def items(self, step: int) -> Iterator[list[int]]:
        return islice(iter(self.batch_sampler.batch_sampler), step, None)

    def state(self, started: bool) -> State:
        return {}

    def key(self) -> str:
        return (
            f"{len(self.dataset)} images, batches of {self.batch_sampler.batch_size}, "
            f"drop_last={self.batch_sampler.drop_last}, shuffle={self.sampler.shuffle}, "
            f"seed_items={self._config.seed_items}"
        )


def wrap_real(real: Any, config: ReadConfig) -> RealData:
    """Finds out what the user's real data is.

    Raises:
        ArgumentError: a loader together with an option that belongs to a dataset, a dataset without
            `batch_size`, an iterable dataset on several ranks without `shard_iterable`.
        ArgumentTypeError: neither a dataset, nor a loader, nor an iterable.
    """
    batch_size = config.batch_size
    if isinstance(real, DataLoader) or batch_size is None:
        return _wrap_batches(real, config)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise ArgumentTypeError(f"batch_size must be an integer, got {batch_size!r}")
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be 1 or more, got {batch_size}")
    if isinstance(real, IterableDataset):
        return _wrap_iterable(real, batch_size, config)
    if not hasattr(real, "__getitem__") or not hasattr(real, "__len__"):
        raise ArgumentTypeError(
            f"real must be a dataset, a DataLoader or an iterable of batches, got "
            f"{type(real).__name__}; batch_size is for datasets alone"
        )
    return MapStyleData(real, batch_size, config)


def _wrap_iterable(real: IterableDataset[Any], batch_size: int, config: ReadConfig) -> LoaderData:
    if config.world_size > 1 and config.shard_iterable is None:
        raise ArgumentError(
            f"an iterable dataset on {config.world_size} ranks: pass shard_iterable=True to give "
            "each rank every world_size-th sample, or False if the dataset already keeps to its "
            "rank"
        )
    if config.seed_items:
        raise ArgumentError(
            "seed_items needs a map-style dataset, whose items have an index: leave it out"
        )
    split = bool(config.shard_iterable) and config.world_size > 1
    parts = (config.rank, config.world_size) if split else (0, 1)
    loader: DataLoader[Any] = DataLoader(
        EpochIterableDataset(real, *parts),
        batch_size,
        drop_last=config.drop_last,
        num_workers=config.num_workers,
        generator=torch.Generator().manual_seed(config.seed),
        **config.loader_options,
    )
    return LoaderData(loader, owned=True)


def _wrap_batches(real: Any, config: ReadConfig) -> LoaderData:
    of_dataset = {
        "batch_size": config.batch_size is not None,
        "num_workers": config.num_workers != 0,
        "drop_last": config.drop_last,
        "seed_items": config.seed_items,
        "loader_options": bool(config.loader_options),
    }
    given = [name for name, is_given in of_dataset.items() if is_given]
    if given:
        raise ArgumentError(
            f"{' and '.join(given)}: for a dataset alone; this {type(real).__name__} makes its own "
            "batches, or pass its dataset instead"
        )
    ready = isinstance(real, (DataLoader, IterableDataset))
    if isinstance(real, Dataset) and not ready:
        raise ArgumentError(
            f"real is a dataset ({type(real).__name__}) and has no batches yet: pass batch_size"
        )
    if not isinstance(real, Iterable):
        raise ArgumentTypeError(
            f"real must be a dataset, a DataLoader or an iterable of batches, got "
            f"{type(real).__name__}"
        )
    if hasattr(real, "__next__"):
        raise ArgumentTypeError(
            f"real is an iterator ({type(real).__name__}), which can be read once only: pass "
            "something that can be iterated again each epoch"
        )
    plain = type(find_sampler(real)) in (RandomSampler, SequentialSampler)
    if config.world_size > 1 and type(real) is DataLoader and plain:
        logger.warning(
            "each of the %d ranks reads all of this loader: give it a DistributedSampler, or pass "
            "its dataset, of which each rank then reads its part",
            config.world_size,
        )
    return LoaderData(real)
