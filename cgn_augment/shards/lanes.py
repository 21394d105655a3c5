"""The order in which a set of shards is read: a function of (seed, rank) alone.

Each rank deals its shards to a fixed number of lanes, and each worker reads some of the lanes.
Chunk j of the stream comes from lane j modulo their number, whichever worker reads it. Passes and
shards are shuffled with their own seeds, so a place is found without reading what comes before it,
except for the start of one shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cgn_augment.errors import DataError, FileError
from cgn_augment.functional import Purpose, step_generator, step_seed
from cgn_augment.images.tar import Sample, read_shard
from cgn_augment.shards.config import ImageFormat
from cgn_augment.shards.encode import Array, decode_picture, describe, read_classes
from cgn_augment.types import FACTORS

MAX_LANES = 16


class Shard(NamedTuple):
    """A file of samples.

    Attributes:
        url: its path or URL.
        length: number of samples to read from it.
    """

    url: str
    length: int


class Chunk(NamedTuple):
    """Decoded samples that were read together.

    Attributes:
        images: (N, H, W, 3) uint8, or (N, 3, H, W) float32 of npy files.
        classes: (3, N) int64 classes of shape, texture and background.
        skipped: the problem with each sample that is missing here.
    """

    images: Tensor
    classes: Tensor
    skipped: list[str]


class Form(NamedTuple):
    """What the manifest says about every sample.

    Attributes:
        kind: format of the images.
        image_size: height and width of the images, in pixels.
        num_classes: number of classes of each factor.
    """

    kind: ImageFormat
    image_size: int
    num_classes: int


@dataclass(frozen=True)
class ReadPlan:
    """What a rank reads, and in which order.

    Attributes:
        shards: shards to read, each with at least one sample.
        form: form of their samples.
        seed: seed of the order.
        rank: which of `world_size` processes reads.
        world_size: number of processes.
        chunk: samples per chunk.
        shuffle: size of the shuffle buffer, in samples; 0 reads in file order.
        shapes: classes of the shape to keep, or None.
    """

    shards: tuple[Shard, ...]
    form: Form
    seed: int
    rank: int
    world_size: int
    chunk: int
    shuffle: int
    shapes: frozenset[int] | None = None

    @property
    def num_lanes(self) -> int:
        """Number of lanes of a rank: a power of two, so that 2, 4 or 8 workers get equally many."""
        most = min(MAX_LANES, len(self.shards) // self.world_size)
        return 1 << max(0, most.bit_length() - 1)

    def shards_of(self, lane: int, number: int) -> list[int]:
        """Returns the shards of a lane in the pass `number` over the set, in reading order."""
        order = list(range(len(self.shards)))
        if self.shuffle:
            generator = step_generator(Purpose.SHARD_ORDER, self.seed, number)
            order = torch.randperm(len(order), generator=generator).tolist()
        return order[self.rank :: self.world_size][lane :: self.num_lanes]


class ChunkDataset(IterableDataset[Chunk | FileError]):
    """The chunks of a plan from chunk `start` on, without end; workers share the lanes.

    A shard that cannot be read is yielded as an error and ends the iteration. If it were raised,
    the user would see a worker's traceback.
    """

    def __init__(self, plan: ReadPlan, start: int) -> None:
        super().__init__()
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[Chunk | FileError]:
        """Yields the chunks that belong to this worker."""
        try:
            yield from self._chunks()
        except FileNotFoundError as error:
            yield FileError(
                f"the shard {error.filename} is missing: cgn-augment shards verify says which "
                "shards to render again"
            )
        except FileError as error:
            yield error

    def _chunks(self) -> Iterator[Chunk]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        plan = self.plan
        lanes: dict[int, Iterator[Sample | str]] = {}
        for number in count(self.start + first, step):
            turn, lane = divmod(number, plan.num_lanes)
            if lane not in lanes:
                lanes[lane] = read_lane(plan, lane, turn * plan.chunk)
            yield decode_chunk(list(islice(lanes[lane], plan.chunk)), plan.form)


def read_lane(plan: ReadPlan, lane: int, place: int) -> Iterator[Sample | str]:
    """Yields the samples of a lane from `place` on; for a lost sample, the problem as text."""
    for number in count():
        for shard in plan.shards_of(lane, number):
            length = plan.shards[shard].length
            if place < length:
                yield from islice(read_slots(plan, shard, number), place, None)
            place = max(0, place - length)


def read_slots(plan: ReadPlan, shard: int, number: int) -> Iterator[Sample | str]:
    """Yields as many samples of a shard as it should have, in the order of the pass."""
    url, length = plan.shards[shard]
    lost = [f"{url} has fewer samples than {length}"]
    shapes, num_classes = plan.shapes, plan.form.num_classes
    samples = read_shard(
        url,
        shuffle=plan.shuffle,
        seed=step_seed(Purpose.SHARD_SHUFFLE, plan.seed, number, shard),
        keep=None if shapes is None else lambda sample: _shape(sample, num_classes) in shapes,
        damaged=lambda error: lost.append(str(error)),
    )
    yield from islice(chain(samples, (lost[-1] for _ in count())), length)


def decode_chunk(samples: list[Sample | str], form: Form) -> Chunk:
    """Decodes samples; those of another form are left out and reported."""
    images: list[Array] = []
    classes: list[list[int]] = []
    skipped = [sample for sample in samples if isinstance(sample, str)]
    for sample in samples:
        if isinstance(sample, str):
            continue
        try:
            labels = read_classes(sample["json"], form.num_classes)
            images.append(decode_picture(sample[form.kind], form.kind, form.image_size))
        except Exception as error:  # damaged bytes make Pillow and NumPy raise anything
            where = f"{sample.get('__url__')}, sample {sample.get('__key__')}"
            skipped.append(f"{where}: {describe(error)}")
            continue
        classes.append([labels[factor] for factor in FACTORS])
    if not images:
        return Chunk(torch.zeros(0), torch.zeros(3, 0, dtype=torch.int64), skipped)
    return Chunk(torch.from_numpy(np.stack(images)), torch.tensor(classes).T, skipped)


def _shape(sample: Sample, num_classes: int) -> int:
    try:
        return read_classes(sample["json"], num_classes)["shape"]
    except (KeyError, DataError):
        return -1  # a lost sample is found missing at the shard's end
