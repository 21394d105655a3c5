"""Finds the masks of images before they are taken apart."""

from __future__ import annotations

from pathlib import Path

from cgn_augment.errors import ArgumentError
from cgn_augment.images.hugging_face import HUGGING_FACE
from cgn_augment.images.tables import SUFFIXES as TABLES
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import MaskCounts, write_masks
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import ALPHA, COLUMN, MEMBER, splits_of
from cgn_augment.parts.photos import TABLE


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
    if images.startswith((HUGGING_FACE, TABLE)) or images.endswith((".tar", *TABLES)):
        raise ArgumentError(
            f"a masker finds the masks of a folder of images, and {images} is none: say where its "
            "masks are, and leave masker out"
        )
    if config.masks == ALPHA or config.masks.startswith((COLUMN, MEMBER)):
        raise ArgumentError(
            f"masks is the folder that a masker's masks are written to, got {config.masks!r}"
        )
    root, masks = Path(images).expanduser(), Path(config.masks).expanduser()
    counts = [
        write_masks(root / split, masks / split, masker, settings, progress=progress)
        for split in splits_of(root, config)
    ]
    unreadable = tuple(why for each in counts for why in each.unreadable)
    return MaskCounts(
        sum(each.written for each in counts), sum(each.kept for each in counts), unreadable
    )
