"""A set of parts on disk or in an object store, read part by part."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError, DataError, FileError
from cgn_augment.files import first_line
from cgn_augment.parts.index import INDEX, MEMBERS, SMALL, Index, Member, Numbers, read_index
from cgn_augment.parts.part import Part
from cgn_augment.shards.layout import MANIFEST, PARTS
from cgn_augment.shards.manifest import Manifest, read_begun, read_manifest, to_json
from cgn_augment.shards.store import Store

_LONGEST_LINE = 2**20  # bytes; the facts about an image are far shorter
_FORMATS = "WEBP", "JPEG", "PNG"
_MODES = {"object": "RGBA", "mask": "L"}  # the others are RGB


@dataclass(frozen=True, eq=False)
class PartSet:
    """A set of parts that `cgn-augment parts` wrote; any part can be read at any time.

    No file stays open, so a set can be used in forks, in threads and, pickled, in the workers of a
    loader. The index is in memory; pictures are read on demand.

    Attributes:
        store: where the files are.
        manifest: settings, versions and shards of the set.
        index: facts about each image.
        classes: names by label.

    Examples:
        >>> from cgn_augment.parts.set import PartSet
        >>> folder = getfixture("parts_folder")           # the set of the example of `write_parts`
        >>> parts = PartSet.open(folder)
        >>> parts.of_class("cat", "object").tolist(), parts.counts
        ([0], {'usable': 2})
        >>> parts.read(0).background.shape
        torch.Size([3, 48, 64])
    """

    store: Store
    manifest: Manifest
    index: Index
    classes: tuple[str, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, complete: bool = True) -> PartSet:
        """Opens a set.

        Args:
            path: its folder, or a URL that fsspec knows.
            complete: whether every shard must exist; otherwise the existing ones are read.

        Raises:
            DataError: there is no set of parts, it is incomplete, or its index is damaged.
        """
        store = Store(path)
        if complete and MANIFEST not in store.sizes([MANIFEST]):
            raise DataError(
                f"{store.url} holds no complete set of parts: give the folder or URL that "
                "'cgn-augment parts' wrote to, or complete the set with --resume"
            )
        manifest = read_manifest(store, PARTS) if complete else read_begun(store, PARTS)
        classes = tuple(manifest.settings["classes"])
        shards = [PARTS.shard_number(record.name) for record in manifest.shards]
        pieces = [PARTS.record_name(shard, "jsonl") for shard in shards]
        try:
            with closing(_lines(store, [INDEX] if complete else pieces)) as lines:
                total = manifest.num_samples
                bar = tqdm(lines, "reading the index", total, unit="image", delay=2, disable=None)
                with bar:
                    index = read_index(bar, classes)
        except FileError:  # a server failed; the set is not damaged
            raise
        except Exception as error:  # damaged lines make the reader raise anything
            raise DataError(
                f"{store.path(INDEX)} cannot be read ({first_line(error)}): write the set again"
            ) from error
        if len(index) != manifest.num_samples:
            raise DataError(
                f"{store.path(INDEX)} lists {len(index)} images and the shards hold "
                f"{manifest.num_samples}: write the set again"
            )
        return cls(store, manifest, index, classes)

    def __len__(self) -> int:
        """Number of images of the set, including those that are left out."""
        return len(self.index)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of images by verdict."""
        counts = np.bincount(self.index.verdicts, minlength=len(self.index.verdict_names))
        return dict(zip(self.index.verdict_names, counts.tolist(), strict=True))

    @cached_property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """For each class, the number of images by verdict."""
        names, table = self.index.verdict_names, np.zeros((len(self.classes), len(self.counts)))
        np.add.at(table, (self.index.labels, self.index.verdicts), 1)
        return {
            name: dict(zip(names, row, strict=True))
            for name, row in zip(self.classes, table.astype(int).tolist(), strict=True)
        }

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of everything that can be read."""
        facts: list[Any] = [self.manifest.settings, [r.sha256 for r in self.manifest.shards]]
        return hashlib.sha256(to_json(facts)).hexdigest()[:12]

    def of_class(self, name: str, member: Member | None = None) -> Numbers:
        """Returns the indices of the images of a class, in order, (N,) int64.

        Args:
            name: name of the class.
            member: "object", "background" or "foreground": only images that have one.

        Raises:
            ArgumentError: the class or member does not exist.
        """
        if name not in self.classes:
            raise ArgumentError(f"{self.store.url} has no class {name!r}: it has {self.classes}")
        chosen = self._by_class[self.classes.index(name)]
        if member is None:
            return chosen
        require_choice("member", member, tuple(MEMBERS))
        having: Numbers = chosen[self.index.places[member][chosen, 1] > 0]
        return having

    @cached_property
    def _by_class(self) -> list[Numbers]:
        """The indices of the images of each class; looked up once for a thousand classes."""
        labels = self.index.labels
        order = np.argsort(labels, kind="stable")
        ends = np.searchsorted(labels[order], np.arange(1, len(self.classes)))
        return np.split(order, ends)

    def entry(self, number: int) -> Part:
        """Returns the facts about an image, without its pictures.

        Args:
            number: index of the image.
        """
        index, number = self.index, range(len(self))[number]
        top, left, height, width = self.index.boxes[number].tolist()
        rows, columns = index.sizes[number].tolist()
        return Part(
            key=index.keys[number],
            label=self.classes[int(index.labels[number])],
            size=(rows, columns),
            box=(top, left, height, width),
            area=float(index.areas[number]),
            verdict=index.verdict_names[int(index.verdicts[number])],
            columns={name: values[number] for name, values in index.columns.items()},
        )

    def read(
        self,
        number: int,
        *,
        object: bool = True,  # noqa: A002 - named like the part's field
        background: bool = True,
        foreground: bool = False,
    ) -> Part:
        """Returns an image's parts, with the requested pictures that exist.

        Args:
            number: index of the image.
            object: whether to read the object.
            background: whether to read the background.
            foreground: whether to read the sheet of its texture.

        Raises:
            FileError: a shard is missing, truncated or damaged.
        """
        asked = {"object": object, "background": background, "foreground": foreground}
        members = [member for member, wanted in asked.items() if wanted]
        part = self.entry(number)
        pictures: Mapping[str, Any] = {member: self.picture(number, member) for member in members}
        return Part(**{**vars(part), **pictures})

    def picture(self, number: int, member: Member) -> Tensor | None:
        """Returns one picture of an image, (C, H, W) uint8, or None if it has none.

        Args:
            number: index of the image.
            member: "object", "background" or "foreground"; for an image that is left out a small
                "image" and its "mask".

        Raises:
            FileError: a shard is missing, truncated or damaged.
        """
        start, length = self.index.places[member][number].tolist()
        if length == 0:
            return None
        name = PARTS.shard_name(int(self.index.shards[number]))
        try:
            data = self.store.read_range(name, start, length)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                self._require_size(number, member, picture.size)
                mode = _MODES.get(member, "RGB")
                pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
        except Exception as error:  # damaged bytes make Pillow raise anything
            if isinstance(error, FileError) and not self.store.is_local:
                raise  # the server failed; the set is not damaged
            raise FileError(
                f"{self.store.path(name)}: the {member} of {self.index.keys[number]} cannot be "
                f"read ({first_line(error)}): 'cgn-augment parts verify' says what to write again"
            ) from error
        planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        return torch.from_numpy(planes.copy())  # NumPy transposes faster than torch

    def _require_size(self, number: int, member: Member, size: tuple[int, int]) -> None:
        """Raises, before decoding, if a picture has not the size given in the index."""
        if member in ("background", "foreground"):
            wanted = self.index.sizes[number].tolist()
        elif member == "object":
            wanted = self.index.boxes[number].tolist()[2:]
        elif max(size) > SMALL:
            raise DataError(f"it has {size[::-1]} pixels where at most {SMALL} a side belong")
        else:
            return
        if [*size[::-1]] != wanted:
            raise DataError(f"it has {size[::-1]} pixels where {tuple(wanted)} belong")


def _lines(store: Store, names: Sequence[str]) -> Generator[bytes, None, None]:
    for name in names:
        with store.open(name) as file:
            yield from iter(partial(file.readline, _LONGEST_LINE), b"")
