"""The layout of Waterbirds (Sagawa et al., ICLR 2020): birds of CUB in front of places."""

from __future__ import annotations

import os
from itertools import compress
from pathlib import Path
from textwrap import shorten

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import LONGEST_NAME, is_file
from cgn_augment.images.image_table import TRAIN, ImageTable, some_masks
from cgn_augment.images.tables import Row, number_in, read_table, require_columns

CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")
GROUPS = tuple(f"{bird} on {place}" for bird in CLASSES for place in PLACES)
SPLITS = (TRAIN, "val", "test")
FULLY_CORRELATED = "100"
"""The variant whose training images show birds only in front of their own place."""

METADATA, SEGMENTATIONS = "metadata.csv", "segmentations"


_COLUMNS = ("img_filename", "y", "split", "place")


def read_waterbirds(root: Path, variant: str = "") -> ImageTable:
    """Lists the images.

    Args:
        root: folder with `metadata.csv`. The images are below it or below its folder `images`.
            Masks, if any, are in `segmentations`, which mirrors the images in PNG (as the
            segmentations of CUB do).
        variant: "100" leaves out the training images of groups 1 and 2.

    Returns:
        The images. A group is 2 * y + place. In "100", two groups have no training images.

    Raises:
        ArgumentError: the variant does not exist.
        DataError: the table is missing or laid out differently.
    """
    if variant not in ("", FULLY_CORRELATED):
        raise ArgumentError(
            f"Waterbirds has the variant @{FULLY_CORRELATED} alone, got @{variant}: take "
            f"waterbirds:{root} or waterbirds:{root}@{FULLY_CORRELATED}"
        )
    root = root.expanduser()
    path = root / METADATA
    if not path.is_file():
        raise DataError(f"there is no {path}: a folder of Waterbirds has it beside the images")
    rows = read_table(path)
    require_columns(rows, _COLUMNS, f"{path}, the table of Waterbirds,")
    labels, places, splits = (
        [_digit(row, column, most, path) for row in rows]
        for column, most in (("y", 1), ("place", 1), ("split", 2))
    )
    names = [row["img_filename"] for row in rows]
    first = os.fsdecode(os.fsencode(names[0].split("/")[0])[:LONGEST_NAME])
    inside = "" if (root / first).exists() or not (root / "images").is_dir() else "images/"
    table = ImageTable(
        place=f"waterbirds:{root}{'@' if variant else ''}{variant}",
        root=root,
        files=tuple(f"{inside}{name}" for name in names),
        labels=tuple(labels),
        classes=CLASSES,
        splits=tuple(SPLITS[split] for split in splits),
        masks=_masks(root, names),
        columns={"place": tuple(PLACES[place] for place in places)},
    )
    groups = [2 * label + place for label, place in zip(labels, places, strict=True)]
    if not variant:
        return table.with_groups(groups, GROUPS)
    kept = [split != 0 or group in (0, 3) for group, split in zip(groups, splits, strict=True)]
    return table.where(kept).with_groups(list(compress(groups, kept)), GROUPS)


def _digit(row: Row, column: str, most: int, path: Path) -> int:
    number = number_in(row[column], most + 1)
    if number is None:
        raise DataError(
            f"{path}: the row of {shorten(repr(row['img_filename']), 200)} has "
            f"{shorten(repr(row[column]), 90)} for {column}, expected 0 to {most}"
        )
    return number


def _masks(root: Path, names: list[str]) -> tuple[str | None, ...] | None:
    masks = [f"{SEGMENTATIONS}/{name.rpartition('.')[0]}.png" for name in names]
    return some_masks(mask if is_file(root / mask) else None for mask in masks)
