"""Image files on disk: which there are, which class each is of, and what is in one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cgn_augment.errors import DataError
from cgn_augment.files import first_line
from cgn_augment.images.reading import Encoded, open_image, to_rgb

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Ends of the names of image files, in capitals or not."""

CLASS_LAYOUT = " one folder of images for each class, such as FOLDER/cat/1.jpg"


class LabelledPaths(NamedTuple):
    """The images of a folder that has a folder for each class.

    Attributes:
        paths: of the images, class by class.
        labels: of each image.
        classes: names by label.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def find_images(folder: Path, least: int = 1) -> list[Path]:
    """Finds the images in a folder and in all folders below it.

    Links are followed, hidden files and folders are left out, and capitals of a suffix do not
    matter.

    Args:
        folder: where to look.
        least: images that there must be.

    Returns:
        Their paths, sorted.

    Raises:
        DataError: there is no such folder, or it holds too few images.

    Examples:
        >>> from PIL import Image
        >>> from cgn_augment.images.finding import find_images
        >>> folder = getfixture("tmp_path")
        >>> for name in ("2.PNG", "1.jpg", ".3.png"):
        ...     Image.new("RGB", (8, 8)).save(folder / name)
        >>> [path.name for path in find_images(folder)]
        ['1.jpg', '2.PNG']
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give one with images, in subfolders or not")
    paths = list(_walk(folder))
    if len(paths) < least:
        raise DataError(
            f"{folder} holds {len(paths)} images ({', '.join(SUFFIXES)}), and {least} or more are "
            "needed"
        )
    return paths


def find_labelled_images(
    folder: Path, *, what: str = "images", layout: str = CLASS_LAYOUT
) -> LabelledPaths:
    """Finds the images of a folder that has a folder for each class; see `find_images`.

    Args:
        folder: where to look.
        what: the images are, for the errors.
        layout: that is expected, for the errors.

    Returns:
        The images; labels go by the order of the folders' names.

    Raises:
        DataError: there is no such folder, it has no folders, or there is no image in one of them.

    Examples:
        >>> from PIL import Image
        >>> from cgn_augment.images.finding import find_labelled_images
        >>> folder = getfixture("tmp_path")
        >>> for name in ("dog", "cat"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(folder / name / "1.png")
        >>> find_labelled_images(folder).classes
        ('cat', 'dog')
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of {what}. Expected:{layout}")
    found = {
        entry.name: list(_walk(folder / entry.name)) for entry in _entries(folder) if entry.is_dir()
    }
    empty = [name for name, paths in found.items() if not paths]
    if not found or empty:
        lacks = f"has no image in {name_some(empty)}" if found else "has no folders of classes"
        raise DataError(f"{folder} {lacks}. Expected:{layout}")
    labels = [label for label, paths in enumerate(found.values()) for _ in paths]
    return LabelledPaths(
        tuple(path for paths in found.values() for path in paths), tuple(labels), tuple(found)
    )


def read_image(file: Path | Encoded, name: str | None = None) -> Image.Image:
    """Returns an image file upright and as RGB; see `to_rgb`.

    Args:
        file: its path, its URL, or its contents.
        name: of contents, for the error.

    Raises:
        DataError: it is missing, no image, or cut off.
    """
    try:
        with open_image(file if isinstance(file, bytes) else str(file)) as image:
            return to_rgb(image)
    except Exception as error:  # damaged bytes make Pillow raise anything
        what = name or str(file)
        raise DataError(
            f"{what} cannot be read as an image: replace or remove it ({first_line(error)})"
        ) from error


def name_some(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names of a list as text, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(seen, key=lambda entry: entry.name)


def _walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, above | {real})
        elif entry.name.lower().endswith(SUFFIXES):
            yield folder / entry.name
