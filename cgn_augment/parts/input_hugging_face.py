"""The images of a Hugging Face dataset, to be taken apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cgn_augment.errors import ArgumentError
from cgn_augment.images.finding import name_some
from cgn_augment.images.hugging_face import HuggingFaceRows, contents_of, open_hugging_face
from cgn_augment.images.reading import Encoded
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import (
    ALPHA,
    COLUMN,
    MEMBER,
    NONE,
    Photo,
    mirrored,
    refuse_masks,
    require_mask_folder,
)


@dataclass(frozen=True)
class HuggingFacePhotos:
    """The rows of a Hugging Face dataset; the key of a row is its number.

    Attributes:
        found: the rows, with images as files.
        mask: column of the masks; None if they lie elsewhere.
        config: settings of the set.
    """

    found: HuggingFaceRows
    mask: str | None
    config: PartConfig

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""
        return self.found.classes

    @property
    def digest(self) -> str:
        """A hash of the labels, in order."""
        labels = self.found.rows[self.found.label]
        facts = [len(self.found.rows), list(labels), list(self.classes)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Number of shards that they are divided into."""
        return -(-len(self.found.rows) // self.config.shard_size)

    def count(self, shards: Sequence[int]) -> int:
        """Returns the number of images in these shards."""
        return sum(len(self._range(shard)) for shard in shards)

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""
        for number in self._range(shard):
            row = self.found.rows[number]
            label, image = self.found.label_of(row, number), self.found.file_of(row, number)
            key, source = f"{number:09d}", f"row {number}"
            mask: Encoded | None = None
            if self.mask is not None:
                mask = contents_of(row[self.mask]) or NONE
            elif self.config.masks != ALPHA:
                mask = mirrored(self.config.masks, f"{key}.png")
            columns = {name: str(row[name]) for name in self.config.columns}
            yield Photo(key, self.classes[label], source, image, mask, columns)

    def require_keys(self, keys: Iterable[str]) -> None:
        """Refuses keys that no row has."""
        known = {f"{number:09d}" for number in range(len(self.found.rows))}
        foreign = sorted(set(keys) - known)
        if foreign:
            raise ArgumentError(
                f"{len(foreign)} keys to exclude are of no row ({name_some(foreign)}): a key is "
                "like 000000012"
            )

    def _range(self, shard: int) -> range:
        first = shard * self.config.shard_size
        return range(first, min(first + self.config.shard_size, len(self.found.rows)))


def photos_of_hugging_face(name: str, config: PartConfig) -> HuggingFacePhotos:
    """Opens a Hugging Face dataset; takes the training split unless NAME gives another.

    Raises:
        ArgumentError: the dataset has no masks of this kind.
        DataError: the dataset does not exist or has other columns, or the folder of masks is
            missing.
    """
    mask = config.masks.removeprefix(COLUMN) if config.masks.startswith(COLUMN) else None
    if config.masks.startswith(MEMBER):
        refuse_masks(config.masks, f"{COLUMN}NAME, a folder, or {ALPHA}", f"hf:{name}")
    require_mask_folder(config.masks)
    if "@" in name and config.split != "train":
        raise ArgumentError(f"hf:{name} says itself which split: leave --split out")
    without = [] if mask is None else [mask]
    place = name if "@" in name else f"{name}@{config.split}"
    found = open_hugging_face(place, config.class_names, without)
    if config.class_names not in (None, found.classes):
        raise ArgumentError(f"hf:{name} says itself which classes it has: leave --classes out")
    lost = [column for column in config.columns if column not in found.rows.features]
    if lost:
        raise ArgumentError(f"hf:{name} has no column {lost[0]!r}")
    return HuggingFacePhotos(found.undecoded(found.image, *without), mask, config)
