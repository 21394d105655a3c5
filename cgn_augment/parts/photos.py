"""Finds the images to be taken apart, whatever they lie in."""

from __future__ import annotations

import json
from pathlib import Path

from cgn_augment.errors import DataError
from cgn_augment.images.hugging_face import HUGGING_FACE
from cgn_augment.images.tables import SUFFIXES as TABLES
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.input_shards import photos_of_shards
from cgn_augment.parts.input_tables import photos_of_hugging_face, photos_of_table
from cgn_augment.parts.inputs import Photos, photos_of_folder

TABLE = "table:"


def find_photos(images: str, config: PartConfig) -> Photos:
    """Finds out what kind of images there are at a place, and which.

    Args:
        images: a folder with one folder of images for each class; shards, as a path or URL ending
            in .tar, where braces stand for several; `hf:NAME@SPLIT`; or a table, as a path ending
            in .csv, .tsv or .jsonl, or `table:FILE`.
        config: where their masks are.

    Raises:
        ArgumentError: settings that do not fit these images.
        DataError: there are no images, or they are laid out differently.
    """
    table = images.removeprefix(TABLE)
    if images.startswith(HUGGING_FACE):
        return photos_of_hugging_face(images.removeprefix(HUGGING_FACE), config)
    if images != table or table.endswith(TABLES):
        return photos_of_table(Path(table), config)
    if images.endswith(".tar"):
        return photos_of_shards(images, config)
    return photos_of_folder(Path(images), config)


def read_keys(path: Path) -> list[str]:
    """Reads keys from a file: one on each line, or JSON lines with a `key`.

    Raises:
        DataError: there is no such file, or a line has no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [json.loads(line)["key"] if line[0] == "{" else line for line in lines if line]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a list of keys ({error})") from error
