"""Writes any kind of set of shards: each process writes its own, without asking the others.

`write_shards` writes shards for every caller: this process, one of several ranks, or a task of an
engine such as `RayEngine`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from tqdm import tqdm

from cgn_augment.errors import ArgumentError, FileError
from cgn_augment.images.tar import Sample
from cgn_augment.ranks import find_rank
from cgn_augment.shards.layout import SetKind
from cgn_augment.shards.manifest import (
    Manifest,
    close_set,
    find_complete,
    open_set,
    write_record,
)
from cgn_augment.shards.records import ClassCounts, Record
from cgn_augment.shards.store import HashingFile, Store


class Tally(Protocol):
    """Counts the samples of a shard while it is written."""

    @property
    def first(self) -> int | None:
        """Index of the first image of the shard, if known."""

    @property
    def class_counts(self) -> ClassCounts:
        """For each factor, or verdict, the number of images of each class."""

    def add(self, sample: Sample, places: dict[str, tuple[int, int]]) -> None:
        """Counts a sample that has just been written.

        Args:
            sample: the sample, including parts that were not written, whose names begin with `_`.
            places: offset and length in the shard of each of its files, by suffix.
        """

    def save(self, store: Store) -> None:
        """Writes what is kept beside the shard's record."""


class Contents(Protocol):
    """The content of a set of shards: a function of its settings alone, whoever writes it."""

    @property
    def kind(self) -> SetKind:
        """Kind of set."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the bytes, as plain values."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that determine the bytes."""

    @property
    def num_shards(self) -> int:
        """Number of shards in the set."""

    def count(self, shards: Sequence[int]) -> int | None:
        """Returns the number of samples in these shards, or None if unknown."""

    def make(self, shards: Sequence[int]) -> Generator[tuple[int, list[Sample]], None, None]:
        """Yields the samples of each of these shards, in order, with the shard's number."""

    @property
    def local_files(self) -> Sequence[str]:
        """Some files of this machine that it is made of: whoever writes a shard must see them."""

    def tally(self, shard: int) -> Tally:
        """Returns a counter for the samples of a shard."""

    def finish(self, store: Store, manifest: Manifest) -> None:
        """Writes the further files of a complete set."""


class Engine(Protocol):
    """Has shards written, by `write_shards`, wherever that runs.

    An engine may have `check(store)`, which raises if it cannot write there. It is called before
    the set is begun.
    """

    def __call__(
        self, store: Store, contents: Contents, shards: Sequence[int]
    ) -> Generator[int, None, None]:
        """Yields how many samples more are in the shards, as they are written."""


def write_shards(
    store: Store, contents: Contents, shards: Sequence[int]
) -> Generator[int, None, None]:
    """Writes shards, one after the other, each with its record; what is there is written over.

    Args:
        store: the place of the set.
        contents: what it holds.
        shards: their numbers.

    Yields:
        How many samples more have been written.
    """
    with closing(contents.make(shards)) as made:
        for shard, blocks in groupby(made, key=itemgetter(0)):
            yield from _write_shard(store, contents, shard, map(itemgetter(1), blocks))


def write_set(
    contents: Contents,
    out: str | os.PathLike[str],
    *,
    rank: int | None = None,
    world_size: int | None = None,
    resume: bool = False,
    progress: bool = False,
    engine: Engine = write_shards,
) -> Manifest | None:
    """Writes the shards of this rank, and the manifest if the set is then complete.

    Args:
        contents: content of the set.
        out: a folder, or a URL that fsspec knows.
        rank: which of `world_size` processes this is; by default from torch.distributed or
            torchrun's environment.
        world_size: number of processes.
        resume: continues a set with the same settings and keeps its complete shards.
        progress: shows a bar.
        engine: writes the shards; by default this process does.

    Returns:
        The manifest, or None if other ranks still have shards to write.

    Raises:
        ArgumentError: a value cannot be used.
        DataError: `out` holds another set, or one that was begun while `resume` is off.
        FileError: a file cannot be written. Only complete shards stay.
        UsageError: an engine cannot work.
    """
    rank, world_size = find_rank(rank, world_size)
    here = engine is write_shards
    if not here and world_size > 1:
        raise ArgumentError(
            f"an engine shares out all shards, and this is one of {world_size} ranks: start one "
            "process, without rank and world_size"
        )
    kind, own = contents.kind, range(rank, contents.num_shards, world_size)
    store = Store(out)
    if (check := getattr(engine, "check", None)) is not None:
        check(store)
    try:
        open_set(store, contents.settings, contents.versions, resume=resume, own=own)
        if resume:
            store.remove_leftovers()
        complete = find_complete(store, contents.settings, own)
        missing = [shard for shard in own if shard not in complete]
        left = contents.count(missing)
        alone = "writing" if world_size == 1 else f"rank {rank}"
        name = alone if here else "all workers"
        with (
            tqdm(total=left, unit="image", desc=name, disable=not progress) as bar,
            closing(engine(store, contents, missing)) as written,
        ):
            for num in written:
                bar.update(num)
        return close_set(store, kind, contents.finish)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"{store.url} cannot be written ({reason}): complete shards stay; when that is mended, "
            "the same command with --resume goes on"
        ) from error


def _write_shard(
    store: Store, contents: Contents, shard: int, blocks: Iterable[list[Sample]]
) -> Iterator[int]:
    """Writes the blocks of a shard, then its record; yields the number of samples of each block."""
    from webdataset import TarWriter  # slow to import

    # The same time, owner and mode for all: the bytes must not show when or by whom they were
    # written.
    same: dict[str, Any] = {"mtime": 0, "user": "cgn", "group": "cgn", "mode": 0o444}
    name, tally, num = contents.kind.shard_name(shard), contents.tally(shard), 0
    with store.writing(name) as file, TarWriter(file, encoder=False, **same) as tar:
        for samples in blocks:
            for sample in samples:
                start = tar.tarstream.offset
                tar.write({key: data for key, data in sample.items() if _is_file(key)})
                tally.add(sample, find_places(sample, start)[0])
            num += len(samples)
            yield len(samples)
    tally.save(store)
    write_record(store, _make_record(name, tally, num, file))


def _make_record(name: str, tally: Tally, num: int, file: HashingFile) -> Record:
    sha256 = file.digest.hexdigest()
    return Record(name, tally.first, num, file.num_bytes, sha256, tally.class_counts)


def _is_file(name: str) -> bool:
    return name == "__key__" or not name.startswith("_")


def find_places(sample: Sample, start: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Finds the files of a sample in its tar.

    Args:
        sample: the sample; its key is short, so each file has a header of one block.
        start: where it begins in the tar, in bytes.

    Returns:
        Offset and length of each file by suffix, and the start of the next sample.
    """
    block, places = 512, {}
    for name in sorted(name for name in sample if not name.startswith("_")):
        places[name] = (start + block, len(sample[name]))  # after a header of one block
        start += block + -(-len(sample[name]) // block) * block
    return places, start
