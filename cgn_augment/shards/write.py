"""Renders a set of shards: one process writes the shards of its rank, without asking the others.

A thread draws block after block, others encode what was drawn, and the calling thread writes the
files in order; a bounded number of blocks is under way, so memory does not grow with the set.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any

import torch
from tqdm import tqdm

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentTypeError, FileError
from cgn_augment.images.tar import Sample
from cgn_augment.ranks import find_rank
from cgn_augment.shards.config import (
    INFO,
    MANIFEST,
    SETTINGS,
    ShardConfig,
    record_name,
    shard_name,
)
from cgn_augment.shards.encode import draw_block, encode_block
from cgn_augment.shards.manifest import (
    Manifest,
    Record,
    close_set,
    find_complete,
    find_versions,
    open_set,
    write_record,
)
from cgn_augment.shards.store import Store
from cgn_augment.types import FACTORS, Mechanisms

Job = tuple[int, int]
"""A shard and a block of it."""


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
) -> Manifest | None:
    """Writes the shards of this rank, and the manifest if the set is complete then.

    Every rank may be run at any time, together with the others or alone. On a CPU the network runs
    on one thread, since the number of threads can change the last digits of its results: start one
    rank per core.

    Args:
        cgn: a frozen CGN.
        out: a folder, or a URL that fsspec knows.
        config: what the set holds.
        rank: which of `world_size` processes this is; from torch.distributed or torchrun's
            environment by default.
        world_size: how many processes there are.
        resume: goes on with a set of the same settings, leaving complete shards as they are.
        num_encoders: threads that encode images while the next are drawn.
        progress: whether to show a bar.

    Returns:
        The manifest, or None if other ranks have shards to write yet.

    Raises:
        ArgumentError: a value that cannot be used.
        ArgumentTypeError: `cgn` is not a frozen CGN.
        DataError: `out` holds another set, or one that was begun and `resume` is off.
        FileError: a file cannot be written. Complete shards stay, and nothing else does.

    Example:
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
    rank, world_size = find_rank(rank, world_size)
    for factor in FACTORS:
        config.interventions.choices(factor, cgn.num_classes)
    own = range(rank, config.num_shards, world_size)
    store = Store(out)
    try:
        versions = find_versions(str(cgn.device.type))
        open_set(store, config.describe(cgn), versions, resume=resume, own=own)
        if resume:
            names = [name(shard) for shard in own for name in (shard_name, record_name)]
            common = [SETTINGS, INFO, MANIFEST] if rank == 0 else []
            store.remove_leftovers([*names, *common])
        complete = find_complete(store, own)
        missing = [shard for shard in own if shard not in complete]
        num_left = sum(len(config.samples_of(shard)) for shard in missing)
        with tqdm(total=num_left, unit="image", desc=f"rank {rank}", disable=not progress) as bar:
            jobs = ((shard, block) for shard in missing for block in config.blocks_of(shard))
            with closing(encode_ahead(cgn, config, jobs, num_encoders)) as blocks:
                for shard in missing:
                    of_shard = islice(blocks, len(config.blocks_of(shard)))
                    _write_shard(store, config, cgn.num_classes, shard, of_shard, bar.update)
        return close_set(store)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"{store.url} cannot be written ({reason}): complete shards stay; when that is mended, "
            "the same command with --resume goes on"
        ) from error


def encode_ahead(
    cgn: Mechanisms,
    config: ShardConfig,
    jobs: Iterator[Job],
    num_encoders: int,
    executor: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Generator[list[Sample], None, None]:
    """Yields the encoded samples of each job, in order, and works ahead meanwhile.

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


def _write_shard(
    store: Store,
    config: ShardConfig,
    num_classes: int,
    shard: int,
    blocks: Iterator[list[Sample]],
    advance: Callable[[int], object],
) -> None:
    """Writes the blocks of a shard, and then its record."""
    from webdataset import TarWriter  # imports much

    counts = {factor: [0] * num_classes for factor in FACTORS}
    # One time, owner and mode for all: the bytes must not tell when and by whom they were written.
    same: dict[str, Any] = {"mtime": 0, "user": "cgn", "group": "cgn", "mode": 0o444}
    name, indices = shard_name(shard), config.samples_of(shard)
    with store.writing(name) as file, TarWriter(file, encoder=False, **same) as tar:
        for samples in blocks:
            for sample in samples:
                for factor, y in sample.pop("__classes__").items():
                    counts[factor][y] += 1
                tar.write(sample)
            advance(len(samples))
    record = Record(name, indices[0], len(indices), file.num_bytes, file.digest.hexdigest(), counts)
    write_record(store, record)
