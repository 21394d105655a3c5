"""Checks a set of shards: names, counts, checksums, images and labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cgn_augment.errors import DataError
from cgn_augment.images.tar import Sample, read_samples
from cgn_augment.shards.config import (
    INFO,
    MANIFEST,
    ShardConfig,
    record_name,
    sample_key,
    shard_name,
    shard_number,
)
from cgn_augment.shards.encode import IMAGE_FORMATS, decode_picture
from cgn_augment.shards.manifest import (
    Manifest,
    Record,
    make_info,
    read_begun,
    read_manifest,
    to_json,
)
from cgn_augment.shards.sampling import numbered_classes
from cgn_augment.shards.store import Store
from cgn_augment.types import FACTORS


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a set.

    Attributes:
        name: of the file.
        what: what is wrong with it.
        shard: the shard to render again, or None where rendering mends nothing.
    """

    name: str
    what: str
    shard: int | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def verify_shards(
    url: str | os.PathLike[str], advance: Callable[[int], object] = lambda num: None
) -> list[Problem]:
    """Returns all that is wrong with a set of shards; an empty list if nothing is.

    Every file is read whole, hashed against the manifest, and every sample of it decoded.

    Args:
        url: the folder or URL of the set.
        advance: called with 1 when a shard was looked at.

    Raises:
        DataError: there is no set at all.

    Example:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.shards import ShardConfig, render_shards, verify_shards
        >>> folder = getfixture("tmp_path") / "shards"
        >>> manifest = render_shards(SmallCGN().freeze(), folder, ShardConfig(num=4))
        >>> verify_shards(folder)
        []
        >>> damaged = folder / "counterfactuals-000000.tar"
        >>> size = damaged.write_bytes(damaged.read_bytes()[:4000])
        >>> {problem.shard for problem in verify_shards(folder)}
        {0}
    """
    store = Store(url)
    begun, sizes = read_begun(store), store.sizes()
    problems = [*_check_names(store, begun.config, sizes)]
    records = {shard_number(record.name): record for record in begun.shards}
    if MANIFEST not in sizes:
        problems.append(Problem(MANIFEST, "is missing: not every shard was rendered yet"))
    else:
        try:
            manifest = read_manifest(store)
        except DataError as error:
            problems.append(Problem(MANIFEST, str(error)))
        else:
            problems += _check_manifest(store, manifest, begun, sizes)
            records = dict(enumerate(manifest.shards))
    for shard in range(begun.config.num_shards):
        size = sizes.get(shard_name(shard))
        if size is not None and shard in records:
            problems += _check_shard(store, begun, shard, size, records[shard])
        elif size is not None:
            what = f"has no {record_name(shard)} of its size, so it is not known to be complete"
            problems.append(Problem(shard_name(shard), what, shard))
        advance(1)
    return problems


def advice(problems: list[Problem]) -> str:
    """Returns what to do about the problems of a set, in one or two sentences."""
    shards = sorted({problem.shard for problem in problems if problem.shard is not None})
    if not shards:
        return "no shard needs rendering: the command that wrote the set mends it with --resume"
    names = " ".join(shard_name(shard) for shard in shards)
    return (
        f"to render again: {len(shards)} of the shards ({_ranges(shards)}). Delete what is left of "
        f"them ({names}) and run the command that wrote the set with --resume"
    )


def _ranges(numbers: list[int]) -> str:
    """Returns numbers as text, neighbours joined: 0-2, 7."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)


def _check_names(store: Store, config: ShardConfig, sizes: dict[str, int]) -> Iterator[Problem]:
    expected = {shard_name(shard): shard for shard in range(config.num_shards)}
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
    names = [record.name for record in manifest.shards]
    num_shards = begun.config.num_shards
    if manifest.settings != begun.settings:
        yield Problem(MANIFEST, "has other settings than the set")
    if names != [shard_name(shard) for shard in range(num_shards)]:
        yield Problem(MANIFEST, f"names {len(names)} shards where {num_shards} belong")
    if INFO not in sizes or store.read(INFO) != to_json(make_info(manifest)):
        yield Problem(INFO, "is missing or does not list what the manifest lists")


def _check_shard(
    store: Store, begun: Manifest, shard: int, size: int, record: Record
) -> Iterator[Problem]:
    name = shard_name(shard)
    with store.open(name) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if (size, digest) != (record.num_bytes, record.sha256):
        yield Problem(name, f"has {size} bytes that are not the {record.num_bytes} written", shard)
    try:
        with store.open(name) as file:
            what = _check_samples(read_samples(file, name), begun, shard, record)
    except Exception as error:  # a damaged tar raises whatever its bytes make the readers raise
        what = f"cannot be read to its end ({type(error).__name__}: {error})"
    if what is not None:
        yield Problem(name, what, shard)


def _check_samples(
    samples: Iterator[Sample], begun: Manifest, shard: int, record: Record
) -> str | None:
    """Returns the first thing that is wrong with the samples of a shard, or None."""
    counts = {factor: [0] * begun.settings["num_classes"] for factor in FACTORS}
    belonging, num = begun.config.samples_of(shard), 0
    for num, sample in enumerate(samples, start=1):
        if num > len(belonging):
            return f"has more than {len(belonging)} samples"
        what = _check_sample(sample, begun, belonging[num - 1])
        if what is not None:
            return f"sample {sample['__key__']} {what}"
        found = json.loads(sample["json"])
        for factor in FACTORS:
            counts[factor][found[factor]] += 1
    if not num == record.num_samples == len(belonging):
        return f"has {num} samples where {len(belonging)} belong"
    return None if counts == record.class_counts else "has other classes than its record counts"


def _check_sample(sample: Sample, begun: Manifest, index: int) -> str | None:
    config, settings = begun.config, begun.settings
    if sample["__key__"] != sample_key(index):
        return f"lies where {sample_key(index)} belongs"
    suffixes = tuple(sorted(name for name in sample if not name.startswith("__")))
    if suffixes != config.suffixes:
        return f"has the files {suffixes} where {config.suffixes} belong"
    try:
        found = json.loads(sample["json"])
        classes = {factor: int(found[factor]) for factor in FACTORS}
        label = int(sample["cls"])
    except (ValueError, KeyError, TypeError) as error:
        return f"has labels that cannot be read ({error})"
    if not all(0 <= y < settings["num_classes"] for y in classes.values()):
        return f"has the classes {classes} of {settings['num_classes']}"
    if settings["interventions"]["class_map"] == repr(None):  # settings cannot rebuild another
        rules, num = config.interventions, settings["num_classes"]
        drawn = numbered_classes(rules, num, [index], config.seed)[:, 0].tolist()
        if [*classes.values()] != drawn:
            return f"has the classes {[*classes.values()]} where {drawn} belong"
    if label != classes[config.label]:
        return f"has the label {label} where its {config.label} is {classes[config.label]}"
    if {name: found.get(name) for name in ("noise_seed", "index")} != config.place(index):
        return "has another index or noise seed than its place has"
    for suffix in suffixes:
        what = _check_picture(sample[suffix], suffix, settings["image_size"])
        if what is not None:
            return what
    return None


def _check_picture(data: bytes, suffix: str, size: int) -> str | None:
    member, _, kind = suffix.rpartition(".")
    if kind not in IMAGE_FORMATS:
        return None
    try:
        shape = decode_picture(data, kind).shape
    except Exception as error:  # Pillow and NumPy raise whatever the bytes make them raise
        return f"has a {suffix} that cannot be decoded ({type(error).__name__}: {error})"
    wanted: tuple[int, ...] = (size, size) if member == "mask" else (size, size, 3)
    if kind == "npy":
        wanted = (1 if member == "mask" else 3, size, size)
    return None if shape == wanted else f"has a {suffix} of the size {shape}, not {wanted}"
