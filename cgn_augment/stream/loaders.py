"""A loader of the user's: what it says of itself, and how it goes on in the middle of an epoch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from inspect import isgeneratorfunction
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from cgn_augment.errors import CheckpointError
from cgn_augment.stream.epochs import batch_sizes

logger = logging.getLogger(__name__)

State = dict[str, Any]


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
        self.sampler = find_sampler(loader)
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
        return batch_sizes(len(sampler.sampler), sampler.batch_size, sampler.drop_last)

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

    def items(self, step: int) -> None:
        """A loader does not say which items its batches hold."""

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
            raise CheckpointError(
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


def find_sampler(loader: Any) -> Any:
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
