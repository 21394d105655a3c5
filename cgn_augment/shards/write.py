"""Renders counterfactuals of a CGN into a set of shards.

One thread draws blocks, others encode them, and the calling thread writes the files in order. The
number of blocks in progress is bounded, so memory does not grow with the set.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentTypeError
from cgn_augment.generators.drawing import known_classes
from cgn_augment.images.tar import Sample
from cgn_augment.shards.config import ShardConfig
from cgn_augment.shards.encode import draw_block, encode_block
from cgn_augment.shards.layout import COUNTERFACTUALS
from cgn_augment.shards.manifest import Manifest, find_versions
from cgn_augment.shards.records import ClassCounts
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import Engine, write_set, write_shards
from cgn_augment.types import FACTORS, Mechanisms

Job = tuple[int, int]
"""A shard and one of its blocks."""


def render_shards(
    cgn: Mechanisms,
    out: str | os.PathLike[str],
    config: ShardConfig,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    resume: bool = False,
    num_encoders: int = 1,
    progress: bool = False,
    engine: Engine = write_shards,
    device: str | None = None,
) -> Manifest | None:
    """Writes the shards of this rank, and the manifest if the set is then complete.

    Ranks may run at any time, together or alone. On a CPU the network runs on one thread, since the
    number of threads can change the last digits of its results: start one rank per core.

    Args:
        cgn: a frozen CGN.
        out: a folder, or a URL that fsspec knows.
        config: settings of the set.
        rank: which of `world_size` processes this is; by default from torch.distributed or
            torchrun's environment.
        world_size: number of processes.
        resume: continues a set with the same settings and keeps its complete shards.
        num_encoders: threads that encode images while the next are drawn.
        progress: shows a bar.
        engine: writes the shards, such as `RayEngine`; by default this process does.
        device: where an engine's tasks draw, such as "cuda", which need not be here. By default
            the device of `cgn`.

    Returns:
        The manifest, or None if other ranks still have shards to write.

    Raises:
        ArgumentError: a value cannot be used.
        ArgumentTypeError: `cgn` is not a frozen CGN, or cannot be moved to `device`.
        DataError: `out` holds another set, or one that was begun while `resume` is off.
        FileError: a file cannot be written. Only complete shards stay.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.shards import ShardConfig, render_shards
        >>> folder = getfixture("tmp_path") / "shards"
        >>> config = ShardConfig(num=20, format="jpg", shard_size=10)
        >>> manifest = render_shards(SmallCGN().freeze(), folder, config)
        >>> sorted(path.name for path in folder.glob("*.tar"))
        ['counterfactuals-000000.tar', 'counterfactuals-000001.tar']
    """
    if not isinstance(cgn, Mechanisms) or getattr(cgn, "frozen", True) is False:
        raise ArgumentTypeError(
            f"shards are rendered by a frozen CGN, such as load_cgn returns, got {type(cgn)}"
        )
    require_count("num_encoders", num_encoders)
    for factor in FACTORS:
        config.interventions.choices(factor, known_classes(cgn))
    if hasattr(cgn, "check"):
        cgn.check(config.interventions)
    target = cgn.device if device is None else torch.device(device)
    if target != cgn.device and not hasattr(cgn, "to"):
        raise ArgumentTypeError(f"{type(cgn)} has no method `to`: it stays on {cgn.device}")
    return write_set(
        _Rendered(cgn, config, num_encoders, target),
        out,
        rank=rank,
        world_size=world_size,
        resume=resume,
        progress=progress,
        engine=engine,
    )


@dataclass(frozen=True)
class _Rendered:
    """Counterfactuals of a CGN, as the content of a set."""

    cgn: Mechanisms
    config: ShardConfig
    num_encoders: int
    device: torch.device
    kind = COUNTERFACTUALS

    @property
    def settings(self) -> dict[str, Any]:
        return self.config.describe(self.cgn)

    @property
    def versions(self) -> dict[str, str]:
        return find_versions(self.device.type)

    @property
    def num_shards(self) -> int:
        return self.config.num_shards

    @property
    def local_files(self) -> Sequence[str]:
        return ()

    @cached_property
    def _placed(self) -> Mechanisms:
        cgn: Any = self.cgn
        placed: Mechanisms = cgn if cgn.device == self.device else cgn.to(self.device)
        return placed

    def count(self, shards: Sequence[int]) -> int:
        return sum(len(self.config.samples_of(shard)) for shard in shards)

    def make(self, shards: Sequence[int]) -> Generator[tuple[int, list[Sample]], None, None]:
        jobs = [(shard, block) for shard in shards for block in self.config.blocks_of(shard)]
        drawn = encode_ahead(self._placed, self.config, iter(jobs), self.num_encoders)
        with closing(drawn) as blocks:
            for (shard, _), samples in zip(jobs, blocks, strict=True):
                yield shard, samples

    def tally(self, shard: int) -> _ClassTally:
        counts = {factor: [0] * self.cgn.num_classes for factor in FACTORS}
        return _ClassTally(self.config.samples_of(shard)[0], counts)

    def finish(self, store: Store, manifest: Manifest) -> None:
        """Does nothing: a set of counterfactuals has no further files."""


@dataclass(frozen=True)
class _ClassTally:
    """Counts the classes of the factors."""

    first: int
    class_counts: ClassCounts

    def add(self, sample: Sample, places: dict[str, tuple[int, int]]) -> None:
        for factor, y in sample["__classes__"].items():
            self.class_counts[factor][y] += 1

    def save(self, store: Store) -> None:
        """Does nothing: the record holds everything."""


def encode_ahead(
    cgn: Mechanisms,
    config: ShardConfig,
    jobs: Iterator[Job],
    num_encoders: int,
    executor: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Generator[list[Sample], None, None]:
    """Yields the encoded samples of each job, in order, and works ahead.

    `executor` makes the encoders; benchmarks/shards.py compares threads and processes.
    """
    under_way: deque[Future[Future[list[Sample]]]] = deque()
    before = torch.get_num_threads()
    one_thread = partial(torch.set_num_threads, 1)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        drawer = stack.enter_context(ThreadPoolExecutor(1, initializer=one_thread))
        encoders = stack.enter_context(executor(num_encoders))

        def draw(job: Job) -> Future[list[Sample]]:
            shard, number = job
            block = draw_block(cgn, config, number)
            return encoders.submit(encode_block, block, config, config.samples_of(shard))

        stack.callback(lambda: [drawn.cancel() for drawn in under_way])
        for job in jobs:
            under_way.append(drawer.submit(draw, job))
            if len(under_way) > 2 * num_encoders + 2:
                yield under_way.popleft().result().result()
        while under_way:
            yield under_way.popleft().result().result()
