"""The images of a table or of a Hugging Face dataset, to be taken apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import name_some
from cgn_augment.images.hugging_face import HuggingFaceRows, open_hugging_face
from cgn_augment.images.reading import Encoded
from cgn_augment.images.tables import Row, read_table
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import (
    ALL,
    ALPHA,
    COLUMN,
    MEMBER,
    ListedPhotos,
    Photo,
    mirrored,
    refuse_masks,
    require_mask_folder,
    require_some_mask,
)

_SPLIT = "split"


def photos_of_table(path: Path, config: PartConfig) -> ListedPhotos:
    """Reads which images a table lists; their paths are below its folder, or URLs.

    Raises:
        ArgumentError: a column that the table lacks, or classes that do not fit.
        DataError: the table cannot be read, or a row lacks a path or a label.
    """
    path = path.expanduser()
    rows = read_table(path)
    mask_column = config.masks.removeprefix(COLUMN) if config.masks.startswith(COLUMN) else None
    if config.masks.startswith(MEMBER):
        refuse_masks(config.masks, f"{COLUMN}NAME, a folder, or {ALPHA}", f"the table {path}")
    asked = [config.path, config.label, *config.columns, *([mask_column] if mask_column else [])]
    lost = [name for name in asked if name not in rows[0]]
    if lost:
        raise ArgumentError(
            f"{path} has the columns {list(rows[0])}, and none {lost[0]!r}: say which with --path, "
            "--label, --columns and --masks"
        )
    rows = _of_split(rows, path, config.split)
    names = class_names_of([row[config.label] for row in rows], config.class_names, str(path))
    photos = []
    for row in rows:
        source = row[config.path]
        if not source:
            raise DataError(f"{path}: a row has no {config.path}: {row}")
        mask = _mask_of(row, source, mask_column, path.parent, config.masks)
        columns = {name: row[name] for name in config.columns}
        key = source.rpartition(".")[0] or source
        photos.append(
            Photo(key, names[row[config.label]], source, _at(path.parent, source), mask, columns)
        )
    require_some_mask(photos, config.masks)
    classes = config.class_names or tuple(dict.fromkeys(names.values()))
    return ListedPhotos(classes, photos, config.shard_size)


def class_names_of(
    labels: Sequence[str], classes: Sequence[str] | None, what: str
) -> dict[str, str]:
    """Returns for each label that occurs the name of its class, in the order of the classes.

    Args:
        labels: as the data give them: names, or numbers.
        classes: names by number; None takes the labels themselves for names.
        what: the data are, for the errors.

    Raises:
        ArgumentError: a label that is none of the classes.
        DataError: an empty label.

    Example:
        >>> from cgn_augment.parts.input_tables import class_names_of
        >>> class_names_of(["10", "9"], None, "a table")
        {'9': '9', '10': '10'}
        >>> class_names_of(["1", "0"], ["cat", "dog"], "a table")
        {'0': 'cat', '1': 'dog'}
    """
    found = set(labels)
    if "" in found:
        raise DataError(f"{what} has a row without a label")
    numbers = all(label.isdecimal() for label in found)
    ordered = sorted(found, key=int) if numbers else sorted(found)
    if classes is None:
        return {label: label for label in ordered}
    known = set(classes)
    foreign = [
        label
        for label in ordered
        if label not in known and not (numbers and int(label) < len(classes))
    ]
    if foreign:
        raise ArgumentError(
            f"{what} has the labels {name_some(foreign)}, which are none of the {len(known)} "
            "classes, by name or by number from 0"
        )
    return {label: label if label in known else classes[int(label)] for label in ordered}


def _of_split(rows: list[Row], path: Path, split: str) -> list[Row]:
    """Returns the rows of a split; all of a table that has none."""
    if _SPLIT not in rows[0]:
        if split not in ("train", ALL):
            raise ArgumentError(f"{path} has no column {_SPLIT!r}: leave --split out")
        return rows
    if split == ALL:
        return rows
    chosen = [row for row in rows if row[_SPLIT] == split]
    if not chosen:
        there = sorted({row[_SPLIT] for row in rows})
        raise DataError(
            f"{path} has the splits {there}, and none {split!r}: say which is the one of training "
            f"with --split, or take --split {ALL}"
        )
    return chosen


def _mask_of(row: Row, source: str, column: str | None, folder: Path, masks: str) -> Encoded | None:
    if masks == ALPHA:
        return None
    if column is not None:
        return _at(folder, row[column]) if row[column] else None
    return mirrored(masks, source)


def _at(folder: Path, place: str) -> str:
    return place if "://" in place else str(folder / place)


@dataclass(frozen=True)
class HuggingFacePhotos:
    """The rows of a Hugging Face dataset; a row's key is its number.

    Attributes:
        found: the rows, their images as files.
        mask: column of the masks; None where they lie elsewhere.
        config: of the input.
    """

    found: HuggingFaceRows
    mask: str | None
    config: PartConfig

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""
        return self.found.classes

    @property
    def digest(self) -> str:
        """A hash of the labels, in order."""
        labels = self.found.rows[self.found.label]
        facts = [len(self.found.rows), list(labels), list(self.classes)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Shards that they are dealt out to."""
        return -(-len(self.found.rows) // self.config.shard_size)

    def count(self, shards: Sequence[int]) -> int:
        """Returns how many images these shards hold."""
        return sum(len(self._range(shard)) for shard in shards)

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""
        for number in self._range(shard):
            row = self.found.rows[number]
            label = int(row[self.found.label])
            if not 0 <= label < len(self.classes):
                raise DataError(f"row {number} has the label {label}, which is no class")
            image = _file(row[self.found.image])
            if image is None:
                raise DataError(f"row {number} has no image in the column {self.found.image!r}")
            key, source = f"{number:09d}", f"row {number}"
            mask: Encoded | None = None
            if self.mask is not None:
                mask = _file(row[self.mask])
            elif self.config.masks != ALPHA:
                mask = mirrored(self.config.masks, f"{key}.png")
            columns = {name: str(row[name]) for name in self.config.columns}
            yield Photo(key, self.classes[label], source, image, mask, columns)

    def require_keys(self, keys: Iterable[str]) -> None:
        """Refuses keys that no row has."""
        known = {f"{number:09d}" for number in range(len(self.found.rows))}
        foreign = sorted(set(keys) - known)
        if foreign:
            raise ArgumentError(
                f"{len(foreign)} keys to exclude are of no row ({name_some(foreign)}): a key is "
                "like 000000012"
            )

    def _range(self, shard: int) -> range:
        first = shard * self.config.shard_size
        return range(first, min(first + self.config.shard_size, len(self.found.rows)))


def photos_of_hugging_face(name: str, config: PartConfig) -> HuggingFacePhotos:
    """Opens a Hugging Face dataset, of which the training split where NAME does not say another.

    Raises:
        ArgumentError: masks of a kind that it does not have.
        DataError: there is no such dataset, it has other columns, or there is no folder of masks.
    """
    mask = config.masks.removeprefix(COLUMN) if config.masks.startswith(COLUMN) else None
    if config.masks.startswith(MEMBER):
        refuse_masks(config.masks, f"{COLUMN}NAME, a folder, or {ALPHA}", f"hf:{name}")
    require_mask_folder(config.masks)
    if "@" in name and config.split != "train":
        raise ArgumentError(f"hf:{name} says itself which split: leave --split out")
    without = [] if mask is None else [mask]
    place = name if "@" in name else f"{name}@{config.split}"
    found = open_hugging_face(place, config.class_names, without)
    if config.class_names not in (None, found.classes):
        raise ArgumentError(f"hf:{name} says itself which classes it has: leave --classes out")
    lost = [column for column in config.columns if column not in found.rows.features]
    if lost:
        raise ArgumentError(f"hf:{name} has no column {lost[0]!r}")
    return HuggingFacePhotos(found.undecoded(found.image, *without), mask, config)


def _file(cell: dict[str, Any] | None) -> Encoded | None:
    if cell is None:
        return None
    contents: Encoded | None = cell["bytes"] or cell["path"]
    return contents
