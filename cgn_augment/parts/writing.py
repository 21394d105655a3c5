"""Takes the images of a data set apart, into a set of shards: in one pass, on all cores.

Workers read, cut, fill and encode, an image at a time; this process writes what they made in its
order. A bounded number of images is under way, so memory does not grow with the set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from cgn_augment.checks import require_choices, require_count, require_counts, require_part
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.images.hugging_face import HUGGING_FACE
from cgn_augment.images.tables import SUFFIXES as TABLES
from cgn_augment.images.tar import Sample
from cgn_augment.masks.trust import VERDICTS, MaskGate
from cgn_augment.parts.fill import Filler, find_filler
from cgn_augment.parts.index import INDEX, MEMBERS, index_line
from cgn_augment.parts.input_shards import photos_of_shards
from cgn_augment.parts.input_tables import photos_of_hugging_face, photos_of_table
from cgn_augment.parts.inputs import InputConfig, Photo, Photos, photos_of_folder
from cgn_augment.parts.making import EXCLUDED, NO_MASK, OTHER_SIZE, UNREADABLE, Making
from cgn_augment.shards.layout import PARTS
from cgn_augment.shards.manifest import ClassCounts, Manifest, find_versions
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import write_set

LEFT_OUT = "left_out.jsonl"
TABLE = "table:"

ALL_VERDICTS = (*VERDICTS, UNREADABLE, NO_MASK, OTHER_SIZE, EXCLUDED)

_AHEAD = 8  # images of a worker that are under way
_SUFFIXES = {name: member for member, name in MEMBERS.items()}

Fill = Literal["copy", "telea", "none"]


@dataclass(frozen=True)
class PartConfig(InputConfig):
    """Settings of a set of parts. Two sets with the same settings and images are the same bytes.

    Attributes:
        masks: a folder of PNG files that mirrors the images; `member:mask.png`, a member of the
            samples of shards; `column:mask`, a column of a table or of a Hugging Face dataset; or
            `alpha`, the alpha channel of the images themselves.
        split: of images that come in splits; `all` for all of them.
        classes: names by label, where the images do not say.
        path: column of a table with the paths of the images.
        label: column of a table with the labels.
        columns: further columns to keep, such as a group.
        shard_size: images of a shard.
        size: bound of the longer side, in pixels; smaller images stay as they are.
        fill: how backgrounds are filled: with copies from the same image, by Telea's method
            (faster and smoother), or not at all.
        min_area: smallest share of an image that a mask may cover.
        max_area: largest share.
        min_confidence: of a soft mask, the least mean of |2m - 1| over its pixels m.
        max_hole: share of the image; a background with a larger hole is left out.
        textures: also make a whole sheet of each object's texture, to exchange textures.
        quality: of the backgrounds' JPEG, 1 to 100.
    """

    size: int = 512
    fill: Fill = "copy"
    min_area: float = MaskGate.min_area
    max_area: float = MaskGate.max_area
    min_confidence: float = MaskGate.min_confidence
    max_hole: float = 0.8
    textures: bool = False
    quality: int = 95

    def __post_init__(self) -> None:
        require_counts(self, "size", "shard_size", "quality")
        if self.quality > 100:
            raise ArgumentError(f"quality must be 1 to 100, got {self.quality}")
        require_choices(self, fill=Fill)
        require_part("max_hole", self.max_hole)
        for name in ("classes", "columns"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ArgumentTypeError(f"{name} must be a list of names, got {value!r}")
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ArgumentError(f"classes has a name twice: {list(self.classes)}")
        _ = self.gate

    @property
    def gate(self) -> MaskGate:
        """Which masks are trusted."""
        return MaskGate(self.min_area, self.max_area, self.min_confidence)


def find_photos(images: str, config: InputConfig) -> Photos:
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


def write_parts(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PartConfig,
    *,
    exclude: Collection[str] = (),
    filler: Filler | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    resume: bool = False,
    num_workers: int | None = None,
    progress: bool = False,
) -> Manifest | None:
    """Takes images apart, into the shards of this rank; see `write_set`.

    Every rank may be run at any time, together with the others or alone. The bytes depend neither
    on the ranks nor on the workers.

    Args:
        images: where they are; see `find_photos`.
        out: a folder, or a URL that fsspec knows.
        config: what the set holds.
        exclude: keys of images to leave out.
        filler: a function that fills backgrounds, in the place of `config.fill`.
        rank: which of `world_size` processes this is; from torch.distributed or torchrun's
            environment by default.
        world_size: how many processes there are.
        resume: goes on with a set of the same settings, leaving complete shards as they are.
        num_workers: processes that take images apart, with one thread each; 0 does it in this one.
            All cores by default, shared with the other ranks that torchrun started here.
        progress: whether to show a bar.

    Returns:
        The manifest, or None if other ranks have shards to write yet.

    Raises:
        ArgumentError: a value that cannot be used.
        DataError: images that cannot be used, or `out` holds another set, or one that was begun and
            `resume` is off.
        FileError: a file cannot be written. Complete shards stay, and nothing else does.
        MissingPackageError: the filler needs a package that is not installed.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from cgn_augment.parts.set import PartSet
        >>> from cgn_augment.parts.writing import PartConfig, write_parts
        >>> folder = getfixture("tmp_path")
        >>> pixels = np.full((48, 64, 4), 200, np.uint8)
        >>> pixels[..., 3] = 0                                   # transparent around ...
        >>> pixels[12:30, 20:40] = 20, 20, 20, 255               # ... an object
        >>> for name in ("cat", "dog"):
        ...     (folder / "photos" / name).mkdir(parents=True)
        ...     Image.fromarray(pixels).save(folder / "photos" / name / "1.png")
        >>> config = PartConfig(masks="alpha")
        >>> manifest = write_parts(folder / "photos", folder / "parts", config, num_workers=0)
        >>> parts = PartSet.open(folder / "parts")
        >>> part = parts.read(0)
        >>> part.key, part.label, part.box, part.object.shape, part.background.shape
        ('cat/1', 'cat', (12, 20, 18, 20), torch.Size([4, 18, 20]), torch.Size([3, 48, 64]))
    """
    workers = _cores() if num_workers is None else require_count("num_workers", num_workers, 0)
    find_filler(config.fill if filler is None else filler)  # before anything that takes long
    photos = find_photos(os.fspath(images), config)
    excluded = frozenset(exclude)
    photos.require_keys(excluded)
    contents = _Contents(os.fspath(images), photos, config, excluded, filler, workers)
    return write_set(
        contents, out, rank=rank, world_size=world_size, resume=resume, progress=progress
    )


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


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@dataclass(frozen=True)
class _Contents:
    """Parts of images, as the contents of a set."""

    images: str
    photos: Photos
    config: PartConfig
    exclude: frozenset[str]
    filler: Filler | None
    num_workers: int
    kind = PARTS
    extras = (INDEX, LEFT_OUT)

    @cached_property
    def settings(self) -> dict[str, Any]:
        config = {each.name: getattr(self.config, each.name) for each in fields(self.config)}
        if self.filler is not None:
            config["fill"] = f"{self.filler.__module__}.{getattr(self.filler, '__qualname__', '')}"
        return {
            "kind": PARTS.name,
            "images": self.images,
            **config,
            "classes": list(self.photos.classes),
            "columns": list(self.config.columns),
            "exclude": sorted(self.exclude),
            "num": self.photos.count(range(self.num_shards)),
            "num_shards": self.num_shards,
            "photos": self.photos.digest,
        }

    @property
    def versions(self) -> dict[str, str]:
        more = {"opencv": _opencv()} if self.config.fill == "telea" else {}
        return {**find_versions("cpu"), "scipy": version("scipy"), **more}

    @property
    def num_shards(self) -> int:
        return self.photos.num_shards

    def count(self, shards: Sequence[int]) -> int | None:
        return self.photos.count(shards)

    def make(self, shards: Sequence[int]) -> Generator[tuple[int, list[Sample]], None, None]:
        config = self.config
        filler = config.fill if self.filler is None else self.filler
        making = Making(
            config.size,
            filler,
            config.gate,
            config.max_hole,
            config.textures,
            config.quality,
            self.exclude,
        )
        loader = DataLoader(
            _Samples(making),
            batch_size=None,
            sampler=_Jobs(self.photos, shards),
            num_workers=self.num_workers,
            prefetch_factor=_AHEAD if self.num_workers else None,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(0),  # leaves the global one alone
        )
        yield from loader

    def tally(self, shard: int) -> _PartTally:
        return _PartTally(shard, self.photos.classes)

    def finish(self, store: Store, manifest: Manifest) -> None:
        """Writes the index of all shards, and the list of what is left out."""
        names = [PARTS.record_name(shard, "jsonl") for shard in range(manifest.num_shards)]
        with store.writing(INDEX) as index, store.writing(LEFT_OUT) as left_out:
            for name in names:
                for line in store.read(name).splitlines(keepends=True):
                    index.write(line)
                    left_out.write(_left_out(json.loads(line)))


@dataclass(frozen=True)
class _Samples(Dataset[tuple[int, list[Sample]]]):
    """Makes samples of photos, wherever the loader runs it."""

    making: Making

    def __getitem__(self, job: Any) -> tuple[int, list[Sample]]:
        shard, place, photo = job
        return shard, [{"__key__": f"{shard:06d}{place:06d}", **self.making(photo)}]


@dataclass(frozen=True)
class _Jobs:
    """Shard, place in it, and photo, one after the other, as the loader asks for them."""

    photos: Photos
    shards: Sequence[int]

    def __iter__(self) -> Iterator[tuple[int, int, Photo]]:
        for shard in self.shards:
            for place, photo in enumerate(self.photos.of_shard(shard)):
                yield shard, place, photo


class _PartTally:
    """Counts the verdicts of a shard, and keeps its index."""

    first = None

    def __init__(self, shard: int, classes: Iterable[str]) -> None:
        self.shard, self.lines = shard, list[bytes]()
        self.labels = {name: label for label, name in enumerate(classes)}
        self.class_counts: ClassCounts = {
            verdict: [0] * len(self.labels) for verdict in ALL_VERDICTS
        }

    def add(self, sample: Sample, places: dict[str, tuple[int, int]]) -> None:
        facts = sample["__facts__"]
        self.class_counts[facts["verdict"]][self.labels[facts["label"]]] += 1
        kept = {_SUFFIXES[name]: list(place) for name, place in places.items() if name != "json"}
        self.lines.append(index_line(facts, self.shard, kept))

    def save(self, store: Store) -> None:
        store.write(PARTS.record_name(self.shard, "jsonl"), b"".join(self.lines))


def _left_out(facts: dict[str, Any]) -> bytes:
    """Returns the line of an image that lacks its object or its background; nothing for others."""
    lacks = [member for member in ("object", "background") if member not in facts["places"]]
    if not lacks:
        return b""
    told = {name: facts[name] for name in ("key", "label", "verdict", "why")}
    return json.dumps({**told, "lacks": lacks}).encode() + b"\n"


def _as_it_is(item: Any) -> Any:
    return item


def _opencv() -> str:
    import cv2  # optional

    return str(cv2.__version__)
