"""Datasets and samplers that know the epoch, and where in it to start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset, Sampler

from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.ranks import Ranks


class RankedSampler(Sampler[int]):
    """The order of torch's `DistributedSampler`, for a rank that is found on first use."""

    def __init__(
        self, dataset: Any, ranks: Ranks, *, shuffle: bool, seed: int, drop_last: bool
    ) -> None:
        self.dataset, self.ranks, self.epoch = dataset, ranks, 0
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._of_rank())

    def __iter__(self) -> Iterator[int]:
        sampler = self._of_rank()
        sampler.set_epoch(self.epoch)
        return iter(sampler)

    def _of_rank(self) -> DistributedSampler[Any]:
        rank, world_size = self.ranks.find()
        return DistributedSampler(
            self.dataset,
            world_size,
            rank,
            shuffle=self.shuffle,
            seed=self.seed,
            drop_last=self.drop_last,
        )


class TrackedBatches(Sampler[list[int]]):
    """Passes on the batches of a batch sampler from a given one on, and records their items.

    The batch sampler draws when it would in a loader of its own: at `iter`, or later.

    Attributes:
        skip: number of batches of the next epoch to leave out; nothing of them is decoded.
        drawn: if set, collects what the next epoch draws, including the batches left out.
    """

    def __init__(self, batch_sampler: Iterable[list[int]]) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = getattr(batch_sampler, "sampler", None)
        self.skip = 0
        self.drawn: deque[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        return self._pass_on(iter(self.batch_sampler), self.drawn)

    def _pass_on(
        self, batches: Iterator[list[int]], drawn: deque[list[int]] | None
    ) -> Iterator[list[int]]:
        # Counted at the first draw: a loader with workers makes two iterators and draws from the
        # second.
        skip, self.skip = self.skip, 0
        for place, batch in enumerate(batches):
            if drawn is not None:
                drawn.append(batch)
            if place >= skip:
                yield batch


class EpochDataset(Dataset[Any]):
    """Passes the epoch to the copies of a dataset in persistent workers.

    Args:
        dataset: map-style; its `set_epoch` is called if it has one.
        seed: seeds the reading of each item by (seed, epoch, index); None leaves the global random
            generators alone.
            generators to themselves.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.dataset, self.seed = dataset, seed
        self._wanted = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._seen = -1

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch here and, at their next item, in all workers."""
        self._wanted.fill_(epoch)

    def _current(self) -> Any:
        epoch = int(self._wanted)
        if epoch != self._seen and hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        self._seen = epoch
        return self.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        dataset = self._current()
        if self.seed is None:
            return dataset[index]
        seed = step_seed(Purpose.ITEM, self.seed, self._seen, index)
        with isolated_rng(seed, torch.device("cpu")):
            return dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        dataset = self._current()
        if self.seed is None and hasattr(dataset, "__getitems__"):
            return list(dataset.__getitems__(indices))
        return [self[index] for index in indices]


class EpochIterableDataset(IterableDataset[Any]):
    """The same for iterable datasets; if sharded, yields every `world_size`-th sample.

    A last group of samples that does not reach all ranks is left out, so that each rank makes the
    same number of steps.

    Attributes:
        rank: the part to read; set before the workers start, since they cannot find it.
        world_size: number of parts.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.rank, self.world_size = dataset, 0, 1
        self._wanted = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, here and in all workers."""
        self._wanted.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(self._wanted))
        samples = iter(self.dataset)
        while len(group := list(islice(samples, self.world_size))) == self.world_size:
            yield group[self.rank]

    def __len__(self) -> int:
        return len(self.dataset) // self.world_size
