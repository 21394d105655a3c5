"""A folder with a folder of images for each class, or with such a folder for each split."""

from __future__ import annotations

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
    """Returns the folders of the splits by the splits' names; none where there are no splits.

    Raises:
        DataError: there is no such folder, or it has splits and classes side by side.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root} of images. Expected:{CLASS_LAYOUT}")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    there = [name for name in names if any(path.is_dir() for path in (root / name).iterdir())]
    if set(there) & SPLIT_NAMES and not set(names) <= SPLIT_NAMES:
        split = sorted(set(there) & SPLIT_NAMES)[-1]
        raise DataError(
            f"{root} has the folder {split}, which has folders itself, beside {name_some(names)}: "
            f"give the folder of a split, such as {root / split}"
        )
    if not names or not set(names) <= SPLIT_NAMES or there != names:
        return {}
    return {split_name(name): name for name in names}


def read_folder(root: Path, split: str | None = None) -> ImageTable:
    """Finds the images of a folder, of one split or of all; the folders of others are not read.

    Raises:
        ArgumentError: a split is asked for where there are none.
        DataError: there are no images, no such split, or splits have other classes.
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
        files += [path.relative_to(root).as_posix() for path in found.paths]
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
