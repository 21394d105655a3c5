"""Folders of test images: cue conflicts, ImageNet-9, and any folder with one folder per class.

Missing files are reported before any image is read, and the error shows the expected layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from cgn_augment.errors import DataError
from cgn_augment.images.finding import LabelledPaths, find_labelled_images, name_some
from cgn_augment.images.image_table import ImageTable
from cgn_augment.images.imagenet9 import CLASSES as NINE
from cgn_augment.images.imagenet9 import find_variants
from cgn_augment.images.places import find_splits, is_folder, read_place
from train_generator.robustness.groups import cue_conflict_categories

VARIANTS = ("original", "mixed_same", "mixed_rand")
"""Required variants of ImageNet-9."""

CUE_CONFLICT_LAYOUT = """
  FOLDER/airplane/airplane1-bicycle2.png   (shape of the first, texture of the second)
  FOLDER/bear/bear3-clock1.png
  ... one folder for each of the 16 categories, such as stimuli/style-transfer-preprocessed-512
  of github.com/rgeirhos/texture-vs-shape"""

IMAGENET9_LAYOUT = """
  FOLDER/original/val/00_dog/*.JPEG
  FOLDER/mixed_same/val/00_dog/*.JPEG
  FOLDER/mixed_rand/val/00_dog/*.JPEG
  ... nine folders 00_dog to 08_fish in each val, such as bg_challenge of
  github.com/MadryLab/backgrounds_challenge (its release, backgrounds_challenge_data.tar.gz)"""

REAL_LAYOUT = """
  FOLDER/CLASS/*.JPEG
  ... a folder for each class, whose names are the classifier's classes, or which stand for them
  in alphabetical order (the 1000 folders n01440764 to n15075141 of ImageNet's validation images)"""

_NAME = re.compile(r"([a-z]+)\d+-([a-z]+)\d+")


@dataclass(frozen=True)
class ImageFiles:
    """Images on disk, and the labels of each.

    Attributes:
        folder: their folder.
        paths: N files.
        labels: (N, K) int64; the function that made this defines the K labels.
    """

    folder: Path
    paths: tuple[Path, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.paths)


def find_cue_conflicts(folder: Path) -> ImageFiles:
    """Finds the images of Geirhos et al. (ICLR 2019) whose shape and texture have two categories.

    Images whose shape and texture have the same category, 80 of the stimuli, are left out.

    Args:
        folder: folder with the 16 folders of the categories.

    Returns:
        The images; labels are the categories of shape and of texture.

    Raises:
        DataError: the folder or a category is missing, a category has another name or no image, or
            the name of an image does not state its shape and texture.

    Examples:
        >>> from PIL import Image
        >>> from train_generator.robustness import (
        ...     cue_conflict_categories, find_cue_conflicts)
        >>> folder = getfixture("tmp_path")
        >>> for name in cue_conflict_categories().names:
        ...     (folder / name).mkdir()
        ...     for texture in ("bear", "cat"):
        ...         Image.new("RGB", (8, 8)).save(folder / name / f"{name}1-{texture}2.png")
        >>> len(find_cue_conflicts(folder))  # without bear1-bear2 and cat1-cat2
        30
    """
    names = cue_conflict_categories().names
    found = _find_named(folder, names, "cue-conflict images", CUE_CONFLICT_LAYOUT)
    paths, labels = [], []
    for path, label in zip(found.paths, found.labels, strict=True):
        match, shape = _NAME.fullmatch(path.stem), names[label]
        if match is None or match[1] != shape or match[2] not in names:
            _refuse(
                f"the name of {path} must say its shape, which is {shape} by the folder, and its "
                "texture",
                CUE_CONFLICT_LAYOUT,
            )
        if match[2] != shape:
            paths.append(path)
            labels.append((label, names.index(match[2])))
    if not paths:
        raise DataError(f"no image of {folder} has a shape and a texture of two categories")
    return ImageFiles(folder, tuple(paths), torch.tensor(labels))


def find_imagenet9(folder: Path) -> dict[str, ImageFiles]:
    """Finds the images of the variants of ImageNet-9 (Xiao et al., ICLR 2021).

    Args:
        folder: folder with the folders of the variants.

    Returns:
        The images by variant (`original`, `mixed_same`, `mixed_rand`, and others if present); the
        label is one of nine.

    Raises:
        DataError: a variant or class is missing, or a class has another name or no image.
    """
    if not folder.is_dir():
        _refuse(f"there is no folder {folder} of ImageNet-9", IMAGENET9_LAYOUT)
    missing = [name for name in VARIANTS if not (folder / name / "val").is_dir()]
    if missing:
        _refuse(
            f"{folder} lacks {', '.join(f'{name}/val' for name in missing)} of ImageNet-9",
            IMAGENET9_LAYOUT,
        )
    variants = {}
    for variant in dict.fromkeys((*VARIANTS, *find_variants(folder))):
        inside = folder / variant / "val"
        found = _find_named(inside, NINE, "images of ImageNet-9", IMAGENET9_LAYOUT)
        variants[variant] = _relabel(inside, found, range(len(NINE)))
    return variants


def find_real_images(place: str | Path) -> LabelledPaths:
    """Finds the images to measure accuracy on.

    Args:
        place: a folder with one folder per class, a table, or the layout of a benchmark, see
            `read_place`. If the images have splits, the test images, or else the validation images.

    Raises:
        ArgumentError: as for `read_place`.
        DataError: as for `read_place`, or there are only training images.
    """
    place = str(place)
    if is_folder(place) and ":" not in place and not Path(place).expanduser().is_dir():
        raise DataError(f"there is no folder {place} of real images. Expected:{REAL_LAYOUT}")
    table = read_test_images(place)
    if any("://" in path for path in table.paths):
        raise DataError(f"{place} names URLs: give paths of files, which alone are read here")
    return LabelledPaths(tuple(map(Path, table.paths)), table.labels, table.classes)


def read_test_images(place: str) -> ImageTable:
    """Lists the test images of a place, or its validation images if there are none.

    Raises:
        ArgumentError: as for `read_place`.
        DataError: as for `read_place`, or there are only training images.
    """
    there = find_splits(place)
    split = next((name for name in ("test", "val") if name in there), None)
    if there and split is None:
        raise DataError(f"{place} has the splits {', '.join(there)}, and none of test images")
    return read_place(place, split=split)


def label_images(
    folder: Path, found: LabelledPaths, classes: Sequence[str] | None, num_classes: int
) -> ImageFiles:
    """Gives images the labels of a classifier.

    Args:
        folder: folder of the images.
        found: its images; see `find_real_images`.
        classes: names of the classifier's classes, or None if it has none.
        num_classes: number of the classifier's classes.

    Returns:
        The images; the label is the class. If all folders are named after classes, that class. If
        none is, and there are `num_classes` folders, their position in alphabetical order.

    Raises:
        DataError: neither holds, so the class of a folder is unknown.
    """
    named = {name: i for i, name in enumerate(classes or ())}
    unknown = [name for name in found.classes if name not in named]
    if not unknown:
        return _relabel(folder, found, [named[name] for name in found.classes])
    if len(unknown) == len(found.classes) == num_classes:
        return _relabel(folder, found, range(num_classes))
    has = f"has classes such as {name_some(classes)}" if classes else "has no names of classes"
    raise DataError(
        f"{len(unknown)} of the {len(found.classes)} folders of {folder} are not named after a "
        f"class ({name_some(unknown)}), and the classifier {has} ({num_classes} of them). "
        f"Expected:{REAL_LAYOUT}"
    )


def _find_named(folder: Path, names: Sequence[str], what: str, layout: str) -> LabelledPaths:
    """Finds images in folders with these names, in alphabetical order."""
    found = find_labelled_images(folder, what=what, layout=layout)
    missing = [name for name in names if name not in found.classes]
    unknown = [name for name in found.classes if name not in names]
    if missing:
        _refuse(f"{folder} lacks the folders {name_some(missing)}", layout)
    if unknown:
        _refuse(f"{folder} has the folders {name_some(unknown)}, which are no classes", layout)
    return found


def _relabel(folder: Path, found: LabelledPaths, classes: Sequence[int]) -> ImageFiles:
    """Replaces the labels of images by the classes that they stand for."""
    labels = torch.tensor(classes)[list(found.labels)]
    return ImageFiles(folder, found.paths, labels.view(-1, 1))


def _refuse(problem: str, layout: str) -> NoReturn:
    raise DataError(f"{problem}. Expected:{layout}")
