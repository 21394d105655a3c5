"""A folder with one folder of images per class, or with such a folder per split."""

from __future__ import annotations

import os
from pathlib import Path

from cgn_augment.errors import DataError
from cgn_augment.images.finding import CLASS_LAYOUT, find_labelled_images, name_some
from cgn_augment.images.image_table import (
    ALL,
    SPLIT_NAMES,
    ImageTable,
    choose_split,
    split_name,
)


def split_folders(root: Path) -> dict[str, str]:
    """Returns the folder of each split by the split's name; empty if there are no splits.

    Raises:
        DataError: the folder does not exist, or has splits and classes side by side.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root} of images. Expected:{CLASS_LAYOUT}")
    names = _folders(root)
    called = [name for name in names if name in SPLIT_NAMES]  # look only into these
    splits = [name for name in called if _folders(root / name)]
    if splits and called != names:
        raise DataError(
            f"{root} has the folder {splits[-1]}, which has folders itself, beside "
            f"{name_some(names)}: give the folder of a split, such as {root / splits[-1]}"
        )
    if not names or splits != names:
        return {}
    twice = len({split_name(name) for name in names}) < len(names)
    if twice:
        raise DataError(f"{root} has the folders {name_some(names)}, of which two are one split")
    return {split_name(name): name for name in names}


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def read_folder(root: Path, split: str | None = None) -> ImageTable:
    """Finds the images of a folder, of one split or of all; other splits are not read.

    Raises:
        ArgumentError: a split is given, but there are none.
        DataError: there are no images, the split does not exist, or splits have different classes.
    """
    root = root.expanduser()
    folders = split_folders(root)
    wanted = choose_split(str(root), folders, split)
    chosen = {name: folder for name, folder in folders.items() if wanted in (name, ALL)}
    classes: tuple[str, ...] | None = None
    files: list[str] = []
    labels: list[int] = []
    splits: list[str] = []
    for name, folder in (chosen or {"": ""}).items():
        found = find_labelled_images(root / folder)
        if classes not in (None, found.classes):
            raise DataError(f"{root / folder} has other classes than the other splits")
        classes = found.classes
        files += [str(path).removeprefix(f"{root}/") for path in found.paths]
        labels += found.labels
        splits += [name] * len(found.paths)
    return ImageTable(
        place=str(root),
        root=root,
        files=tuple(files),
        labels=tuple(labels),
        classes=classes or (),
        splits=tuple(splits) if chosen else None,
    )
