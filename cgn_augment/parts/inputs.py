"""The images that are taken apart, and their masks: which there are, before any is read.

Every kind of input becomes `Photos`: a number of shards, and the photos of each in an order that is
the same whoever reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import CLASS_LAYOUT, find_labelled_images, name_some
from cgn_augment.images.reading import Encoded
from cgn_augment.parts.config import PartConfig

ALPHA = "alpha"
COLUMN, MEMBER = "column:", "member:"
ALL = "all"

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Photo(NamedTuple):
    """An image and its mask, both unread.

    Attributes:
        key: names the image in its set.
        label: its class.
        source: where it comes from, below the place of all images.
        image: its file.
        mask: its file; None where there is none, or where the alpha channel is the mask.
        columns: what else is known of it.
    """

    key: str
    label: str
    source: str
    image: Encoded
    mask: Encoded | None
    columns: dict[str, str]


class Photos(Protocol):
    """The images of a set, dealt out to shards."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""

    @property
    def digest(self) -> str:
        """A hash of which images there are."""

    @property
    def num_shards(self) -> int:
        """Shards that they are dealt out to."""

    def count(self, shards: Sequence[int]) -> int | None:
        """Returns how many images these shards hold, where it is known."""

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""

    def require_keys(self, keys: Iterable[str]) -> None:
        """Refuses keys that no image has, where the keys are known."""


@dataclass(frozen=True)
class ListedPhotos:
    """Photos that are known one by one before they are read.

    Attributes:
        classes: names by label.
        photos: all of them.
        shard_size: images of a shard; the last may have fewer.
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
        """Shards that they are dealt out to."""
        return -(-len(self.photos) // self.shard_size)

    def count(self, shards: Sequence[int]) -> int:
        """Returns how many images these shards hold."""
        return sum(len(self._range(shard)) for shard in shards)

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""
        places = self._range(shard)
        return iter(self.photos[places.start : places.stop])

    def require_keys(self, keys: Iterable[str]) -> None:
        """Refuses keys that no image has."""
        foreign = sorted(set(keys) - self._keys)
        if foreign:
            raise ArgumentError(
                f"{len(foreign)} keys to exclude are of no image here ({name_some(foreign)}): a "
                f"key is like {self.photos[0].key!r}"
            )

    def _range(self, shard: int) -> range:
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.photos)))


def photos_of_folder(root: Path, config: PartConfig) -> ListedPhotos:
    """Finds the images of a folder of class folders, or of one such folder for each split.

    Raises:
        DataError: there are none, or no mask belongs to any of them.
    """
    root = root.expanduser()
    classes: tuple[str, ...] | None = None
    photos = []
    for split in splits_of(root, config):
        found = find_labelled_images(root / split)
        if classes not in (None, found.classes):
            raise DataError(f"{root / split} has other classes than the other splits")
        classes = found.classes
        for path, label in zip(found.paths, found.labels, strict=True):
            source = path.relative_to(root).as_posix()
            mask = _mask_of(config.masks, root, split, source)
            key = source.rpartition(".")[0]
            photos.append(Photo(key, classes[label], source, str(path), mask, {}))
    if config.class_names not in (None, classes):
        raise ArgumentError(f"{root} says itself which classes it has: leave --classes out")
    if config.columns:
        raise ArgumentError(f"{root} is a folder, which has no columns: leave --columns out")
    require_some_mask(photos, config.masks)
    return ListedPhotos(classes or (), photos, config.shard_size)


def mirrored(masks: str, source: str) -> str:
    """Returns the path of the mask of an image at `source`, in a folder that mirrors the images.

    Example:
        >>> from cgn_augment.parts.inputs import mirrored
        >>> mirrored("masks", "cat/1.jpg")
        'masks/cat/1.png'
    """
    return str(Path(masks).expanduser() / f"{source.rpartition('.')[0] or source}.png")


def require_some_mask(photos: Sequence[Photo], masks: str) -> None:
    """Refuses masks in a folder of which none belongs to an image."""
    if masks == ALPHA:
        return
    require_mask_folder(masks)
    files = [photo.mask for photo in photos if isinstance(photo.mask, str)]
    if files and not any("://" in file or Path(file).is_file() for file in files):
        raise DataError(
            f"none of {len(photos)} images has a mask: {photos[0].source} would have {files[0]}"
        )


def require_mask_folder(masks: str) -> None:
    """Raises where masks lie in a folder and there is none."""
    if masks == ALPHA or masks.startswith((COLUMN, MEMBER)):
        return
    if not Path(masks).expanduser().is_dir():
        raise DataError(
            f"there is no folder {masks} of masks. --masks is a folder that mirrors the images, "
            f"{MEMBER}NAME of shards, {COLUMN}NAME of a table or of hf:, or {ALPHA}"
        )


def refuse_masks(masks: str, kinds: str, what: str) -> None:
    """Raises for masks of a kind that these images cannot have."""
    raise ArgumentError(f"masks of {what} are {kinds}, got {masks!r}")


def _mask_of(masks: str, root: Path, split: str, source: str) -> str | None:
    if masks == ALPHA:
        return None
    if masks.startswith((COLUMN, MEMBER)):
        refuse_masks(masks, f"a folder that mirrors it, or {ALPHA}", f"the folder {root}")
    inner = source.removeprefix(f"{split}/") if split else source
    # Masks of a data set with splits mirror it as a whole, or the split alone.
    whole = bool(split) and (Path(masks).expanduser() / split).is_dir()
    return mirrored(masks, source if whole else inner)


def splits_of(root: Path, config: PartConfig) -> list[str]:
    """Returns the folders of splits to read; an empty name where there are none."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root} of images. Expected:{CLASS_LAYOUT}")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    there = [name for name in names if any(path.is_dir() for path in (root / name).iterdir())]
    if set(there) & _SPLITS and not set(names) <= _SPLITS:
        split = sorted(set(there) & _SPLITS)[-1]
        raise DataError(
            f"{root} has the folder {split}, which has folders itself, beside {name_some(names)}: "
            f"give the folder of a split, such as {root / split}"
        )
    if not names or not set(names) <= _SPLITS or there != names:
        if config.split not in ("train", ALL):
            raise ArgumentError(f"{root} has no splits: leave --split out")
        return [""]
    if config.split == ALL:
        return names
    if config.split not in names:
        raise DataError(f"{root} has the splits {names}: say which with --split, or {ALL}")
    return [config.split]
