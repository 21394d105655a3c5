"""Validates the JSON files of a set.

They may come from anywhere, so nothing is trusted: a foreign name could lead a reader to other
files, and a count to endless work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from cgn_augment.checks import MAX_CLASSES, MAX_SIDE, require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, DataError
from cgn_augment.files import first_line
from cgn_augment.shards.config import MAX_SHARDS, config_of
from cgn_augment.shards.layout import COUNTERFACTUALS, SetKind, kind_of, num_shards_of
from cgn_augment.types import FACTORS

ClassCounts = dict[str, list[int]]

USABLE = "usable"
"""The verdict on images whose masks are used."""


@dataclass(frozen=True)
class Record:
    """The content of a complete shard.

    Attributes:
        name: name of its file.
        first: index of its first image; None if the images before it are not counted.
        num_samples: number of images.
        num_bytes: size of the file.
        sha256: hash of the file, as hexadecimal digits.
        class_counts: for each factor, or verdict, the number of images of each class.
    """

    name: str
    first: int | None
    num_samples: int
    num_bytes: int
    sha256: str
    class_counts: ClassCounts


def check_settings(settings: Any, where: str) -> SetKind:
    """Returns the kind of set that these settings describe.

    Args:
        settings: as read from JSON.
        where: their place, for the error.

    Raises:
        DataError: no set can have these settings; the message says what is wrong.
    """
    with _saying(f"{where} does not hold the settings of a set"):
        kind = kind_of(settings)
        require_count("num_shards", num_shards_of(settings), 1, MAX_SHARDS)
        if kind == COUNTERFACTUALS:
            config_of(settings)
            require_count("num_classes", settings["num_classes"], 1, MAX_CLASSES)
            require_count("image_size", settings["image_size"], 1, MAX_SIDE)
            for y in settings.get("classes", ()):
                require_count("classes", y, 0, settings["num_classes"] - 1)
        else:
            _check_parts(settings)
    return kind


def read_record(found: Any, settings: dict[str, Any], shard: int, where: str) -> Record:
    """Returns the record of the shard with this number.

    Args:
        found: as read from JSON.
        settings: settings of the set, checked.
        shard: number of the shard.
        where: the record's place, for the error.

    Raises:
        DataError: it is not a record of this shard; the message says what is wrong.
    """
    kind = kind_of(settings)
    mend = "delete it, and the command that wrote the set with --resume writes it again"
    with _saying(f"{where} does not describe {kind.shard_name(shard)}", mend):
        record = Record(**found)
        if record.name != kind.shard_name(shard):
            raise ArgumentError(f"it names {shorten(repr(record.name), 90)}")
        for name in ("num_samples", "num_bytes"):
            require_count(name, getattr(record, name), 0)
        if record.first is not None:
            require_count("first", record.first, 0)
        if not re.fullmatch("[0-9a-f]{64}", record.sha256):
            raise ArgumentError("sha256 must be 64 hexadecimal digits")
        for counts in record.class_counts.values():
            for count in counts:
                require_count("class_counts", count, 0)
        if kind == COUNTERFACTUALS:
            _check_counts(record, settings, shard)
        else:
            _check_verdicts(record, len(settings["classes"]))
    return record


def _check_counts(record: Record, settings: dict[str, Any], shard: int) -> None:
    belonging = len(config_of(settings).samples_of(shard))
    if record.num_samples != belonging:
        raise ArgumentError(f"num_samples is {record.num_samples} where {belonging} belong")
    for factor in FACTORS:
        counts = record.class_counts[factor]
        if (len(counts), sum(counts)) != (settings["num_classes"], belonging):
            raise ArgumentError(
                f"class_counts of {factor} count {sum(counts)} images of {len(counts)} classes "
                f"where {belonging} of {settings['num_classes']} belong"
            )


def _check_verdicts(record: Record, num_classes: int) -> None:
    counted = list(record.class_counts.values())
    total = sum(map(sum, counted))
    if any(len(counts) != num_classes for counts in counted) or total != record.num_samples:
        raise ArgumentError(
            f"class_counts count {total} images where {record.num_samples} of {num_classes} "
            "classes belong"
        )
    _ = record.class_counts[USABLE]


def _check_parts(settings: dict[str, Any]) -> None:
    for name in ("classes", "exclude"):
        if not _are_names(settings[name]):
            raise ArgumentTypeError(f"{name} must be names")
    if len(set(settings["classes"])) < len(settings["classes"]):
        raise ArgumentError("classes has a name twice")
    for name in ("images", "masks", "fill"):
        if not isinstance(settings[name], str):
            raise ArgumentTypeError(f"{name} must be text, got {settings[name]!r}")
    require_count("size", settings["size"], 1, MAX_SIDE)
    if settings["num"] is not None:
        require_count("num", settings["num"], 0)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


@contextmanager
def _saying(what: str, mend: str = "it is damaged") -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = first_line(error) if isinstance(error, CGNError) else f"{error!r}"
        raise DataError(f"{what} ({shorten(reason, 200)}): {mend}") from error
