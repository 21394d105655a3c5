"""The images to take apart and their masks, listed before any is read.

Every kind of input becomes `Photos`: a number of shards, and the photos of each in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import is_file
from cgn_augment.images.finding import name_some
from cgn_augment.images.reading import Encoded

ALPHA = "alpha"
OWN = "own"
NONE = ""
"""Stands for the missing mask of an image."""

COLUMN, MEMBER = "column:", "member:"
NO_MASKS = (
    f"say where the masks are: --masks FOLDER that mirrors the images, {MEMBER}NAME of shards, "
    f"{COLUMN}NAME of a table or of hf:, or {ALPHA}"
)


class Photo(NamedTuple):
    """An image and its mask, both unread.

    Attributes:
        key: name of the image in its set.
        label: its class.
        source: its path below the place of all images.
        image: its file.
        mask: file of the mask; `NONE` if it is missing; None if the alpha channel is the mask.
        columns: further facts about it.
    """

    key: str
    label: str
    source: str
    image: Encoded
    mask: Encoded | None
    columns: dict[str, str]


class Photos(Protocol):
    """The images of a set, divided into shards."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""

    @property
    def digest(self) -> str:
        """A hash that identifies the images."""

    @property
    def num_shards(self) -> int:
        """Number of shards that they are divided into."""

    def count(self, shards: Sequence[int]) -> int | None:
        """Returns the number of images in these shards, or None if unknown."""

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""

    def require_keys(self, keys: Iterable[str]) -> None:
        """Raises `DataError` for keys that no image has, if the keys are known."""


@dataclass(frozen=True)
class ListedPhotos:
    """Photos that are all known before they are read.

    Attributes:
        classes: names by label.
        photos: all of them.
        shard_size: images per shard; the last may have fewer.
    """

    classes: tuple[str, ...]
    photos: Sequence[Photo]
    shard_size: int
    _keys: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        keys: set[str] = set()
        for photo in self.photos:
            if photo.key in keys:
                raise DataError(
                    f"two images have the key {photo.key!r}, one of them {photo.source}: rename "
                    "one, since keys name the images in the set"
                )
            keys.add(photo.key)
        object.__setattr__(self, "_keys", frozenset(keys))

    @property
    def digest(self) -> str:
        """A hash of keys, labels and columns."""
        found = hashlib.sha256()
        for photo in self.photos:
            facts = [photo.key, photo.label, photo.source, photo.columns]
            found.update(json.dumps(facts).encode())
        return found.hexdigest()

    @property
    def num_shards(self) -> int:
        """Number of shards that they are divided into."""
        return -(-len(self.photos) // self.shard_size)

    def count(self, shards: Sequence[int]) -> int:
        """Returns the number of images in these shards."""
        return sum(len(self._range(shard)) for shard in shards)

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""
        places = self._range(shard)
        return iter(self.photos[places.start : places.stop])

    def require_keys(self, keys: Iterable[str]) -> None:
        """Raises `DataError` for keys that no image has."""
        foreign = sorted(set(keys) - self._keys)
        if foreign:
            raise ArgumentError(
                f"{len(foreign)} keys to exclude are of no image here ({name_some(foreign)}): a "
                f"key is like {self.photos[0].key!r}"
            )

    def _range(self, shard: int) -> range:
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.photos)))


def mirrored(masks: str, source: str) -> str:
    """Returns the path of the mask of an image at `source`, in a folder that mirrors the images.

    Examples:
        >>> from cgn_augment.parts.inputs import mirrored
        >>> mirrored("masks", "cat/1.jpg")
        'masks/cat/1.png'
    """
    return str(Path(masks).expanduser() / f"{without_suffix(source)}.png")


def without_suffix(path: str) -> str:
    """Returns a path or URL without the suffix of its last part.

    Examples:
        >>> from cgn_augment.parts.inputs import without_suffix
        >>> without_suffix("cat/1.jpg"), without_suffix("cat.v2/1")
        ('cat/1', 'cat.v2/1')
    """
    return path.removesuffix(Path(path).suffix)


def require_some_mask(photos: Sequence[Photo], masks: str) -> None:
    """Raises `DataError` if no image has a mask in the folder."""
    if masks == ALPHA:
        return
    require_mask_folder(masks)
    files = [photo.mask for photo in photos if isinstance(photo.mask, str)]
    if files and not any("://" in file or is_file(file) for file in files):
        raise DataError(
            f"none of {len(photos)} images has a mask: {photos[0].source} would have {files[0]}"
        )


def require_mask_folder(masks: str) -> None:
    """Raises `DataError` if masks are in a folder that is missing."""
    if masks == ALPHA or masks.startswith((COLUMN, MEMBER)):
        return
    if not Path(masks).expanduser().is_dir():
        raise DataError(
            f"there is no folder {masks} of masks. --masks is a folder that mirrors the images, "
            f"{MEMBER}NAME of shards, {COLUMN}NAME of a table or of hf:, or {ALPHA}"
        )


def refuse_masks(masks: str, kinds: str, what: str) -> None:
    """Raises `ArgumentError` for masks of a kind that these images cannot have."""
    raise ArgumentError(f"masks of {what} are {kinds}, got {masks!r}")
