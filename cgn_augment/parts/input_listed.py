"""The images of a folder, a table or a benchmark's layout, to be taken apart."""

from __future__ import annotations

from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.image_table import SPLIT_NAMES, ImageTable, below
from cgn_augment.images.listed import Columns
from cgn_augment.images.places import is_table, read_place
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import (
    ALPHA,
    COLUMN,
    MEMBER,
    NO_MASKS,
    NONE,
    OWN,
    ListedPhotos,
    Photo,
    mirrored,
    refuse_masks,
    require_some_mask,
    without_suffix,
)

_OUTER = SPLIT_NAMES | {"images"}  # folders around those of the classes


def photos_of_place(place: str, config: PartConfig) -> ListedPhotos:
    """Finds the images of a folder, a table or a benchmark's layout.

    Raises:
        ArgumentError: settings do not fit these images.
        DataError: there are no images, or none of them has a mask.
    """
    column = config.masks.removeprefix(COLUMN) if config.masks.startswith(COLUMN) else None
    columns = None if column is None else Columns(mask=column)
    if column is not None and not is_table(place):
        refuse_masks(config.masks, f"a folder that mirrors it, or {ALPHA}", place)
    if config.masks.startswith(MEMBER):
        refuse_masks(config.masks, f"{COLUMN}NAME, a folder, or {ALPHA}", place)
    table = read_place(
        place,
        split=config.split,
        classes=config.class_names,
        columns=columns,
        further=config.columns,
    )
    if config.class_names not in (None, table.classes):
        raise ArgumentError(f"{place} says itself which classes it has: leave --classes out")
    photos = [
        Photo(
            key=without_suffix(file),
            label=table.classes[table.labels[number]],
            source=file,
            image=below(table.root, file),
            mask=mask,
            columns={name: values[number] for name, values in table.columns.items()},
        )
        for number, (file, mask) in enumerate(zip(table.files, _masks(table, config), strict=True))
    ]
    require_some_mask(photos, COLUMN if config.masks == OWN else config.masks)
    return ListedPhotos(table.classes, photos, config.shard_size)


def _masks(table: ImageTable, config: PartConfig) -> list[str | None]:
    """Returns the path of each image's mask; None for the alpha channel."""
    if config.masks == ALPHA:
        return [None] * len(table)
    if config.masks == OWN or config.masks.startswith(COLUMN):
        if table.mask_paths is None:
            raise ArgumentError(f"{table.place} comes without masks: {NO_MASKS}")
        return [path or NONE for path in table.mask_paths]
    folder = Path(config.masks).expanduser()
    outer: dict[str, bool] = {}
    found: list[str | None] = []
    for file in table.files:
        if "://" in file or Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError(
                f"no folder of masks can mirror {file}, which does not lie below {table.root}: "
                f"name the masks in the table, with --masks {COLUMN}NAME"
            )
        top, slash, inner = file.partition("/")
        if top not in outer:  # masks mirror all images, or the content of one folder of them
            outer[top] = not slash or top not in _OUTER or (folder / top).is_dir()
        found.append(mirrored(config.masks, file if outer[top] else inner))
    return found
