"""Checks any kind of set of shards: names, counts, checksums, records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cgn_augment.errors import DataError, FileError
from cgn_augment.images.tar import Sample, read_samples
from cgn_augment.shards.layout import INFO, MANIFEST, SetKind
from cgn_augment.shards.manifest import (
    Manifest,
    make_info,
    read_begun,
    read_manifest,
    to_json,
)
from cgn_augment.shards.records import Record
from cgn_augment.shards.store import Store

CheckSamples = Callable[[Iterator[Sample], Manifest, int, Record], str | None]
"""Called with the samples of a shard, the set, the shard's number and its record; returns the first
problem with them, or None."""


@dataclass(frozen=True)
class Problem:
    """A problem with a set.

    Attributes:
        name: name of the file.
        what: what is wrong with it.
        shard: the shard to write again; None if that would not help.
    """

    name: str
    what: str
    shard: int | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def verify_set(
    url: str | os.PathLike[str],
    kind: SetKind,
    check_samples: CheckSamples,
    advance: Callable[[int], object] = lambda num: None,
) -> list[Problem]:
    """Returns all problems with the files of a set; an empty list if there are none.

    Args:
        url: the folder or URL of the set.
        kind: kind of set.
        check_samples: checks the content of a shard.
        advance: called with 1 after each shard.

    Raises:
        DataError: there is no set of this kind at all.
    """
    store = Store(url)
    begun = read_begun(store, kind)
    names = (kind.shard_name(shard) for shard in range(begun.num_shards))
    sizes = store.sizes([MANIFEST, INFO, *names])
    problems = [*_check_names(store, begun, sizes)]
    records = {kind.shard_number(record.name): record for record in begun.shards}
    if MANIFEST not in sizes:
        problems.append(Problem(MANIFEST, "is missing: not every shard was written yet"))
    else:
        try:
            manifest = read_manifest(store, kind)
        except DataError as error:
            problems.append(Problem(MANIFEST, str(error)))
        else:
            problems += _check_manifest(store, manifest, begun, sizes)
            records = dict(enumerate(manifest.shards))
    for shard in range(begun.num_shards):
        name = kind.shard_name(shard)
        size = sizes.get(name)
        if size is not None and shard in records:
            problems += _check_shard(store, begun, shard, size, records[shard], check_samples)
        elif size is not None:
            record = kind.record_name(shard)
            what = f"has no {record} of its size, so it is not known to be complete"
            problems.append(Problem(name, what, shard))
        advance(1)
    return problems


def advice(problems: list[Problem], kind: SetKind) -> str:
    """Returns advice on the problems of a set, in one or two sentences."""
    shards = sorted({problem.shard for problem in problems if problem.shard is not None})
    if not shards:
        return "no shard needs writing: the command that wrote the set repairs it with --resume"
    names = " ".join(kind.shard_name(shard) for shard in shards)
    return (
        f"to write again: {len(shards)} of the shards ({_ranges(shards)}). Delete what is left of "
        f"them ({names}) and run the command that wrote the set with --resume"
    )


def _ranges(numbers: list[int]) -> str:
    """Returns numbers as text with ranges: 0-2, 7."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)


def _check_names(store: Store, begun: Manifest, sizes: dict[str, int]) -> Iterator[Problem]:
    expected = {begun.kind.shard_name(shard): shard for shard in range(begun.num_shards)}
    for name, shard in expected.items():
        if name not in sizes:
            yield Problem(name, "is missing", shard)
    for name in sorted(sizes):
        if name.endswith(".tar") and name not in expected:
            yield Problem(name, "is no shard of this set: delete it, or a reader may take it in")
    for name in store.leftovers():
        yield Problem(name, "was left by a process that was killed: --resume removes it")


def _check_manifest(
    store: Store, manifest: Manifest, begun: Manifest, sizes: dict[str, int]
) -> Iterator[Problem]:
    if manifest.settings != begun.settings:
        yield Problem(MANIFEST, "has other settings than the set")
    if INFO not in sizes or store.read(INFO) != to_json(make_info(manifest)):
        yield Problem(INFO, "is missing or does not list what the manifest lists")


def _check_shard(
    store: Store,
    begun: Manifest,
    shard: int,
    size: int,
    record: Record,
    check_samples: CheckSamples,
) -> Iterator[Problem]:
    name = begun.kind.shard_name(shard)
    with store.open(name) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if (size, digest) != (record.num_bytes, record.sha256):
        yield Problem(name, f"has {size} bytes that are not the {record.num_bytes} written", shard)
    try:
        with store.open(name) as file:
            what = check_samples(read_samples(file, name), begun, shard, record)
    except FileError:  # a server failed; the shard is not damaged
        raise
    except Exception as error:  # damaged bytes make the readers raise anything
        what = f"cannot be read to its end ({type(error).__name__}: {error})"
    if what is not None:
        yield Problem(name, what, shard)
