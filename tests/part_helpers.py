"""Photographs with masks for tests, and processes that take them apart."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.writing import write_parts

# The server imports the package once, so that a rank costs a fork and not an import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cgn_augment.parts.writing"])

CLASSES = ("cat", "dog")


def make_photo(number: int, height: int = 36, width: int = 48) -> tuple[Image.Image, Image.Image]:
    """An image of a shaded disc on a slope, of which each is another, and its mask."""
    rows, columns = np.mgrid[:height, :width]
    top, left = 12 + number % 5, 16 + number % 7
    inside = (rows - top) ** 2 + (columns - left) ** 2 < 8**2
    pixels = np.stack([rows * 3 + number, columns * 2, 0 * rows + 90], axis=-1)
    pixels[inside] = (220, 60, 10 + number % 200)
    return Image.fromarray(pixels.astype(np.uint8)), Image.fromarray(inside)


def make_photos(folder: Path, num_per_class: int = 4, suffix: str = "png") -> Path:
    """Class folders in `photos`, and masks that mirror them in `masks`."""
    for label, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        (folder / "masks" / name).mkdir(parents=True)
        for place in range(num_per_class):
            image, mask = make_photo(label * num_per_class + place)
            image.save(folder / "photos" / name / f"{place:03d}.{suffix}")
            mask.save(folder / "masks" / name / f"{place:03d}.png")
    return folder


def config_for(folder: Path, **given: Any) -> PartConfig:
    """Settings of a set in small shards, quickly filled, of what `make_photos` made."""
    settings = {"masks": str(folder / "masks"), "fill": "none", "shard_size": 3, **given}
    return PartConfig(**settings)


def write(folder: Path, out: Path, **given: Any) -> None:
    """Takes apart what `make_photos` made, in the ranks asked for; in one by default."""
    names = ("rank", "world_size", "resume", "num_workers", "exclude", "filler")
    options = {"num_workers": 0} | {name: given.pop(name) for name in names if name in given}
    write_parts(folder / "photos", out, config_for(folder, **given), **options)


def write_rank(folder: Path, out: Path, num_workers: int, rank: int) -> None:
    """Writes the shards of one of two ranks, of a set that may have been begun."""
    write(folder, out, rank=rank, world_size=2, resume=True, num_workers=num_workers)


def start_ranks(*arguments: Any) -> list[BaseProcess]:
    """Starts `write_rank` in two processes."""
    processes = [PROCESSES.Process(target=write_rank, args=(*arguments, r)) for r in (0, 1)]
    for process in processes:
        process.start()
    return processes
