"""The real data: the length of an epoch, how to continue inside one, and what to save."""

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
from cgn_augment.files import first_line

logger = logging.getLogger(__name__)

State = dict[str, Any]


@contextmanager
def _reading() -> Iterator[None]:
    """Turns errors inside the block into one that says the saved state is damaged."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # loaders of other libraries raise anything
        raise CheckpointError(
            "the state is damaged: what it says of the real data cannot be used "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


PASSED_ON = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
)
"""Keywords of a `DataLoader` that do not affect the order."""


class RealData:
    """Real batches, epoch by epoch, from a `DataLoader` or any iterable of ready batches.

    To start inside an epoch it uses the data's own `state_dict` if there is one (torchdata's
    `StatefulDataLoader`), the sampler's indices for a plain `DataLoader` of a map-style dataset,
    and otherwise reads and drops the batches before.

    Attributes:
        dataset: the user's dataset, or None.
        sampler: draws indices, or None.
        batch_sampler: draws batches of indices, or None.
        batch_size: images of a full batch, or None if unknown.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset: Any = getattr(loader, "dataset", None)
        self.batch_sampler: Any = getattr(loader, "batch_sampler", None)
        # A loader with a batch sampler has another sampler that it does not use.
        idle = getattr(loader, "sampler", None)
        self.sampler: Any = getattr(self.batch_sampler, "sampler", idle)
        self.batch_size: int | None = getattr(loader, "batch_size", None)
        self._stateful = _keeps_its_state(loader)
        self._indexed = (
            type(loader) is DataLoader
            and not isinstance(loader.dataset, IterableDataset)
            and isinstance(loader.batch_sampler, Iterable)
        )
        self._at_start: State = {}
        # Persistent workers are seeded once: the loader draws nothing for them in later epochs.
        self._seeds_once = self._indexed and loader.persistent_workers
        self._seeded = self._seeds_once and loader._iterator is not None

    def bind(self, rank: int, world_size: int) -> None:
        """Restricts the data to the part of a rank, once the rank is known.

        Raises:
            ArgumentError: there are several ranks, and nothing divides the data among them.
        """

    def num_steps(self) -> int | None:
        """Returns the steps of an epoch, or None if unknown."""
        loader = self.loader
        each_worker_rounds_its_part = (
            isinstance(loader, DataLoader)
            and isinstance(loader.dataset, IterableDataset)
            and loader.num_workers > 1
            and loader.batch_size is not None
        )
        if not hasattr(loader, "__len__") or each_worker_rounds_its_part:
            return None
        try:
            return len(loader)
        except TypeError:
            return None

    def is_exact(self) -> bool:
        """Returns whether an epoch shorter than `num_steps` is an error."""
        return self._indexed

    def batch_sizes(self) -> Sequence[int] | None:
        """Returns the number of images of each step of an epoch, or None if unknown."""
        sampler = self.batch_sampler
        if not self._indexed or type(sampler) is not BatchSampler:
            return None
        if not isinstance(sampler.sampler, Sized):
            return None
        full, rest = divmod(len(sampler.sampler), sampler.batch_size)
        return [sampler.batch_size] * full + [rest] * (rest > 0 and not sampler.drop_last)

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        """Returns the batches of `epoch` from `step` on; `state` comes from `state()`."""
        self._set_epoch(epoch)
        if state is not None:
            with _reading():
                torch.Generator().set_state(state["random"]["global"])  # only tests that it works
                self._restore(state)
        if state is None or step == 0:
            self._at_start = self._random_state()
            return self._from_the_start()
        self._at_start = state["random"]
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(state["random"]["global"])
            if self._indexed:
                return self._rest_by_index(step)
            batches: Iterator[Any] = iter(self.loader)
            if not self._stateful:
                logger.warning(
                    "going on at step %d: reading and dropping the batches before it", step
                )
                for _ in islice(batches, step):
                    pass
        return batches

    def items(self, step: int) -> Iterator[list[int]] | None:
        """Returns the dataset indices in the batches of the next `start` at `step`, if known."""
        return None

    def jump(self, state: State) -> None:
        """Leaves the place of a `state()` for another epoch.

        A loader that shuffles anew each epoch continues from the random state it had there.
        """
        if state:
            with _reading():
                self._restore_generators(state["random"]["now"])

    def state(self, started: bool) -> State:
        """Returns what `start` needs to continue; `started` says whether an epoch has begun."""
        now = [generator.get_state() for generator in self._generators()]
        state: State = {"random": {**(self._at_start if started else self._random_state())}}
        state["random"]["now"] = now
        if self._stateful:
            state["loader"] = copy.deepcopy(self.loader.state_dict())
        return state

    def key(self) -> str:
        """Identifies the data in the fingerprint of a saved state."""
        stateful = " with a state of its own" if self._stateful else ""
        batches = f"{self.num_steps()} batches of {self.batch_size}"
        return f"{type(self.loader).__name__} of {batches}{stateful}"

    def _set_epoch(self, epoch: int) -> None:
        for part in (*parts_of(self.loader), getattr(self.loader, "dataset", None)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def _generators(self) -> list[torch.Generator]:
        found = [getattr(part, "generator", None) for part in parts_of(self.loader)]
        unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return list(unique.values())

    def _random_state(self) -> State:
        """Returns the random state from which the next epoch's order is drawn."""
        return {
            "global": torch.random.get_rng_state(),
            "own": [generator.get_state() for generator in self._generators()],
            "seeded": self._seeded,
        }

    def _restore(self, state: State) -> None:
        self._restore_generators(state["random"]["own"])
        self._seeded = state["random"]["seeded"]
        if self._stateful:
            self.loader.load_state_dict(copy.deepcopy(state["loader"]))

    def _restore_generators(self, saved: list[torch.Tensor]) -> None:
        generators = self._generators()
        if len(generators) != len(saved):
            raise CheckpointError(
                f"the state holds {len(saved)} generators of the loader, and this loader has "
                f"{len(generators)}: make the loader as it was made when the state was saved"
            )
        for generator, value in zip(generators, saved, strict=True):
            generator.set_state(value)

    def _from_the_start(self) -> Iterator[Any]:
        loader = self.loader
        seeded, self._seeded = self._seeded, self._seeds_once
        if not seeded or loader._iterator is not None:
            return iter(loader)
        # In the original run the workers already had a seed; draw theirs here without a trace.
        generator, loader.generator = loader.generator, torch.Generator()
        try:
            return iter(loader)
        finally:
            loader.generator = generator

    def _rest_by_index(self, step: int) -> Iterator[Any]:
        """Draws the epoch's indices again and reads only those of the later batches."""
        loader = self.loader
        base_seed = torch.zeros((), dtype=torch.int64)
        # As a DataLoader does: it draws its workers' seed before a lazy sampler draws, and with
        # workers makes a second iterator.
        order = iter(loader.batch_sampler)
        if not self._seeded:
            base_seed.random_(generator=loader.generator)
            order = iter(loader.batch_sampler) if loader.num_workers else order
        indices = list(order)[step:]
        self._seeded = self._seeds_once
        rest: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=indices,
            generator=torch.Generator().manual_seed(int(base_seed)),
            **{name: getattr(loader, name) for name in PASSED_ON},
        )
        return iter(rest)


def parts_of(loader: Any) -> list[Any]:
    """Returns a loader and the samplers in it; Accelerate nests them."""
    parts: list[Any] = []
    waiting = [loader]
    while waiting:
        part = waiting.pop(0)
        if part is not None and all(part is not known for known in parts):
            parts.append(part)
            waiting += [getattr(part, name, None) for name in ("batch_sampler", "sampler")]
    return parts


def _keeps_its_state(loader: Any) -> bool:
    if not hasattr(loader, "state_dict") or not hasattr(loader, "load_state_dict"):
        return False
    # Accelerate's loaders always have the methods, but a state only on request. That state looks
    # ahead and does not hold the order of a shuffled epoch.
    if hasattr(loader, "use_stateful_dataloader"):
        return False
    # For a dataset without a state, torchdata's loader also reads and drops, but counts the dropped
    # batches twice, so the second resume is wrong.
    dataset = getattr(loader, "dataset", None)
    return (
        not isinstance(dataset, IterableDataset)
        or hasattr(dataset, "state_dict")
        or not isgeneratorfunction(type(dataset).__iter__)
    )
