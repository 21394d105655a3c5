"""Checks a set of parts: its files, its pictures and its index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from cgn_augment.images.reading import open_image
from cgn_augment.images.tar import Sample
from cgn_augment.parts.index import INDEX, MEMBERS, SMALL
from cgn_augment.shards.checking import Problem, verify_set
from cgn_augment.shards.layout import MANIFEST, PARTS
from cgn_augment.shards.manifest import Manifest, read_begun
from cgn_augment.shards.records import Record
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import find_places


def verify_parts(
    url: str | os.PathLike[str], advance: Callable[[int], object] = lambda num: None
) -> list[Problem]:
    """Returns all problems of a set of parts; an empty list if there are none.

    Reads and hashes every file, and decodes every picture and compares it with its entry in the
    index.

    Args:
        url: the folder or URL of the set.
        advance: called with 1 after each shard.

    Raises:
        DataError: there is no set of parts at all.
    """
    store = Store(url)

    def check(samples: Iterator[Sample], begun: Manifest, shard: int, record: Record) -> str | None:
        lines = _lines_of(store, shard)
        return "has no index" if lines is None else _check_samples(samples, lines, shard, record)

    problems = verify_set(url, PARTS, check, advance)
    names = store.sizes([MANIFEST, INDEX])
    if MANIFEST in names:
        num_shards = read_begun(store, PARTS).num_shards
        if INDEX not in names or not _lists(store, num_shards):
            problems.append(Problem(INDEX, "is missing or does not list what the shards hold"))
    return problems


def _lists(store: Store, num_shards: int) -> bool:
    """Returns whether the index is the lines of all shards; both may be larger than memory."""
    with store.open(INDEX) as index:
        for shard in range(num_shards):
            lines = b"".join(_lines_of(store, shard) or [])
            if index.read(len(lines)) != lines:
                return False
        return index.read(1) == b""


def _lines_of(store: Store, shard: int) -> list[bytes] | None:
    try:
        return store.read(PARTS.record_name(shard, "jsonl")).splitlines(keepends=True)
    except FileNotFoundError:
        return None


def _check_samples(
    samples: Iterator[Sample], lines: list[bytes], shard: int, record: Record
) -> str | None:
    """Returns the first problem with the samples of a shard, or None."""
    num, start = 0, 0
    for num, sample in enumerate(samples, start=1):
        if num > len(lines):
            return f"has more than the {len(lines)} samples of its index"
        try:
            facts = json.loads(lines[num - 1])
            what = _check_sample(sample, facts, shard, start)
        except (ValueError, KeyError, TypeError) as error:
            return f"sample {sample['__key__']} has facts that cannot be read ({error})"
        if what is not None:
            return f"sample {sample['__key__']} {what}"
        start = find_places(sample, start)[1]
    if not num == record.num_samples == len(lines):
        return f"has {num} samples where {record.num_samples} belong"
    return None


def _check_sample(sample: Sample, facts: dict[str, Any], shard: int, start: int) -> str | None:
    places = {name: list(place) for name, place in find_places(sample, start)[0].items()}
    listed = {MEMBERS[member]: place for member, place in facts["places"].items()}
    if {name: place for name, place in places.items() if name != "json"} != listed:
        return "has other files than its index, or in other places"
    told = {name: value for name, value in facts.items() if name not in ("places", "shard")}
    if facts["shard"] != shard or json.loads(sample["json"]) != told:
        return "says other things than its index"
    sizes = {"object": facts["box"][2:], "background": facts["size"], "foreground": facts["size"]}
    for member in facts["places"]:
        name = MEMBERS[member]
        try:
            with open_image(sample[name]) as picture:
                size = [picture.height, picture.width]
                if size != sizes.get(member, size):
                    return f"has a {name} of {size} pixels where {sizes[member]} belong"
                if member not in sizes and max(size) > SMALL:
                    return f"has a {name} of {size} pixels where at most {SMALL} a side belong"
                picture.load()
        except Exception as error:  # damaged bytes make Pillow raise anything
            return f"has a {name} that cannot be decoded ({type(error).__name__}: {error})"
    return None
