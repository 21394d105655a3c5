"""Finds the images to take apart, for any kind of input."""

from __future__ import annotations

from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import first_line, parse_json
from cgn_augment.images.hugging_face import HUGGING_FACE
from cgn_augment.images.places import is_listed
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.input_hugging_face import photos_of_hugging_face
from cgn_augment.parts.input_listed import photos_of_place
from cgn_augment.parts.input_shards import photos_of_shards
from cgn_augment.parts.inputs import NO_MASKS, OWN, Photos


def find_photos(images: str, config: PartConfig) -> Photos:
    """Finds the images at a place, whatever their kind.

    Args:
        images: a folder with one folder of images per class, a table, or a benchmark's layout (see
            `read_place`); shards, as a path or URL ending in .tar, where braces stand for several;
            or `hf:NAME@SPLIT`.
        config: where their masks are.

    Raises:
        ArgumentError: settings do not fit these images.
        DataError: there are no images, or they are laid out differently.
    """
    if is_listed(images):
        return photos_of_place(images, config)
    if config.masks == OWN:
        raise ArgumentError(NO_MASKS)
    if images.startswith(HUGGING_FACE):
        return photos_of_hugging_face(images.removeprefix(HUGGING_FACE), config)
    return photos_of_shards(images, config)


def require_beside(out: str, images: str, config: PartConfig) -> None:
    """Raises `ArgumentError` if a set would be written among its own images or masks.

    Its files would be taken for a class the next time.
    """
    if "://" in out:
        return
    target = Path(out).expanduser().resolve()
    for what, place in (("images", images), ("masks", config.masks)):
        folder = Path(place).expanduser().resolve()
        if folder.is_dir() and (target == folder or folder in target.parents):
            raise ArgumentError(
                f"{out} lies in {place}, the folder of {what}, where parts would be taken for "
                f"{what}: give a folder beside it"
            )


def read_keys(path: Path) -> list[str]:
    """Reads keys from a file: one on each line, or JSON lines with a `key`.

    Raises:
        DataError: the file does not exist, or a line has no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        keys = [parse_json(line)["key"] if line[0] == "{" else line for line in lines if line]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key is no text")
        return keys
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise DataError(f"{path} cannot be read as a list of keys ({reason})") from error
