"""Finds the masks of images before they are taken apart."""

from __future__ import annotations

from pathlib import Path

from cgn_augment.errors import ArgumentError
from cgn_augment.images.folders import split_folders
from cgn_augment.images.image_table import ALL, choose_split
from cgn_augment.images.places import is_listed, is_table, layout_of
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import MaskCounts, write_masks
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import ALPHA, COLUMN, MEMBER


def mask_photos(
    images: str,
    config: PartConfig,
    masker: str,
    settings: MaskSettings | None = None,
    *,
    progress: bool = False,
) -> MaskCounts:
    """Finds the masks of a folder of images, of its splits that are taken apart.

    Args:
        images: a folder, as for `find_photos`.
        config: whose `masks` is the folder that they are written to.
        masker: see `open_masker`.
        settings: see `write_masks`.
        progress: whether to show a bar for each split.

    Raises:
        ArgumentError: the images lie in something else than a folder, or the masks would; or as
            for `write_masks`, whose other errors come too.
    """
    if not is_listed(images) or is_table(images) or layout_of(images):
        raise ArgumentError(
            f"a masker finds the masks of a folder of images, and {images} is none: say where its "
            "masks are, and leave masker out"
        )
    if config.masks == ALPHA or config.masks.startswith((COLUMN, MEMBER)):
        raise ArgumentError(
            f"masks is the folder that a masker's masks are written to, got {config.masks!r}"
        )
    root, masks = Path(images).expanduser(), Path(config.masks).expanduser()
    folders = split_folders(root)
    wanted = choose_split(images, folders, config.split)
    chosen = [folder for name, folder in folders.items() if wanted in (name, ALL)] or [""]
    counts = [
        write_masks(root / split, masks / split, masker, settings, progress=progress)
        for split in chosen
    ]
    unreadable = tuple(why for each in counts for why in each.unreadable)
    return MaskCounts(
        sum(each.written for each in counts), sum(each.kept for each in counts), unreadable
    )
