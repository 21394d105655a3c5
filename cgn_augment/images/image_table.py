"""A list of images and the facts about each, made before any is read.

Every kind of place that lists its images becomes an `ImageTable`: a folder, a table, and the
layouts of the published benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import is_file
from cgn_augment.images.finding import name_some
from cgn_augment.images.tables import MOST_DIGITS

ALL = "all"
TRAIN = "train"
GROUP = "group"
"""The column with the names of the groups."""

_ORDER = (TRAIN, "val", "test")
_ALIASES = {
    "training": TRAIN,
    "valid": "val",
    "validation": "val",
    "testing": "test",
}
SPLIT_NAMES = frozenset({*_ORDER, *_ALIASES})
"""Names of folders that are splits."""

_Kind = TypeVar("_Kind")


def split_name(name: str) -> str:
    """Returns the standard name of a split that has several names.

    Args:
        name: any of its names.

    Examples:
        >>> from cgn_augment.images.image_table import split_name
        >>> split_name("validation"), split_name("test_2")
        ('val', 'test_2')
    """
    return _ALIASES.get(name, name)


@dataclass(frozen=True)
class Groups:
    """The group of each image, such as a class in front of a background.

    Attributes:
        numbers: group of each image, in the order of the images.
        names: names of the groups, by number, such as "landbird on water"; some may have no image.
        train_counts: training images per group; None if it is unknown which images are for
            training.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    train_counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ImageTable:
    """Images, and the facts about each.

    Attributes:
        place: where they are, as the user wrote it.
        root: folder that holds `files` and `masks`.
        files: image files: relative to `root`, absolute, or URLs.
        labels: label of each image.
        classes: names by label.
        splits: split of each image; None if there are no splits.
        groups: group of each image; None if there are no groups.
        masks: file of each image's mask, or None for an image without; None if there are no masks.
        columns: further facts about each image, as text by name.
    """

    place: str
    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    groups: Groups | None = None
    masks: tuple[str | None, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Path or URL of each image."""
        return tuple(below(self.root, file) for file in self.files)

    @cached_property
    def mask_paths(self) -> tuple[str | None, ...] | None:
        """Path or URL of each mask; None for an image without, or if there are no masks."""
        if self.masks is None:
            return None
        return tuple(None if mask is None else below(self.root, mask) for mask in self.masks)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits: train, val and test first; empty if there are none."""
        return order_splits(self.splits or ())

    def of_split(self, split: str | None) -> ImageTable:
        """Returns the images of a split.

        Args:
            split: its name; `all` for all images; None for the training split, or the only split.

        Raises:
            ArgumentError: a split is given but there are none, or a split must be named.
            DataError: the split does not exist.

        Examples:
            >>> from pathlib import Path
            >>> from cgn_augment.images.image_table import ImageTable
            >>> table = ImageTable(
            ...     "here", Path("a"), ("1.png", "2.png"), (0, 1), ("cat", "dog"), ("train", "val"))
            >>> table.of_split("val").paths
            ('a/2.png',)
        """
        wanted = choose_split(self.place, self.split_names, split)
        if wanted == ALL:
            return self
        return self.where([name == wanted for name in self.splits or ()])

    def where(self, keep: Sequence[bool]) -> ImageTable:
        """Returns the images for which `keep` is true; the groups' training counts stay.

        Args:
            keep: one value per image.
        """

        def some(values: Sequence[_Kind]) -> tuple[_Kind, ...]:
            return tuple(value for value, kept in zip(values, keep, strict=True) if kept)

        groups = self.groups
        return replace(
            self,
            files=some(self.files),
            labels=some(self.labels),
            splits=None if self.splits is None else some(self.splits),
            groups=None if groups is None else replace(groups, numbers=some(groups.numbers)),
            masks=None if self.masks is None else some(self.masks),
            columns={name: some(values) for name, values in self.columns.items()},
        )

    def with_groups(self, numbers: Sequence[int], names: Sequence[str]) -> ImageTable:
        """Returns the images with a group for each, and counts the training images per group.

        The names of the groups also become a column.

        Args:
            numbers: group of each image.
            names: names of the groups.
        """
        counts = None
        if self.splits is not None and TRAIN in self.splits:
            trained = Counter(n for n, s in zip(numbers, self.splits, strict=True) if s == TRAIN)
            counts = tuple(trained[number] for number in range(len(names)))
        columns = {**self.columns, GROUP: tuple(names[number] for number in numbers)}
        return replace(self, groups=Groups(tuple(numbers), tuple(names), counts), columns=columns)

    def require_files(self) -> None:
        """Raises if images are missing; URLs are not checked.

        Raises:
            DataError: some are missing.
        """
        lost = [path for path in self.paths if "://" not in path and not is_file(path)]
        if lost:
            raise DataError(
                f"{len(lost)} of the {len(self)} images of {self.place} are missing: there is no "
                f"file {name_some(lost, 3)}"
            )


def order_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Returns each name once, train, val and test first.

    Args:
        names: names of splits, with repeats.

    Examples:
        >>> from cgn_augment.images.image_table import order_splits
        >>> order_splits(["test", "odd", "train", "test"])
        ('train', 'test', 'odd')
    """
    there = set(names)
    return (*(name for name in _ORDER if name in there), *sorted(there - set(_ORDER)))


def choose_split(place: str, names: Iterable[str], split: str | None) -> str:
    """Returns the chosen split of a place; `all` if there are none.

    Args:
        place: the place, for errors.
        names: names of its splits.
        split: what the user gave; see `ImageTable.of_split`.

    Raises:
        ArgumentError: a split is given but there are none, or a split must be named.
        DataError: the split does not exist.

    Examples:
        >>> from cgn_augment.images.image_table import choose_split
        >>> choose_split("here", ("train", "val"), None)
        'train'
    """
    there = order_splits(names)
    if not there:
        if split not in (None, ALL, TRAIN):
            raise ArgumentError(f"{place} has no splits: leave the split {split!r} out")
        return ALL
    if split is None:
        if TRAIN not in there and len(there) > 1:
            raise ArgumentError(f"{place} has the splits {', '.join(there)}: say which one")
        return TRAIN if TRAIN in there else there[0]
    wanted = split_name(split)
    if wanted != ALL and wanted not in there:
        raise DataError(
            f"{place} has the splits {', '.join(there)}, and none {split!r}: say which of them, or "
            f"{ALL} for all images"
        )
    return wanted


def below(root: Path, file: str) -> str:
    """Returns the path of a file below a folder; a URL unchanged.

    Args:
        root: the folder.
        file: a path or URL.
    """
    return file if "://" in file else str(root / file)


def some_masks(masks: Iterable[str | None]) -> tuple[str | None, ...] | None:
    """Returns the mask files, None for an image without; None if there is no mask at all.

    Args:
        masks: a file per image; None or empty for an image without.
    """
    found = tuple(masks)
    return found if any(found) else None


def sort_names(names: set[str]) -> list[str]:
    """Sorts names, as numbers if all are numbers.

    Args:
        names: the names.
    """
    if all(name.isdecimal() and len(name) <= MOST_DIGITS for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
