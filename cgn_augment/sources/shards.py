"""`ShardSource`: counterfactuals that were rendered in advance."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment.checks import require_count, require_workers
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError, FileError
from cgn_augment.functional import standard_numbers
from cgn_augment.images.tar import expand_urls
from cgn_augment.ranks import find_rank
from cgn_augment.shards.encode import to_images
from cgn_augment.shards.lanes import Chunk, ChunkDataset, Form, ReadPlan, Shard
from cgn_augment.shards.manifest import Manifest, read_manifest
from cgn_augment.shards.records import Record
from cgn_augment.shards.store import Store
from cgn_augment.types import Counterfactuals, RealBatch, Step

Urls = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ShardSource:
    """Reads counterfactuals from shards that `render_shards` wrote.

    Each step reads `refresh` images and draws first from the oldest ones held. If a step needs at
    most `refresh` images, each image is drawn at most once per pass over the set. If it needs more,
    it draws the rest from the `size` images held. What it draws is a function of (seed, rank, step)
    alone, not of the number of workers.

    Args:
        urls: the folder or URL of a set; or shards of sets, as a list or with braces
            (`s3://bucket/set/counterfactuals-{000000..000099}.tar`), with their manifests beside
            them.
        refresh: images read at each step. Set it to the number a step draws.
        size: least number of images held; each step replaces `refresh` of them.
        seed: seed of the order.
        shuffle: size of webdataset's shuffle buffer, in samples; 0 reads in order.
        num_workers: processes that read and decode: 0, 1, 2, 4, 8 or 16.
        world_size: number of processes that read the set, each from its own shards; by default the
            steps give it. If given, too few shards are reported at once.

    Attributes:
        image_size: height and width of the images, in pixels.
        num_classes: classes of the CGN that drew them.
        num_images: images of the set that are read.
        num_skipped: damaged samples skipped so far.
        needs_real: False: what is read does not depend on the real batch.

    Raises:
        ArgumentError: a value cannot be used, or there are too few shards for ranks and workers.
        DataError: a manifest is missing, or the sets do not go together.

    Examples:
        >>> import torch
        >>> from cgn_augment import ShardSource
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.shards import ShardConfig, render_shards
        >>> folder = getfixture("tmp_path") / "shards"
        >>> manifest = render_shards(SmallCGN().freeze(), folder, ShardConfig(num=64))
        >>> source = ShardSource(folder, refresh=16, size=32)
        >>> source.sample(16, torch.Generator().manual_seed(0)).images.shape
        torch.Size([16, 3, 32, 32])
    """

    needs_real = False

    def __init__(
        self,
        urls: Urls,
        *,
        refresh: int = 64,
        size: int = 1024,
        seed: int = 0,
        shuffle: int = 256,
        num_workers: int = 0,
        world_size: int | None = None,
    ) -> None:
        self.refresh, self.size = require_count("refresh", refresh), require_count("size", size)
        self.seed, self.shuffle = (
            require_count(name, value, 0) for name, value in (("seed", seed), ("shuffle", shuffle))
        )
        self.num_workers = require_workers(num_workers)
        self.world_size = None if world_size is None else require_count("world_size", world_size)
        self._records, self._form = _find_records(urls)
        self.image_size, self.num_classes = self._form.image_size, self._form.num_classes
        self.num_skipped = 0
        self._shapes: frozenset[int] | None = None
        self._step = Step()
        self._held: deque[Chunk] = deque()
        self._chunks: Iterator[Chunk | FileError] | None = None
        self._require_enough_shards(self.world_size or 1)

    @property
    def num_images(self) -> int:
        """Number of images that all ranks together read."""
        return sum(shard.length for shard in self._plan(Step()).shards)

    @property
    def fingerprint(self) -> str:
        """Equal for sources that draw identical images."""
        hashes = " ".join(record.sha256 for _, record in self._records)
        digest = hashlib.sha256(hashes.encode()).hexdigest()[:12]
        shapes = None if self._shapes is None else sorted(self._shapes)
        return (
            f"shards({digest}, refresh={self.refresh}, size={self.size}, seed={self.seed}, "
            f"shuffle={self.shuffle}, shapes={shapes})"
        )

    def restrict(self, class_map: ClassMap) -> ShardSource:
        """Returns a source that draws only images whose shape is a class of `class_map`.

        Textures and backgrounds stay as rendered, so images with all three classes in the map may
        be rare. A label is as frequent as its classes are together.

        Args:
            class_map: the classes to keep to.

        Raises:
            ArgumentError: the map names classes that the CGN lacks, or no image has such a shape.
        """
        class_map.require_classes(self.num_classes)
        restricted = copy(self)
        restricted.num_skipped, restricted._shapes = 0, frozenset(class_map.classes)
        restricted.close()
        if restricted.num_images == 0:
            raise ArgumentError(
                f"no image of the shards has a shape of the classes {sorted(class_map.classes)}: "
                "render a set with them, or add classes to class_map"
            )
        restricted._require_enough_shards(self.world_size or 1)
        return restricted

    @standard_numbers()
    def sample(
        self,
        num: int,
        generator: torch.Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
    ) -> Counterfactuals:
        """Draws `num` counterfactuals for a step; see `Source.sample`.

        Args:
            num: number of images.
            generator: a CPU generator.
            step: the step they are for.
            real: not used.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] and labels, both on the CPU.

        Raises:
            ArgumentError: the step has another world size than the source was made for, or the
                shards are too few for it.
            ArgumentTypeError: `step` is not a `Step`.
            DataError: none of the samples held could be read.
            FileError: a shard is missing or cannot be opened, or its server fails.
        """
        if not isinstance(step, Step):
            raise ArgumentTypeError(
                f"step must be Step(…), got {type(step).__name__}; a real batch goes to real="
            )
        self._read_to(step)
        places = _draw_places([len(chunk.classes[0]) for chunk in self._held], num, generator)
        if places is None:
            raise DataError(
                f"all of the {self.size} samples read last are damaged, {self.num_skipped} so far: "
                "cgn-augment shards verify says which shards to render again"
            )
        images, classes = _gather(self._held, places)
        return Counterfactuals(images, *classes)

    def close(self) -> None:
        """Ends the workers and forgets what was read; the next sample starts anew."""
        self._chunks, self._held = None, deque()

    def _plan(self, step: Step) -> ReadPlan:
        shapes = self._shapes
        shards = tuple(
            Shard(
                url,
                record.num_samples
                if shapes is None
                else sum(record.class_counts["shape"][y] for y in shapes),
            )
            for url, record in self._records
        )
        # A lane of empty shards would be read forever.
        return ReadPlan(
            tuple(shard for shard in shards if shard.length),
            self._form,
            self.seed,
            step.rank,
            step.world_size,
            self.refresh,
            self.shuffle,
            shapes,
        )

    def _require_enough_shards(self, world_size: int) -> None:
        plan = self._plan(Step(world_size=world_size))
        num, workers = len(plan.shards), max(1, self.num_workers)
        if num < world_size * workers:
            those = "" if self._shapes is None else " with an image of the classes of class_map"
            raise ArgumentError(
                f"{num} shards{those} are too few for {world_size} ranks with {workers} workers "
                f"each, who need one at least: pass num_workers={num // world_size} or fewer, or "
                "render the set again with a smaller shard_size"
            )
        lanes = plan.num_lanes
        if lanes % workers:
            fitting = [str(n) for n in (0, 1, 2, 4, 8, 16) if n <= lanes]
            raise ArgumentError(
                f"num_workers must be one of {', '.join(fitting)} with these shards and ranks, got "
                f"{self.num_workers}: workers share out {lanes} lanes equally, so that the order "
                "does not depend on them"
            )

    def _read_to(self, step: Step) -> None:
        num_held = -(-self.size // self.refresh)
        ahead = step.number - self._step.number
        if self._chunks is None or step[1:] != self._step[1:] or not 0 <= ahead <= num_held:
            _, world_size = find_rank(step.rank, step.world_size)
            if self.world_size not in (None, world_size):
                raise ArgumentError(
                    f"a step of {world_size} ranks asks for its shards and the ShardSource was "
                    f"made for {self.world_size}: pass it world_size={world_size}, or leave it out"
                )
            self._require_enough_shards(world_size)
            self.close()
            # With its own generator the loader leaves the global one alone.
            generator = torch.Generator().manual_seed(self.seed)
            dataset = ChunkDataset(self._plan(step), step.number)
            self._chunks = iter(
                DataLoader(dataset, None, num_workers=self.num_workers, generator=generator)
            )
            ahead = 0
        self._step = step
        for _ in range(ahead):
            self._held.popleft()
        # Progress bar for interactive use, if the first filling takes a while.
        hidden = True if self._held else None
        with tqdm(total=num_held, desc="reading shards", delay=2, disable=hidden) as bar:
            while len(self._held) < num_held:
                self._held.append(self._next_chunk(self._chunks))
                bar.update()

    def _next_chunk(self, chunks: Iterator[Chunk | FileError]) -> Chunk:
        chunk = next(chunks)
        if isinstance(chunk, FileError):
            self.close()
            raise chunk
        if chunk.skipped:
            if self.num_skipped == 0:
                warnings.warn(
                    f"a damaged sample is skipped ({chunk.skipped[0]}). Further ones are only "
                    "counted, in ShardSource.num_skipped; cgn-augment shards verify says which "
                    "shards to render again",
                    stacklevel=2,
                )
            self.num_skipped += len(chunk.skipped)
        if self.num_workers:
            # Workers send tensors in shared memory, where each is an open file.
            chunk = chunk._replace(images=chunk.images.clone(), classes=chunk.classes.clone())
        return chunk


def _find_records(urls: Urls) -> tuple[list[tuple[str, Record]], Form]:
    """Returns path or URL and record of each shard, and the common form of their samples."""
    listed = [urls] if isinstance(urls, (str, os.PathLike)) else list(urls)
    if not listed:
        raise ArgumentError("urls is empty: give the folder or URL of a set, or a list of shards")
    paths = [os.fspath(url) for url in listed]
    # In a list, braces stand for several shards; the name of a folder may contain any.
    expanded = [expand_urls(p) if p.endswith(".tar") else [p.rstrip("/") or "/"] for p in paths]
    manifests: dict[str, tuple[Store, Manifest]] = {}
    records = []
    for name in chain.from_iterable(expanded):
        folder, _, file = name.rpartition("/") if name.endswith(".tar") else (name, "", "")
        folder = folder or "."
        if folder not in manifests:
            store = Store(folder)
            manifests[folder] = (store, read_manifest(store))
        store, manifest = manifests[folder]
        found = [record for record in manifest.shards if file in ("", record.name)]
        if not found:
            raise DataError(f"the manifest of {folder} names no shard {file}")
        records += [(store.path(record.name), record) for record in found]
    common = ("image_size", "num_classes", "format")
    kinds = {tuple(m.settings[name] for name in common) for _, m in manifests.values()}
    if len(kinds) > 1:
        raise DataError(f"the sets differ in {', '.join(common)} and do not mix: {sorted(kinds)}")
    image_size, num_classes, kind = kinds.pop()
    return records, Form(kind, image_size, num_classes)


def _draw_places(lengths: list[int], num: int, generator: torch.Generator) -> Tensor | None:
    """Draws `num` places among chunks of these lengths, the first chunk before the others.

    Returns:
        (num,) int64 places counted over all chunks, or None if all are empty.
    """
    total, oldest = sum(lengths), lengths[0]
    first = torch.randperm(oldest, generator=generator)[:num]
    if len(first) == num:
        return first
    if total == 0:
        return None
    later = oldest + torch.randperm(total - oldest, generator=generator)[: num - len(first)]
    num_again = num - len(first) - len(later)
    again = torch.randint(total, (num_again,), generator=generator)
    places = torch.cat([first, later, again])
    return places[torch.randperm(num, generator=generator)]


def _gather(chunks: deque[Chunk], places: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images (N, 3, H, W) float32 in [-1, 1] and classes (3, N) at these places."""
    classes = torch.cat([chunk.classes for chunk in chunks], dim=1)[:, places]
    held = [(chunk.images, i) for chunk in chunks for i in range(len(chunk.images))]
    some, _ = held[0]
    images = some.new_empty(len(places), *some.shape[1:])
    for image, place in zip(images, places.tolist(), strict=True):
        of_chunk, i = held[place]
        image.copy_(of_chunk[i])
    return to_images(images), classes
