"""Takes the images of a data set apart into shards: in one pass, on all cores.

Workers read, cut, fill and encode one image at a time; this process writes the results in order.
The number of images in progress is bounded, so memory does not grow with the set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cgn_augment.checks import require_workers
from cgn_augment.errors import ArgumentError
from cgn_augment.images.tar import Sample
from cgn_augment.masks.trust import VERDICTS
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.fill import Filler, find_filler
from cgn_augment.parts.index import INDEX, MEMBERS, index_line
from cgn_augment.parts.inputs import Photo, Photos
from cgn_augment.parts.making import EXCLUDED, NO_MASK, OTHER_SIZE, UNREADABLE, Making
from cgn_augment.parts.photos import find_photos, require_beside
from cgn_augment.ranks import count_cores
from cgn_augment.shards.layout import PARTS
from cgn_augment.shards.manifest import Manifest, find_versions
from cgn_augment.shards.records import ClassCounts
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import Engine, write_set, write_shards

LEFT_OUT = "left_out.jsonl"

ALL_VERDICTS = (*VERDICTS, UNREADABLE, NO_MASK, OTHER_SIZE, EXCLUDED)

_AHEAD = 8  # images in progress per worker
_SUFFIXES = {name: member for member, name in MEMBERS.items()}


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
    engine: Engine = write_shards,
) -> Manifest | None:
    """Takes images apart, into the shards of this rank; see `write_set`.

    Ranks may run at any time, together or alone. The bytes depend neither on ranks nor on workers.

    Args:
        images: where they are; see `find_photos`.
        out: a folder, or a URL that fsspec knows.
        config: settings of the set.
        exclude: keys of images to leave out.
        filler: a function that fills backgrounds, instead of `config.fill`.
        rank: which of `world_size` processes this is; by default from torch.distributed or
            torchrun's environment.
        world_size: number of processes.
        resume: continues a set with the same settings and keeps its complete shards.
        num_workers: processes that take images apart, with one thread each; 0 uses this process. By
            default all cores, shared with torchrun's other ranks on this machine. Leave it out with
            an engine, whose tasks have one process each.
        progress: shows a bar.
        engine: writes the shards, such as `RayEngine`; by default this process does.

    Returns:
        The manifest, or None if other ranks still have shards to write.

    Raises:
        ArgumentError: a value cannot be used, or `out` lies among the images or masks.
        DataError: images cannot be used, or `out` holds another set, or one that was begun while
            `resume` is off.
        FileError: a file cannot be written. Only complete shards stay.
        MissingPackageError: the filler needs a package that is not installed.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from cgn_augment.parts.set import PartSet
        >>> from cgn_augment.parts.config import PartConfig
        >>> from cgn_augment.parts.writing import write_parts
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
    workers = _find_workers(num_workers, engine)
    find_filler(config.fill if filler is None else filler)  # before anything slow
    require_beside(os.fspath(out), os.fspath(images), config)
    photos = find_photos(os.fspath(images), config)
    excluded = frozenset(exclude)
    photos.require_keys(excluded)
    contents = _Contents(os.fspath(images), photos, config, excluded, filler, workers)
    return write_set(
        contents,
        out,
        rank=rank,
        world_size=world_size,
        resume=resume,
        progress=progress,
        engine=engine,
    )


def _find_workers(given: int | None, engine: Engine) -> int:
    """Returns how many processes whoever writes a shard starts."""
    if engine is write_shards:
        return count_cores() if given is None else require_workers(given)
    if given is not None:
        raise ArgumentError(
            "num_workers is of one process, and the tasks of an engine start none: leave it out"
        )
    return 0


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

    @property
    def local_files(self) -> Sequence[str]:
        """The first image and the first mask that lie here, of the first hundred of either."""
        first = list(islice(self.photos.of_shard(0), 100))
        images = [photo.image for photo in first if isinstance(photo.image, str)]
        masks = [photo.mask for photo in first if isinstance(photo.mask, str)]
        there = [next(filter(os.path.isfile, names), None) for names in (images, masks)]
        return [str(Path(name).absolute()) for name in there if name is not None]

    def count(self, shards: Sequence[int]) -> int | None:
        return self.photos.count(shards)

    def make(self, shards: Sequence[int]) -> Generator[tuple[int, list[Sample]], None, None]:
        if not shards:  # needs no workers
            return
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
            worker_init_fn=_end_with_parent,
            generator=torch.Generator().manual_seed(0),  # leaves the global one alone
        )
        yield from loader

    def tally(self, shard: int) -> _PartTally:
        return _PartTally(shard, self.photos.classes)

    def finish(self, store: Store, manifest: Manifest) -> None:
        """Writes the index of all shards, and the list of images that are left out."""
        names = [PARTS.record_name(shard, "jsonl") for shard in range(manifest.num_shards)]
        with store.writing(INDEX) as index, store.writing(LEFT_OUT) as left_out:
            for name in names:
                for line in store.read(name).splitlines(keepends=True):
                    index.write(line)
                    left_out.write(_left_out(json.loads(line)))


@dataclass(frozen=True)
class _Samples(Dataset[tuple[int, list[Sample]]]):
    """Makes samples from photos, wherever the loader runs it."""

    making: Making

    def __getitem__(self, job: Any) -> tuple[int, list[Sample]]:
        shard, place, photo = job
        return shard, [{"__key__": f"{shard:06d}{place:06d}", **self.making(photo)}]


@dataclass(frozen=True)
class _Jobs:
    """Yields shard, place in it, and photo, as the loader asks for them."""

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
    """Returns the line of an image that lacks its object or background; empty for others."""
    lacks = [member for member in ("object", "background") if member not in facts["places"]]
    if not lacks:
        return b""
    told = {name: facts[name] for name in ("key", "label", "verdict", "why")}
    return json.dumps({**told, "lacks": lacks}).encode() + b"\n"


def _as_it_is(item: Any) -> Any:
    return item


def _end_with_parent(worker: int) -> None:
    """Ends a worker when its parent process was killed.

    A loader's worker checks whether its parent has changed; if a server forked it, it never does.
    """
    Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _opencv() -> str:
    import cv2  # optional

    return str(cv2.__version__)
