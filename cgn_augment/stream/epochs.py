"""Datasets and samplers that know the epoch, and where in it to start."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler

from cgn_augment.functional import Purpose, isolated_rng, step_seed


class SkippingBatchSampler(Sampler[list[int]]):
    """Leaves out the first batches of the next epoch, without anything being decoded."""

    def __init__(self, batch_sampler: BatchSampler) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = batch_sampler.sampler
        self.batch_size, self.drop_last = batch_sampler.batch_size, batch_sampler.drop_last
        self.skip = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        # Counted when the first batch is drawn: a loader with workers makes two iterators, and
        # draws from the second.
        skip, self.skip = self.skip, 0
        yield from islice(iter(self.batch_sampler), skip, None)


class EpochDataset(Dataset[Any]):
    """Brings the epoch to the copies of a dataset that live in persistent workers.

    Args:
        dataset: map-style; its `set_epoch` is called where it has one.
        seed: seeds the reading of each item by (seed, epoch, index); None leaves the global
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
    """The same for iterable datasets, with every `world_size`-th sample where it is sharded.

    A last group of samples that does not reach all ranks is left out, so that each rank makes the
    same number of steps.
    """

    def __init__(self, dataset: Any, rank: int, world_size: int) -> None:
        self.dataset, self.rank, self.world_size = dataset, rank, world_size
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


def batch_sizes(num_images: int, batch_size: int, drop_last: bool) -> list[int]:
    """Returns the number of images of each step of an epoch."""
    full, rest = divmod(num_images, batch_size)
    return [batch_size] * full + ([rest] if rest and not drop_last else [])
