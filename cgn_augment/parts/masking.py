"""Finds the masks of images before they are taken apart, for any kind of input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import MaskCounts, Target, refuse_nested, write_targets
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import ALPHA, COLUMN, MEMBER, OWN, Photos, mirrored
from cgn_augment.parts.photos import find_photos
from cgn_augment.ranks import find_rank


def mask_photos(
    images: str,
    config: PartConfig,
    masker: str,
    settings: MaskSettings | None = None,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = False,
) -> MaskCounts:
    """Finds the masks of the images that this rank will take apart.

    The mask of the image with the key cat/1 is cat/1.png in the folder of masks.

    Args:
        images: as for `find_photos`.
        config: settings; `masks` is the folder to write to.
        masker: see `open_masker`.
        settings: see `write_masks`.
        rank: which of `world_size` processes this is, as for `write_parts`.
        world_size: number of processes.
        progress: shows a bar.

    Raises:
        ArgumentError: `masks` is not a folder, or any error of `write_masks`.
        DataError: images cannot be used, or a mask would lie outside the folder.
    """
    if config.masks in (ALPHA, OWN) or config.masks.startswith((COLUMN, MEMBER)):
        got = "" if config.masks == OWN else f", got {config.masks!r}"
        raise ArgumentError(
            f"--masks must name the folder that a masker's masks are written to{got}: --masks masks"
        )
    rank, world_size = find_rank(rank, world_size)
    out = Path(config.masks).expanduser()
    if Path(images).expanduser().is_dir():
        refuse_nested(Path(images).expanduser(), out)
    photos = find_photos(images, replace(config, masks=ALPHA))
    own = range(rank, photos.num_shards, world_size)
    targets: Iterator[Target] = _targets(photos, own, out)
    total = photos.count(own)
    if not own:  # so that it finds a mask when it checks whether the folder belongs to the images
        targets, total = islice(_targets(photos, range(1), out), 1), 1
    return write_targets(targets, out, masker, settings, total=total, progress=progress)


def _targets(photos: Photos, shards: range, out: Path) -> Iterator[Target]:
    for shard in shards:
        for photo in photos.of_shard(shard):
            mask = Path(mirrored(str(out), f"{photo.key}.png"))
            if ".." in mask.parts or out not in mask.parents:
                raise DataError(
                    f"the mask of {photo.source} would not lie in {out}: give paths that are "
                    "relative to the folder of the table"
                )
            name = photo.image if isinstance(photo.image, str) else photo.key
            yield Target(name, photo.image, mask)
