"""Reads the user's real data: a dataset, a loader or an iterable of batches."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from cgn_augment.checks import MAX_AHEAD, MAX_WORKERS, require_counts
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import Purpose, step_seed
from cgn_augment.ranks import Ranks
from cgn_augment.stream.collating import collate
from cgn_augment.stream.epochs import (
    EpochDataset,
    EpochIterableDataset,
    RankedSampler,
    TrackedBatches,
)
from cgn_augment.stream.loaders import PASSED_ON, RealData, State, parts_of

logger = logging.getLogger(__name__)

KNOWS_RANKS = ("num_replicas", "rank", "world_size", "num_processes", "ranks")
"""Attributes of samplers that read one rank's part: torch's, timm's, Accelerate's and ours."""

_ORDERS = ("sampler", "batch_sampler", "generator")


@dataclass(frozen=True)
class ReadConfig:
    """How to read a dataset: keywords of `CounterfactualDataset`, most of them a `DataLoader`'s.

    Keywords with a default apply to a dataset only.

    Raises:
        ArgumentError: a number is too small, or keywords exclude each other.
        ArgumentTypeError: a keyword has the wrong type.

    Examples:
        >>> from cgn_augment.ranks import Ranks
        >>> from cgn_augment.stream.reading import ReadConfig
        >>> ReadConfig(seed=0, ranks=Ranks(), batch_size=4, shuffle=False).given()
        ['batch_size', 'shuffle']
    """

    seed: int
    ranks: Ranks
    batch_size: int | None = None
    shuffle: bool | None = None
    sampler: Iterable[Any] | None = None
    batch_sampler: Iterable[Any] | None = None
    num_workers: int | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    pin_memory: bool | None = None
    drop_last: bool | None = None
    timeout: float | None = None
    worker_init_fn: Callable[[int], None] | None = None
    multiprocessing_context: Any = None
    generator: torch.Generator | None = None
    prefetch_factor: int | None = None
    persistent_workers: bool | None = None
    seed_items: bool = False
    shard_iterable: bool | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            require_counts(self, "batch_size")
        if self.num_workers is not None:
            require_counts(self, "num_workers", least=0, most=MAX_WORKERS)
        if self.prefetch_factor is not None:
            require_counts(self, "prefetch_factor", most=MAX_AHEAD)
        require_counts(self, "seed", least=0)
        for name in ("sampler", "batch_sampler"):
            if getattr(self, name) is not None:
                _require_repeatable(name, getattr(self, name), "a sampler or a list")
        if not isinstance(self.generator, torch.Generator | None):
            raise ArgumentTypeError(f"generator must be a torch.Generator, got {self.generator!r}")
        if self.timeout and not self.num_workers:
            raise ArgumentError("timeout is for workers: pass num_workers, or leave timeout out")

    def given(self) -> list[str]:
        """Returns the names of the keywords that the user gave."""
        optional = [field for field in fields(self) if field.default is not MISSING]
        return [field.name for field in optional if getattr(self, field.name) is not field.default]

    def make_loader(self, dataset: Any, **options: Any) -> DataLoader[Any]:
        """Returns a loader with these options.

        Raises:
            ArgumentError: `DataLoader` refuses the keywords.
        """
        try:
            return DataLoader(dataset, **{"generator": self.generator, **options})
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"no DataLoader can be made of these keywords: {error}") from error

    def passed_on(self) -> dict[str, Any]:
        """Returns the keywords that the inner loader gets; they do not affect the order."""
        names = {*PASSED_ON, "persistent_workers"}.intersection(self.given())
        return {"collate_fn": collate} | {name: getattr(self, name) for name in names}


class MapStyleData(RealData):
    """A map-style dataset in the order of the user's sampler, batch sampler or generator.

    A `DataLoader` made here reads it, as a plain one with the same keywords would.
    """

    def __init__(self, dataset: Any, config: ReadConfig) -> None:
        unordered = config.sampler is None and config.batch_sampler is None
        batches: Any = config.make_loader(
            dataset,
            batch_size=config.batch_size or 1,
            shuffle=unordered if config.shuffle is None else config.shuffle,
            sampler=config.sampler,
            batch_sampler=config.batch_sampler,
            drop_last=bool(config.drop_last),
        ).batch_sampler
        read = dataset
        if config.seed_items or hasattr(dataset, "set_epoch"):
            read = EpochDataset(dataset, config.seed if config.seed_items else None)
        self.tracked, self.config = TrackedBatches(batches), config
        super().__init__(config.make_loader(read, batch_sampler=self.tracked, **config.passed_on()))
        self.dataset, self.batch_sampler = dataset, batches
        self.batch_size = getattr(batches, "batch_size", None)

    def bind(self, rank: int, world_size: int) -> None:
        orders = [name for name in _ORDERS if name in self.config.given()]
        if world_size > 1 and orders:
            parts = parts_of(getattr(self.config, orders[0]))
            if not any(hasattr(part, name) for part in parts for name in KNOWS_RANKS):
                raise ArgumentError(
                    f"{orders[0]}: each of the {world_size} ranks would read all that it draws: "
                    "pass sampler=DistributedSampler(dataset), or leave it out, and each rank "
                    "reads its part"
                )
        self.require_batch(self.num_steps(), world_size)

    def require_batch(self, num_steps: int | None, world_size: int) -> None:
        """Raises `ArgumentError` if an epoch would be empty."""
        if num_steps == 0:
            on = f" on {world_size} ranks" if world_size > 1 else ""
            raise ArgumentError(
                f"an epoch of {len(self.dataset)} images{on} has no batch: lower batch_size, leave "
                "drop_last out, or give a sampler that draws more"
            )

    def items(self, step: int) -> Iterator[list[int]]:
        self.tracked.drawn = drawn = deque[list[int]]()
        return islice(iter(drawn.popleft, None), step, None)

    def key(self) -> str:
        order = f"{type(self.batch_sampler).__name__} of {type(self.sampler).__name__}"
        return (
            f"{len(self.dataset)} images, {self.num_steps()} batches of {self.batch_size} from "
            f"{order}, seed_items={self.config.seed_items}"
        )


class SeededData(MapStyleData):
    """A map-style dataset in an order that is a function of seed and epoch.

    The order is that of torch's `DistributedSampler` with this seed, so a plain loader with such a
    sampler gives the same batches. It has its own generators; the global ones stay untouched.
    """

    def __init__(self, dataset: Any, config: ReadConfig) -> None:
        sampler = RankedSampler(
            dataset,
            config.ranks,
            shuffle=config.shuffle is not False,
            seed=config.seed,
            drop_last=bool(config.drop_last),
        )
        super().__init__(dataset, replace(config, sampler=sampler, shuffle=None))

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        self._set_epoch(epoch)
        self.tracked.skip = step
        with _seeded(self.loader, self.config, epoch):
            return iter(self.loader)

    def state(self, started: bool) -> State:
        return {}

    def key(self) -> str:
        return (
            f"{len(self.dataset)} images, batches of {self.batch_size}, "
            f"drop_last={self.batch_sampler.drop_last}, shuffle={self.sampler.shuffle}, "
            f"seed_items={self.config.seed_items}"
        )


class IterableData(RealData):
    """An iterable dataset; if sharded, each rank reads every `world_size`-th sample."""

    def __init__(self, dataset: IterableDataset[Any], config: ReadConfig) -> None:
        self.config, self._parted = config, EpochIterableDataset(dataset)
        options = {"batch_size": config.batch_size, "drop_last": bool(config.drop_last)}
        super().__init__(config.make_loader(self._parted, **options, **config.passed_on()))
        self.dataset = dataset

    def bind(self, rank: int, world_size: int) -> None:
        if world_size > 1 and self.config.shard_iterable is None:
            raise ArgumentError(
                f"an iterable dataset on {world_size} ranks: pass shard_iterable=True to give each "
                "rank every world_size-th sample, or False if the dataset already keeps to its rank"
            )
        shared = bool(self.config.shard_iterable)
        self._parted.rank, self._parted.world_size = (rank, world_size) if shared else (0, 1)

    def start(self, epoch: int, step: int, state: State | None) -> Iterator[Any]:
        if self.config.generator is not None:
            return super().start(epoch, step, state)
        with _seeded(self.loader, self.config, epoch):
            return super().start(epoch, step, state)

    def _generators(self) -> list[torch.Generator]:
        return [] if self.config.generator is None else super()._generators()


class Batches(RealData):
    """The user's loader, or any iterable of ready batches."""

    def bind(self, rank: int, world_size: int) -> None:
        plain = type(self.sampler) in (RandomSampler, SequentialSampler)
        if world_size > 1 and type(self.loader) is DataLoader and plain:
            logger.warning(
                "each of the %d ranks reads all of this loader: give it a DistributedSampler, or "
                "pass its dataset, of which each rank then reads its part",
                world_size,
            )


@contextmanager
def _seeded(loader: Any, config: ReadConfig, epoch: int) -> Iterator[None]:
    """Lets a loader draw its workers' seeds from (seed, epoch, rank).

    Removes the generator afterwards: with one, the stream could not be sent to a spawned process.
    """
    seed = step_seed(Purpose.LOADER, config.seed, epoch, config.ranks.find()[0])
    loader.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        loader.generator = None


def wrap_real(real: Any, config: ReadConfig) -> RealData:
    """Returns a reader for the user's real data, whatever its kind.

    Raises:
        ArgumentError: a keyword does not apply to this kind of data, or a dataset is empty or comes
            without `batch_size`.
        ArgumentTypeError: it is not a dataset, a loader or an iterable.
    """
    if isinstance(real, str | os.PathLike):
        raise ArgumentTypeError(
            f"real is a path, {os.fspath(real)!r}: pass a dataset, such as torchvision's "
            "ImageFolder(path, transform)"
        )
    if isinstance(real, DataLoader) or (config.batch_size is None and config.batch_sampler is None):
        return _wrap_batches(real, config)
    if isinstance(real, IterableDataset):
        return _wrap_iterable(real, config)
    if isinstance(real, Mapping):
        raise ArgumentTypeError(
            f"real is a {type(real).__name__} of {list(real)}: pass one of these, such as "
            f"real[{next(iter(real), None)!r}]"
        )
    if not hasattr(real, "__getitem__") or not hasattr(real, "__len__"):
        raise ArgumentTypeError(
            f"real must be a dataset, a DataLoader or an iterable of batches, got "
            f"{type(real).__name__}; batch_size is for datasets alone"
        )
    return _wrap_map_style(real, config)


def _wrap_map_style(real: Any, config: ReadConfig) -> MapStyleData:
    if len(real) < 1:
        raise ArgumentError("the real dataset is empty")
    _refuse(config, ["shard_iterable"], "an iterable dataset", "ranks share out a map-style one")
    if any(name in config.given() for name in _ORDERS):
        data = MapStyleData(real, config)
        data.require_batch(data.num_steps(), 1)
        return data
    seeded = SeededData(real, config)
    rounds = math.floor if config.drop_last else math.ceil
    seeded.require_batch(rounds(len(real) / (config.batch_size or 1)), 1)
    return seeded


def _wrap_iterable(real: IterableDataset[Any], config: ReadConfig) -> RealData:
    _refuse(
        config,
        ["shuffle", "sampler", "batch_sampler", "seed_items"],
        "a map-style dataset",
        "this iterable one gives its own order",
    )
    return IterableData(real, config)


def _wrap_batches(real: Any, config: ReadConfig) -> RealData:
    if isinstance(real, Dataset) and not isinstance(real, IterableDataset):
        raise ArgumentError(
            f"real is a dataset ({type(real).__name__}) and has no batches yet: pass batch_size"
        )
    _require_repeatable("real", real, "a dataset, a DataLoader or an iterable of batches")
    _refuse(
        config,
        config.given(),
        "a dataset",
        f"this {type(real).__name__} makes its own batches; set it there, or pass its dataset",
    )
    data = Batches(real)
    if getattr(real, "persistent_workers", False) and hasattr(data.dataset, "set_epoch"):
        logger.warning(
            "the loader has persistent workers, whose copies of the dataset may not see set_epoch: "
            "pass the dataset itself with num_workers, or use persistent_workers=False"
        )
    return data


def _refuse(config: ReadConfig, names: list[str], kind: str, why: str) -> None:
    """Raises `ArgumentError` if keywords were given that belong to another kind of data."""
    given = [name for name in config.given() if name in names]
    if given:
        raise ArgumentError(f"{' and '.join(given)}: for {kind} alone, and {why}")


def _require_repeatable(name: str, value: object, expected: str) -> None:
    """Raises `ArgumentTypeError` unless a value can be iterated anew each epoch."""
    if hasattr(value, "__next__"):
        raise ArgumentTypeError(
            f"{name} is an iterator ({type(value).__name__}), which can be read once only: pass "
            "something that can be iterated again each epoch"
        )
    if not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{name} must be {expected}, got {type(value).__name__}")
