"""The images of WebDataset shards, to be taken apart: each shard becomes a shard of parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from cgn_augment.errors import ArgumentError, DataError, FileError
from cgn_augment.files import first_line, parse_json
from cgn_augment.images.reading import Encoded
from cgn_augment.images.shards import SUFFIXES
from cgn_augment.images.tables import number_in
from cgn_augment.images.tar import Sample, expand_urls, read_shard
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
class ShardPhotos:
    """The samples of shards, in order. A key is the shard's name plus the sample's key.

    Attributes:
        urls: paths or URLs of the shards.
        classes: names by label.
        masks: a folder, `member:NAME`, or `alpha`.
        columns: entries of the member json to keep.
    """

    urls: tuple[str, ...]
    classes: tuple[str, ...]
    masks: str
    columns: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A hash of the names of shards and classes."""
        names = [url.rpartition("/")[2] for url in self.urls]
        return hashlib.sha256(json.dumps([names, self.classes]).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Number of shards; each input shard makes one."""
        return len(self.urls)

    def count(self, shards: Sequence[int]) -> int | None:
        """Returns 0 for no shards, else None: the content of a tar is unknown until it is read."""
        return None if shards else 0

    def of_shard(self, shard: int) -> Iterator[Photo]:
        """Yields the images of a shard, in order."""
        url = self.urls[shard]
        stem, seen = url.rpartition("/")[2].removesuffix(".tar"), set()
        for sample in _read(url):
            key = f"{stem}/{sample['__key__']}"
            if ".." in Path(key).parts:  # its mask would lie elsewhere
                raise DataError(f"{url} has a sample of the key {sample['__key__']!r}: rename it")
            if key in seen:
                raise DataError(f"{url} has two samples of the key {sample['__key__']!r}")
            seen.add(key)
            yield self._photo(key, sample, url)
        if not seen:
            raise DataError(f"{url} has no sample")

    def require_keys(self, keys: Iterable[str]) -> None:
        """Accepts any key: the existing keys are unknown until the shards are read."""

    def _photo(self, key: str, sample: Sample, url: str) -> Photo:
        kind = next((suffix for suffix in SUFFIXES if suffix in sample), None)
        if kind is None or "cls" not in sample:
            has = sorted(name for name in sample if not name.startswith("__"))
            raise DataError(
                f"{url}, sample {key} has {has}: expected an image (.jpg, .png, .webp) and .cls"
            )
        cell = sample["cls"].decode(errors="replace")
        label = number_in(cell, len(self.classes))
        if label is None:
            raise DataError(
                f"{url}, sample {key} has the label {shorten(repr(cell.strip()), 90)}, and there "
                f"are {len(self.classes)} classes, counted from 0"
            )
        mask: Encoded | None = None
        if self.masks.startswith(MEMBER):
            mask = sample.get(self.masks.removeprefix(MEMBER), NONE)
        elif self.masks != ALPHA:
            mask = mirrored(self.masks, f"{key}.{kind}")
        columns = self._columns_of(sample, f"{url}, sample {key}")
        return Photo(key, self.classes[label], f"{key}.{kind}", sample[kind], mask, columns)

    def _columns_of(self, sample: Sample, where: str) -> dict[str, str]:
        if not self.columns:
            return {}
        try:
            facts = dict(parse_json(sample.get("json", b"{}")))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{where} has a json that cannot be read ({first_line(error)}): make it again, or "
                "leave --columns out"
            ) from error
        lost = [name for name in self.columns if name not in facts]
        if lost:
            raise DataError(f"{where} has no {lost[0]!r} in its json")
        return {name: str(facts[name]) for name in self.columns}


def _read(url: str) -> Iterator[Sample]:
    try:
        yield from read_shard(url)
    except FileError:  # a server failed; the shard is not damaged
        raise
    except Exception as error:  # damaged bytes make the readers raise anything
        raise DataError(f"{url} cannot be read ({first_line(error)}): make it again") from error


def photos_of_shards(urls: str, config: PartConfig) -> ShardPhotos:
    """Opens shards, named by a path or URL that ends in .tar; braces stand for several.

    Raises:
        ArgumentError: classes are missing, or shards do not have masks of this kind.
        DataError: a shard or the folder of masks is missing, or two shards have the same name.
    """
    if config.class_names is None:
        raise ArgumentError(
            "shards do not say which classes there are: pass --classes '[cat, …]' or their number"
        )
    if config.split != "train":
        raise ArgumentError(f"{urls} are shards, which have no splits: leave --split out")
    if config.masks.startswith(COLUMN):
        refuse_masks(config.masks, f"{MEMBER}NAME, a folder, or {ALPHA}", urls)
    require_mask_folder(config.masks)
    shards = tuple(expand_urls(urls))
    lost = [shard for shard in shards if ":" not in shard and not Path(shard).is_file()]
    if lost:
        raise DataError(f"there is no shard {lost[0]}: {len(lost)} of {len(shards)} are missing")
    names = [shard.rpartition("/")[2] for shard in shards]
    if len(set(names)) < len(names):
        raise DataError(f"two of the shards {urls} have the same name: keys would be ambiguous")
    return ShardPhotos(shards, config.class_names, config.masks, config.columns)
