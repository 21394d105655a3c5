"""The files of a set other than shards: settings, records of shards, index and manifest.

No file belongs to one process. The first process writes the settings, the writer of a shard its
record, and whoever sees that all records exist writes index and manifest. Each file is a function
of settings and records alone, so it does not matter who wrote it.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from typing import Any

from cgn_augment.errors import DataError
from cgn_augment.files import first_line, parse_json
from cgn_augment.shards.config import ShardConfig, config_of
from cgn_augment.shards.layout import (
    COUNTERFACTUALS,
    INFO,
    MANIFEST,
    RECORDS,
    SETTINGS,
    SetKind,
    kind_of,
    num_shards_of,
)
from cgn_augment.shards.records import ClassCounts, Record, check_settings, read_record
from cgn_augment.shards.store import Store

logger = logging.getLogger(__name__)

FORMAT = "cgn_augment_shards/1"


@dataclass(frozen=True)
class Manifest:
    """Everything known about a set.

    Attributes:
        settings: everything that determines the bytes, as from `ShardConfig.describe`.
        versions: versions of the libraries that the set was begun with, and the device.
        shards: a record of each complete shard.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    shards: tuple[Record, ...]

    @property
    def kind(self) -> SetKind:
        """What is in the shards."""
        return kind_of(self.settings)

    @property
    def num_shards(self) -> int:
        """Number of shards of the complete set."""
        return num_shards_of(self.settings)

    @cached_property
    def config(self) -> ShardConfig:
        """The settings of counterfactuals as given, without the class map."""
        return config_of(self.settings)

    @property
    def class_counts(self) -> ClassCounts:
        """For each factor, or verdict, the number of images of each class, over all shards."""
        total: ClassCounts = {}
        for record in self.shards:
            for name, counts in record.class_counts.items():
                so_far = total.get(name, [0] * len(counts))
                total[name] = [a + b for a, b in zip(so_far, counts, strict=True)]
        return total

    @property
    def num_samples(self) -> int:
        """Number of images in all shards."""
        return sum(record.num_samples for record in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of all shards, in bytes."""
        return sum(record.num_bytes for record in self.shards)


def find_versions(device: str) -> dict[str, str]:
    """Returns the versions that determine the bytes, and the kind of device."""
    names = ("cgn-augment", "torch", "numpy", "pillow", "webdataset")
    return {
        **{name: version(name) for name in names},
        "python": platform.python_version(),
        "device": device,
    }


def to_json(value: object) -> bytes:
    """Returns readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=1) + "\n").encode()


def open_set(
    store: Store, settings: dict[str, Any], versions: dict[str, str], *, resume: bool, own: range
) -> None:
    """Writes the settings of a new set, or checks them against the existing ones.

    Args:
        store: the place of the set.
        settings: everything that determines the bytes.
        versions: versions of the libraries.
        resume: continues a set that was begun.
        own: the shards that this process writes.

    Raises:
        DataError: there is another set, or one that was begun while `resume` is off.
        OSError: the place cannot be written.
    """
    sizes = store.sizes()
    if SETTINGS not in sizes:
        if any(name.endswith(".tar") or name == MANIFEST for name in sizes):
            raise DataError(
                f"{store.url} holds tar files and no {SETTINGS}, so it is not a set that could be "
                "gone on with: choose another place"
            )
        store.write(SETTINGS, to_json({"settings": settings, "versions": versions}))
        return
    kind = kind_of(settings)
    there, begun_with = read_settings(store, kind)
    differing = [name for name in settings if settings[name] != there.get(name)]
    if differing:
        listed = "; ".join(
            f"{name}: {there.get(name)!r} there, {settings[name]!r} asked for" for name in differing
        )
        raise DataError(
            f"{store.url} holds another set ({listed}): repeat its settings with --resume, or "
            "choose another place"
        )
    names = {shard: (kind.shard_name(shard), kind.record_name(shard)) for shard in own}
    begun = [shard for shard in own if sizes.keys() & set(names[shard])]
    if begun and not resume:
        raise DataError(
            f"{store.url} already holds {len(begun)} of the {len(own)} shards that this process "
            "would write: pass --resume to complete the set, or choose another place"
        )
    other = {
        name: f"{begun_with.get(name)} then, {value} now"
        for name, value in versions.items()
        if begun_with.get(name) != value
    }
    if other:
        logger.warning("the set was begun with other versions, whose bytes may differ: %s", other)


def read_settings(store: Store, kind: SetKind) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the settings and versions that a set of this kind was begun with.

    Raises:
        DataError: they are missing, cannot be read, or belong to a set of another kind.
    """
    found = _read_json(store, SETTINGS, kind)
    return _require_settings(store, SETTINGS, found, kind)


def _require_settings(
    store: Store, name: str, found: Any, kind: SetKind
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the settings and versions in a file if they belong to a set of this kind."""
    if not isinstance(found, dict) or not isinstance(found.get("versions"), dict):
        raise DataError(f"{store.path(name)} does not hold the settings of a set: it is damaged")
    there = check_settings(found.get("settings"), store.path(name))
    if there != kind:
        raise DataError(
            f"{store.url} is a set of {there.name}, which '{there.command}' wrote, and {kind.name} "
            "are wanted here"
        )
    return found["settings"], found["versions"]


def write_record(store: Store, record: Record) -> None:
    """Records that a shard is complete."""
    name = record.name.removesuffix(".tar")
    store.write(f"{RECORDS}/{name}.json", to_json(asdict(record)))


def find_complete(store: Store, settings: dict[str, Any], shards: range) -> dict[int, Record]:
    """Returns the records of the complete shards among `shards`.

    A shard is complete if it has a record and the size given there.

    Raises:
        DataError: a record is damaged.
    """
    kind = kind_of(settings)
    names = {shard: (kind.shard_name(shard), kind.record_name(shard)) for shard in shards}
    sizes, complete = store.sizes(chain.from_iterable(names.values())), {}
    for shard, (name, record_name) in names.items():
        if record_name in sizes and name in sizes:
            record = _read_record(store, settings, shard)
            if record.num_bytes == sizes[name]:
                complete[shard] = record
    return complete


def look_up(store: Store, settings: dict[str, Any], shard: int) -> Record | None:
    """Returns the record of a shard if the shard is complete by now, and lists no folder for it.

    Raises:
        DataError: the record is damaged.
    """
    kind = kind_of(settings)
    try:
        size = store.size(kind.shard_name(shard))
        store.size(kind.record_name(shard))
    except FileNotFoundError:
        return None
    record = _read_record(store, settings, shard)
    return record if record.num_bytes == size else None


def _read_record(store: Store, settings: dict[str, Any], shard: int) -> Record:
    kind = kind_of(settings)
    name = kind.record_name(shard)
    return read_record(_read_json(store, name, kind), settings, shard, store.path(name))


def read_begun(store: Store, kind: SetKind = COUNTERFACTUALS) -> Manifest:
    """Returns what is known about a set that may be incomplete.

    Raises:
        DataError: there is no set of this kind.
    """
    settings, versions = read_settings(store, kind)
    complete = find_complete(store, settings, range(num_shards_of(settings)))
    return Manifest(settings, versions, tuple(complete.values()))


def close_set(
    store: Store, kind: SetKind, finish: Callable[[Store, Manifest], object]
) -> Manifest | None:
    """Writes index and manifest, the manifest last, if every shard is complete.

    Args:
        store: the place of the set.
        kind: kind of set.
        finish: writes the further files of a complete set of this kind.

    Returns:
        The manifest, or None if other processes still have shards to write.
    """
    manifest = read_begun(store, kind)
    if len(manifest.shards) < manifest.num_shards:
        return None
    finish(store, manifest)
    store.write(INFO, to_json(make_info(manifest)))
    facts = {
        "format": FORMAT,
        "settings": manifest.settings,
        "versions": manifest.versions,
        "class_counts": manifest.class_counts,
        "shards": [asdict(record) for record in manifest.shards],
    }
    store.write(MANIFEST, to_json(facts))
    return manifest


def read_manifest(store: Store, kind: SetKind = COUNTERFACTUALS) -> Manifest:
    """Returns the manifest of a complete set.

    Raises:
        DataError: it is missing, damaged, or belongs to a set of another kind or version.
    """
    found = _read_json(store, MANIFEST, kind)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{store.path(MANIFEST)} is not a manifest of the format {FORMAT!r}")
    settings, versions = _require_settings(store, MANIFEST, found, kind)
    listed, num_shards = found.get("shards"), num_shards_of(settings)
    if not isinstance(listed, list) or len(listed) != num_shards:
        num = len(listed) if isinstance(listed, list) else "no"
        raise DataError(f"{store.path(MANIFEST)} lists {num} shards where {num_shards} belong")
    where = store.path(MANIFEST)
    records = [read_record(each, settings, shard, where) for shard, each in enumerate(listed)]
    return Manifest(settings, versions, tuple(records))


def make_info(manifest: Manifest) -> dict[str, Any]:
    """Returns the index of the set in the form that timm's WebDataset reader expects."""
    split = {
        "name": "train",
        "num_samples": manifest.num_samples,
        "filenames": [record.name for record in manifest.shards],
        "shard_lengths": [record.num_samples for record in manifest.shards],
    }
    return {"splits": {"train": split}}


def _read_json(store: Store, name: str, kind: SetKind) -> Any:
    try:
        return parse_json(store.read(name))
    except FileNotFoundError as error:
        raise DataError(
            f"{store.url} has no {name}, so it is not a complete set of {kind.name}: give the "
            f"folder or URL that '{kind.command}' wrote to, or complete the set with --resume"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{store.path(name)} cannot be read ({first_line(error)}): it is damaged"
        ) from error
