"""The layout of ImageNet-9 (Xiao et al., ICLR 2021): objects with exchanged backgrounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import SUFFIXES
from cgn_augment.images.folders import read_folder
from cgn_augment.images.image_table import ALL, ImageTable

CLASSES = (
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
)
VARIANTS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "only_fg",
    "no_fg",
    "only_bg_b",
    "only_bg_t",
)
"""The published variants; a folder may hold some of them, and others."""

_LAYOUT = "VARIANT/val/00_dog/*.JPEG, such as original/val/00_dog"


def find_variants(root: Path) -> tuple[str, ...]:
    """Returns the variants in a folder, the published ones first.

    Raises:
        DataError: it holds none.
    """
    root = root.expanduser()
    there = {path.parent.name for path in root.glob("*/val") if _has_images(path)}
    found = [name for name in VARIANTS if name in there] + sorted(there - set(VARIANTS))
    if not found:
        raise DataError(f"{root} has no variant of ImageNet-9. Expected: {_LAYOUT}")
    return tuple(found)


def read_imagenet9(root: Path, variant: str = "") -> ImageTable:
    """Lists the images of a variant.

    Args:
        root: folder with the folders of the variants.
        variant: such as mixed_rand; original by default.

    Raises:
        ArgumentError: the variant does not exist.
        DataError: it has other classes than the nine.
    """
    root, variant = root.expanduser(), variant or VARIANTS[0]
    there = find_variants(root)
    if variant not in there:
        raise ArgumentError(
            f"in9:{root} has the variants {', '.join(there)}, and none {variant!r}: take one, as "
            f"in9:{root}@{there[0]}"
        )
    table = read_folder(root / variant, ALL)
    if table.classes != CLASSES:
        raise DataError(
            f"{root / variant} has the classes {', '.join(table.classes)}, and ImageNet-9 has "
            f"{', '.join(CLASSES)}. Expected: {_LAYOUT}"
        )
    return replace(table, place=f"in9:{root}@{variant}")


def _has_images(val: Path) -> bool:
    """Returns whether any class folder holds an image; some releases have empty ones."""
    return any(path.name.lower().endswith(SUFFIXES) for path in val.glob("*/*"))
