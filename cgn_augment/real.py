"""The real data behind one interface, whatever the user has: a dataset, a loader, an iterable.

Each kind can say how long an epoch is, start in the middle of one, and save where it is.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isgeneratorfunction
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

from cgn_augment.epochs import EpochDataset, EpochIterableDataset, SkippingBatchSampler
from cgn_augment.errors import ArgumentError, ArgumentTypeError, StateError
from cgn_augment.functional import Purpose, step_seed

logger = logging.getLogger(__name__)

State = dict[str, Any]


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
        return _batch_sizes(
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

    def state(self, started: bool) -> State:
        return {}

    def key(self) -> str:
        return (
            f"{len(self.dataset)} images, batches of {self.batch_sampler.batch_size}, "
            f"drop_last={self.batch_sampler.drop_last}, shuffle={self.sampler.shuffle}, "
            f"seed_items={self._config.seed_items}"
        )


class LoaderData:
    """A `DataLoader` of the user's, or any iterable of ready batches.

    Where it starts in the middle: by its own `state_dict` if it has one (torchdata's
    `StatefulDataLoader`), by its sampler's indices if it is a plain `DataLoader` of a map-style
    dataset, and otherwise by reading and dropping what comes before.
    """

    def __init__(self, loader: Any, *, owned: bool = False) -> None:
        self.loader = loader
        self.dataset = getattr(loader, "dataset", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)
        self.sampler = _find_sampler(loader)
        self._stateful = _keeps_its_state(loader)
        self._indexed = (
            type(loader) is DataLoader
            and not isinstance(loader.dataset, IterableDataset)
            and isinstance(loader.batch_sampler, Iterable)
        )
        self._at_start: State = {}
        persistent = getattr(loader, "persistent_workers", False)
        # Workers that stay are seeded once: the loader draws nothing for them at later epochs.
        self._seeds_once = self._indexed and persistent
        self._seeded = self._seeds_once and loader._iterator is not None
        if persistent and not owned and hasattr(self.dataset, "set_epoch"):
            logger.warning(
                "the loader has persistent workers, whose copies of the dataset may not see "
                "set_epoch: pass the dataset itself with num_workers, or use persistent_workers="
                "False"
            )

    def num_steps(self) -> int | None:
        if not hasattr(self.loader, "__len__") or self._length_is_a_guess():
            return None
        try:
            return len(self.loader)
        except TypeError:
            return None

    def batch_sizes(self) -> Sequence[int] | None:
        sampler = self.batch_sampler
        if not self._indexed or type(sampler) is not BatchSampler:
            return None
        if not isinstance(sampler.sampler, Sized):
            return None
        return _batch_sizes(len(sampler.sampler), sampler.batch_size, sampler.drop_last)

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        self._set_epoch(epoch)
        if state is not None:
            self._restore(state["random"])
        if state is None or step == 0:
            self._at_start = self._random_state()
            if state is not None and self._stateful:
                self.loader.load_state_dict(copy.deepcopy(state["loader"]))
            return self._from_the_start()
        self._at_start = state["random"]
        if self._stateful:
            return self._rest_by_state(state)
        if self._indexed:
            return self._rest_by_index(step, state["random"])
        logger.warning("going on at step %d: reading and dropping the batches before it", step)
        with _global_rng(state["random"]):
            batches: Iterator[Any] = iter(self.loader)
            for _ in islice(batches, step):
                pass
        return batches

    def state(self, started: bool) -> State:
        state: State = {"random": self._at_start if started else self._random_state()}
        if self._stateful:
            state["loader"] = copy.deepcopy(self.loader.state_dict())
        return state

    def key(self) -> str:
        size = getattr(self.loader, "batch_size", None)
        stateful = " with a state of its own" if self._stateful else ""
        return f"{type(self.loader).__name__} of {self.num_steps()} batches of {size}{stateful}"

    def _length_is_a_guess(self) -> bool:
        """Whether each worker rounds its own part of an iterable dataset to batches."""
        return (
            isinstance(self.loader, DataLoader)
            and isinstance(self.loader.dataset, IterableDataset)
            and self.loader.num_workers > 1
            and self.loader.batch_size is not None
        )

    def _set_epoch(self, epoch: int) -> None:
        for part in (*_parts(self.loader), self.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def _generators(self) -> list[torch.Generator]:
        found = [getattr(part, "generator", None) for part in _parts(self.loader)]
        unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return list(unique.values())

    def _random_state(self) -> State:
        """What the order of the coming epoch is drawn from."""
        return {
            "global": torch.random.get_rng_state(),
            "own": [generator.get_state() for generator in self._generators()],
            "seeded": self._seeded,
        }

    def _restore(self, random: State) -> None:
        generators, saved = self._generators(), random["own"]
        if len(generators) != len(saved):
            raise StateError(
                f"the state holds {len(saved)} generators of the loader, and this loader has "
                f"{len(generators)}: make the loader as it was made when the state was saved"
            )
        for generator, value in zip(generators, saved, strict=True):
            generator.set_state(value)
        self._seeded = random["seeded"]

    def _from_the_start(self) -> Iterator[Any]:
        loader = self.loader
        seeded, self._seeded = self._seeded, self._seeds_once
        if not seeded or loader._iterator is not None:
            return iter(loader)
        # In the run that is resumed the workers had their seed; these draw one without a trace.
        generator, loader.generator = loader.generator, torch.Generator()
        try:
            return iter(loader)
        finally:
            loader.generator = generator

    def _rest_by_state(self, state: State) -> Iterator[Any]:
        self.loader.load_state_dict(copy.deepcopy(state["loader"]))
        with _global_rng(state["random"]):
            return iter(self.loader)

    def _rest_by_index(self, step: int, random: State) -> Iterator[Any]:
        """Draws the epoch's indices once more and reads only those of the later batches."""
        loader = self.loader
        base_seed = torch.zeros((), dtype=torch.int64)
        with _global_rng(random):
            # As a DataLoader does it: its workers' seed before a lazy sampler draws, and with
            # workers a second iterator.
            order = iter(loader.batch_sampler)
            if not self._seeded:
                base_seed.random_(generator=loader.generator)
                order = iter(loader.batch_sampler) if loader.num_workers else order
            indices = list(order)[step:]
        self._seeded = self._seeds_once
        rest: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=indices,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            generator=torch.Generator().manual_seed(int(base_seed)),
        )
        return iter(rest)


def _parts(loader: Any) -> list[Any]:
    """Returns a loader and the samplers in it; Accelerate puts them into each other."""
    parts: list[Any] = []
    waiting = [loader]
    while waiting:
        part = waiting.pop(0)
        if part is not None and all(part is not known for known in parts):
            parts.append(part)
            waiting += [getattr(part, name, None) for name in ("batch_sampler", "sampler")]
    return parts


def _find_sampler(loader: Any) -> Any:
    """Returns what draws the indices: a loader with a batch sampler has another, idle sampler."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    return getattr(batch_sampler, "sampler", getattr(loader, "sampler", None))


def _keeps_its_state(loader: Any) -> bool:
    if not hasattr(loader, "state_dict") or not hasattr(loader, "load_state_dict"):
        return False
    # Accelerate's loaders have the methods always, but a state only when asked for one, and then
    # one that looks ahead and does not hold the order of a shuffled epoch.
    if hasattr(loader, "use_stateful_dataloader"):
        return False
    # Of a dataset without a state torchdata's loader reads and drops, as is done here, but counts
    # what it drops twice, so that the second resume is wrong.
    dataset = getattr(loader, "dataset", None)
    return (
        not isinstance(dataset, IterableDataset)
        or hasattr(dataset, "state_dict")
        or not isgeneratorfunction(type(dataset).__iter__)
    )


@contextmanager
def _global_rng(random: State) -> Iterator[None]:
    """Inside, torch's global generator is as it was when the epoch began."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(random["global"])
        yield


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
    plain = type(_find_sampler(real)) in (RandomSampler, SequentialSampler)
    if config.world_size > 1 and type(real) is DataLoader and plain:
        logger.warning(
            "each of the %d ranks reads all of this loader: give it a DistributedSampler, or pass "
            "its dataset, of which each rank then reads its part",
            config.world_size,
        )
    return LoaderData(real)


def _batch_sizes(num_images: int, batch_size: int, drop_last: bool) -> Sequence[int]:
    full, rest = divmod(num_images, batch_size)
    return [batch_size] * full + ([rest] if rest and not drop_last else [])
