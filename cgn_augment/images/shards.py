"""Labelled images from WebDataset shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import first_line
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.images.loading import LoadConfig, Transform, make_loader
from cgn_augment.images.reading import open_image, to_rgb
from cgn_augment.images.tar import Sample, read_shard

SUFFIXES = ("jpg", "jpeg", "png", "webp")

_SHUFFLED_OVER = 1000  # samples in the shuffle buffer of a shard


def hash_names(names: Iterable[str]) -> str:
    """Returns twelve hexadecimal digits of a hash of names, in order.

    Args:
        names: the names.
    """
    found = hashlib.sha256()
    for name in names:
        found.update(os.fsencode(name) + b"\0")
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class ShardImages:
    """Images in WebDataset shards: `jpg`, `png` or `webp` files, with the label in `cls`.

    Attributes:
        shards: paths or URLs.
        classes: names by label.
        transform: turns an RGB PIL image into the result.
        num_images: images per epoch; needed for training.
    """

    shards: tuple[str, ...]
    classes: tuple[str, ...]
    transform: Transform
    num_images: int | None = None

    @property
    def digest(self) -> str:
        """A hash of the names of the shards."""
        return hash_names(shard.rpartition("/")[2] for shard in self.shards)

    def training(self, config: LoadConfig) -> tuple[Any, dict[str, Any]]:
        """Returns `real` for a `CounterfactualDataset`, and the arguments that go with it.

        Each process and worker reads its own shards, repeatedly.

        Args:
            config: how the process loads images.

        Raises:
            ArgumentError: there are fewer shards than readers, or `num_images` is unknown.
        """
        readers = config.world_size * max(1, config.num_workers)
        if len(self.shards) < readers:
            raise ArgumentError(
                f"{len(self.shards)} shards are too few for {config.world_size} processes with "
                f"{config.num_workers} workers each: pass fewer workers, or make smaller shards"
            )
        if self.num_images is None:
            raise ArgumentError(
                "shards do not say how many images there are: pass num_train, the images of an "
                "epoch"
            )
        num_steps = self.num_images // (config.batch_size * config.world_size)
        if num_steps == 0:
            raise ArgumentError(
                f"num_train must fill a batch of {config.batch_size} in each of "
                f"{config.world_size} processes, got {self.num_images}"
            )
        return make_loader(_ShardBatches(self, config, num_steps), config, None), {}

    def testing(self, config: LoadConfig) -> DataLoader[Any]:
        """Returns a loader of images and labels, each once, for this process's part.

        Args:
            config: how the process loads images.
        """
        return make_loader(_ShardBatches(self, config, None), config, None)


class _ShardBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Ready batches, so that a loader with workers knows their number.

    Batch i of a process comes from worker i modulo their number, so its content depends on the
    number of workers. Random transforms are a function of (seed, epoch, rank, worker, place).
    """

    def __init__(self, images: ShardImages, config: LoadConfig, num_steps: int | None) -> None:
        self.images, self.config, self.num_steps = images, config, num_steps
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.num_steps is None:
            raise TypeError("how many images the shards hold is not known")
        return self.num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        config, shards = self.config, list(self.images.shards)
        if self.num_steps is not None:
            generator = step_generator(Purpose.SHARD_ORDER, config.seed, self.epoch)
            shards = [shards[i] for i in torch.randperm(len(shards), generator=generator).tolist()]
        reader = config.rank * num_workers + worker
        samples = self._samples(shards[reader :: config.world_size * num_workers])
        made = (self._decode(sample, (worker, place)) for place, sample in enumerate(samples))
        turns = count() if self.num_steps is None else range(worker, self.num_steps, num_workers)
        for _ in turns:
            batch = list(islice(made, config.batch_size))
            if not batch:
                return
            images, labels = zip(*batch, strict=True)
            yield torch.stack(images), torch.tensor(labels)

    def _samples(self, shards: list[str]) -> Iterator[Sample]:
        """Yields the samples of shards; in training each shard shuffled, without end."""
        again = self.num_steps is not None
        found = True
        while found:
            found = False
            for number, url in enumerate(shards):
                seed = step_seed(Purpose.SHARD_SHUFFLE, self.config.seed, self.epoch, number)
                for sample in read_shard(url, shuffle=_SHUFFLED_OVER if again else 0, seed=seed):
                    found = True
                    yield sample
            if not again:
                return
        raise DataError(f"{', '.join(shards)}: there is no sample in them")

    def _decode(self, sample: Sample, key: tuple[int, int]) -> tuple[Tensor, int]:
        kind = next((suffix for suffix in SUFFIXES if suffix in sample), None)
        where = f"{sample.get('__url__')}, sample {sample.get('__key__')}"
        if kind is None or "cls" not in sample:
            has = sorted(name for name in sample if not name.startswith("__"))
            raise DataError(f"{where} has {has}: expected an image (.jpg, .png, .webp) and .cls")
        try:
            with open_image(sample[kind]) as file:
                picture = to_rgb(file)
            label = int(sample["cls"])
        except Exception as error:  # damaged bytes make Pillow raise anything
            raise DataError(f"{where} is damaged ({first_line(error)}): make it again") from error
        if not 0 <= label < len(self.images.classes):
            raise DataError(
                f"{where} has the label {label}, and there are {len(self.images.classes)} classes: "
                "pass as many classes as the shards have, counted from 0"
            )
        seed = step_seed(Purpose.ITEM, self.config.seed, self.epoch, self.config.rank, *key)
        with isolated_rng(seed, torch.device("cpu")):
            return self.images.transform(picture), label
