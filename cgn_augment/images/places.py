"""Reads what a user writes for the place of images, and lists the images there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import find_images
from cgn_augment.images.folders import read_folder, split_folders
from cgn_augment.images.hugging_face import HUGGING_FACE
from cgn_augment.images.image_table import ALL, GROUP, ImageTable, choose_split, order_splits
from cgn_augment.images.imagenet9 import read_imagenet9
from cgn_augment.images.listed import TABLE, Columns, parse_table, read_listed
from cgn_augment.images.spawrious import read_spawrious
from cgn_augment.images.tables import SUFFIXES as TABLES
from cgn_augment.images.urbancars import read_urbancars
from cgn_augment.images.waterbirds import read_waterbirds

PLACES = (
    "a folder with one folder of images for each class, waterbirds:PATH, spawrious:PATH@BENCHMARK, "
    "urbancars:PATH, in9:PATH@VARIANT, or table:FILE.csv"
)

_LAYOUTS: dict[str, Callable[[Path, str], ImageTable]] = {
    "waterbirds": read_waterbirds,
    "spawrious": read_spawrious,
    "urbancars": read_urbancars,
    "in9": read_imagenet9,
}


def is_listed(place: str) -> bool:
    """Returns whether the images of a place are known before any is read.

    Args:
        place: what the user wrote.

    Examples:
        >>> from cgn_augment.images.places import is_listed
        >>> is_listed("table:photos.csv"), is_listed("hf:cifar10@train")
        (True, False)
    """
    if layout_of(place) or place.startswith(TABLE):
        return True
    return not (place.startswith(HUGGING_FACE) or place.endswith(".tar"))


def read_place(
    place: str,
    *,
    split: str | None = None,
    classes: tuple[str, ...] | None = None,
    columns: Columns | None = None,
    further: tuple[str, ...] = (),
) -> ImageTable:
    """Lists the images at a place, with the facts about each.

    Args:
        place: a folder with one folder of images per class, or with such a folder per split; a
            layout, `waterbirds:PATH`, `waterbirds:PATH@100`, `spawrious:PATH@o2o_easy` (or another
            of its six benchmarks), `urbancars:PATH`, `in9:PATH`, `in9:PATH@mixed_rand`;
            `table:FILE`, or a path ending in .csv, .tsv or .jsonl, which may name its columns, as
            in `photos.csv?path=file&label=y`.
        split: train, val or test; `all`; None takes the training split, or the only split.
        classes: names by label, if a table does not say.
        columns: columns of a table, if the place does not name them.
        further: further columns to keep.

    Raises:
        ArgumentError: a value does not fit these images.
        DataError: there are no images, they are laid out differently, or files listed in a table or
            layout are missing.

    Examples:
        >>> from PIL import Image
        >>> from cgn_augment.images.places import read_place
        >>> folder = getfixture("tmp_path")
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(folder / name / "1.jpg")
        >>> table = read_place(str(folder))
        >>> table.files, table.classes
        (('cat/1.jpg', 'dog/1.jpg'), ('cat', 'dog'))
    """
    if not is_listed(place):
        raise ArgumentError(f"{place} does not list its images: give {PLACES}")
    if is_table(place):
        table = _read_table(place, classes, columns, further).of_split(split)
    elif layout_of(place):
        table = _read_layout(place).of_split(split)
    else:
        return _keep(read_folder(_folder(place), split), further)
    table.require_files()
    return _keep(table, further)


def find_files(place: str, split: str | None = None, least: int = 1) -> tuple[Path, list[str]]:
    """Finds the images of a place, whatever their classes.

    Args:
        place: as for `read_place`, or a folder with images, in subfolders or not.
        split: as for `read_place`.
        least: least number of images.

    Returns:
        Their folder, and their paths below it (sorted for a folder); images elsewhere as absolute
        paths or URLs.

    Raises:
        ArgumentError: as for `read_place`.
        DataError: as for `read_place`, or there are too few images.

    Examples:
        >>> from PIL import Image
        >>> from cgn_augment.images.places import find_files
        >>> folder = getfixture("tmp_path")
        >>> Image.new("RGB", (8, 8)).save(folder / "1.jpg")
        >>> find_files(str(folder))[1]
        ['1.jpg']
    """
    if is_table(place) or layout_of(place):
        table = read_place(place, split=split)
        if len(table) < least:
            raise DataError(f"{place} has {len(table)} images, and {least} or more are needed")
        return table.root, list(table.files)
    root = _folder(place)
    folders = split_folders(root)
    wanted = choose_split(place, folders, split)
    chosen = [folder for name, folder in folders.items() if wanted in (name, ALL)] or [""]
    found = [path for folder in chosen for path in find_images(root / folder, least)]
    return root, [str(path).removeprefix(f"{root}/") for path in found]


def find_splits(place: str) -> tuple[str, ...]:
    """Returns the splits of a place, train, val and test first; empty if it has none.

    Shards and Hugging Face datasets have none here: each of their places is one split.

    Args:
        place: what the user wrote.

    Raises:
        ArgumentError: as for `read_place`.
        DataError: as for `read_place`.
    """
    if not is_listed(place):
        return ()
    if is_table(place):
        return _read_table(place).split_names
    if layout_of(place):
        return _read_layout(place).split_names
    return order_splits(split_folders(_folder(place)))


def layout_of(place: str) -> str:
    """Returns the layout that a place names, such as waterbirds; "" if it names none.

    Args:
        place: what the user wrote.

    Examples:
        >>> from cgn_augment.images.places import layout_of
        >>> layout_of("in9:bg_challenge@mixed_rand"), layout_of("photos")
        ('in9', '')
    """
    name, colon, _ = place.partition(":")
    return name if colon and name in _LAYOUTS else ""


def _read_layout(place: str) -> ImageTable:
    layout, _, rest = place.partition(":")
    return _LAYOUTS[layout](*_split_variant(rest))


def _read_table(
    place: str,
    classes: tuple[str, ...] | None = None,
    columns: Columns | None = None,
    further: tuple[str, ...] = (),
) -> ImageTable:
    path, named = parse_table(place.removeprefix(TABLE))
    given = {name: column for name, column in vars(named).items() if column is not None}
    return read_listed(
        path, replace(columns or Columns(), **given), classes=classes, further=further
    )


def is_folder(place: str) -> bool:
    """Returns whether a place is a folder, and not a table, a layout, shards or `hf:`.

    Args:
        place: what the user wrote.
    """
    return is_listed(place) and not is_table(place) and not layout_of(place)


def is_table(place: str) -> bool:
    """Returns whether a place is a table: `table:FILE`, or a path with a table's suffix.

    Args:
        place: what the user wrote.
    """
    return place.startswith(TABLE) or place.partition("?")[0].endswith(TABLES)


def _folder(place: str) -> Path:
    """Returns the folder of a place; raises `ArgumentError` for an unknown layout."""
    folder = Path(place).expanduser()
    name, colon, _ = place.partition(":")
    if colon and name.isalnum() and not folder.is_dir():
        raise DataError(
            f"there is no folder {place}, nor a layout {name!r}: give {PLACES}; shards (.tar) or "
            f"{HUGGING_FACE}NAME@SPLIT where those are taken"
        )
    return folder


def _split_variant(rest: str) -> tuple[Path, str]:
    """Splits PATH@VARIANT; an @ in a parent folder does not count."""
    path, _, variant = rest.rpartition("@")
    if not path or "/" in variant:
        return Path(rest).expanduser(), ""
    return Path(path).expanduser(), variant


def _keep(table: ImageTable, further: tuple[str, ...]) -> ImageTable:
    """Returns the images with these columns, and with their groups."""
    lost = [name for name in further if name not in table.columns]
    if lost:
        has = f"has the columns {', '.join(table.columns)}" if table.columns else "has no columns"
        raise ArgumentError(f"{table.place} {has}: leave --columns out, or name one of them")
    kept = [name for name in table.columns if name in further or name == GROUP]
    return replace(table, columns={name: table.columns[name] for name in kept})
