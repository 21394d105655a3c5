"""Finds image files on disk and their classes, and reads them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from PIL import Image

from cgn_augment.errors import DataError
from cgn_augment.files import first_line
from cgn_augment.images.reading import Encoded, open_image, to_rgb

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in upper or lower case."""

UNREAD = (
    *(".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".rw2"),
)
"""Suffixes of image files that are not read: of phones, animations and cameras."""

_MOST_VISITS = 1000
"""Times that links may lead to one folder; a few dozen of them could make up billions of paths."""

_DEEPEST = 100  # folders in each other

CLASS_LAYOUT = " one folder of images for each class, such as FOLDER/cat/1.jpg"


class LabelledPaths(NamedTuple):
    """The images of a folder with one folder per class.

    Attributes:
        paths: paths of the images, class by class.
        labels: label of each image.
        classes: names by label.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def find_images(folder: Path, least: int = 1) -> list[Path]:
    """Finds the images in a folder and all folders below it.

    Follows links, ignores hidden files and folders, and ignores the case of a suffix. Images of
    formats that are not read, such as HEIC, are left out with a warning.

    Args:
        folder: where to look.
        least: least number of images.

    Returns:
        Their paths, sorted.

    Raises:
        DataError: the folder does not exist, holds too few images, or is a maze of links.

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
    (paths,), unread = _sort_out([_walk(folder)])
    if len(paths) < least:
        raise DataError(
            f"{folder} holds {len(paths)} images ({', '.join(SUFFIXES)}), and {least} or more are "
            f"needed{unread and f'; {unread}'}"
        )
    if unread:
        logger.warning("%s: %s", folder, unread)
    return paths


def find_labelled_images(
    folder: Path, *, what: str = "images", layout: str = CLASS_LAYOUT
) -> LabelledPaths:
    """Finds the images of a folder with one folder per class; see `find_images`.

    Args:
        folder: where to look.
        what: what the images are, for errors.
        layout: the expected layout, for errors.

    Returns:
        The images; labels follow the order of the folders' names.

    Raises:
        DataError: the folder does not exist, has no folders, or one of these holds no image.

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
    names = [entry.name for entry in _entries(folder) if entry.is_dir()]
    sorted_out, unread = _sort_out([_walk(folder / name) for name in names])
    found = dict(zip(names, sorted_out, strict=True))
    empty = [name for name, paths in found.items() if not paths]
    if not found or empty:
        lacks = f"has no image in {name_some(empty)}" if found else "has no folders of classes"
        advice = f"; {unread}" if empty and unread else f". Expected:{layout}"
        raise DataError(f"{folder} {lacks}{advice}")
    if unread:
        logger.warning("%s: %s", folder, unread)
    labels = [label for label, paths in enumerate(found.values()) for _ in paths]
    return LabelledPaths(
        tuple(path for paths in found.values() for path in paths), tuple(labels), tuple(found)
    )


def read_image(file: Path | Encoded, name: str | None = None) -> Image.Image:
    """Returns an image file upright and in RGB; see `to_rgb`.

    Args:
        file: its path, URL or content.
        name: name of the content, for the error.

    Raises:
        DataError: it is missing, truncated, or not an image.
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
    """Returns the first names of a list as text, and how many more follow."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(seen, key=lambda entry: entry.name)


def _walk(
    folder: Path, above: frozenset[str] = frozenset(), seen: Counter[str] | None = None
) -> Iterator[Path]:
    real, seen = os.path.realpath(folder), Counter() if seen is None else seen
    if real in above:  # a link to a folder that it lies in
        return
    seen[real] += 1
    if seen[real] > _MOST_VISITS or len(above) > _DEEPEST:
        why = "links lead there again and again" if len(above) <= _DEEPEST else "it lies too deep"
        raise DataError(f"{shorten(str(folder), 300)} is not searched for images: {why}")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, above | {real}, seen)
        elif entry.name.lower().endswith((*SUFFIXES, *UNREAD)):
            yield folder / entry.name


def _sort_out(folders: Iterable[Iterable[Path]]) -> tuple[list[list[Path]], str]:
    """Returns the images of each folder that can be read, and how many others there are."""
    unread: Counter[str] = Counter()
    found: list[list[Path]] = []
    for paths in folders:
        found.append([])
        for path in paths:
            suffix = path.suffix.lower()
            if suffix in UNREAD:
                unread[suffix] += 1
            else:
                found[-1].append(path)
    kinds = ", ".join(f"{num} {suffix}" for suffix, num in sorted(unread.items()))
    advice = "left out, since their formats are not read: convert them to JPEG or PNG"
    return found, f"{unread.total()} images ({kinds}) are {advice}" if unread else ""
