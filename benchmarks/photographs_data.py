"""Photographs and parts of the benchmark: made once, read into memory."""

from __future__ import annotations

import functools
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from cgn_augment import Parts
from cgn_augment.images.finding import find_labelled_images, read_image
from cgn_augment.parts.fitting import resize_bytes
from cgn_augment.parts.held import HeldParts
from cgn_augment.parts.opening import open_parts
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.writing import PartConfig, write_parts
from cgn_augment.shards.layout import MANIFEST
from train_generator.classifier.backbones import find_preprocessing

BACKBONE, PHOTO_SIZE, SIZE = "resnet10_w32", 96, 48
LOOK = find_preprocessing(BACKBONE)
RANDAUGMENT = "rand-m9-n2-mstd0.5"


@dataclass(frozen=True)
class Photos:
    """Where photographs and parts are, by their correlation.

    Attributes:
        cache: folder of all of them.
        make: the tool that makes photographs.
        per_class: training photographs.
        fill: how backgrounds are filled.
        batch: images of a step.
    """

    cache: Path
    make: Path | None
    per_class: int
    fill: str
    batch: int = 64

    def folder(self, correlation: float) -> Path:
        """Returns where the photographs are."""
        return self.cache / f"photos-{correlation}-{self.per_class}"

    def parts(self, correlation: float) -> Path:
        """Returns where their parts are."""
        return self.cache / f"parts-{correlation}-{self.per_class}-{self.fill}"

    def prepare(self, correlation: float, with_parts: bool) -> None:
        """Makes what is not there yet; what was broken off goes on or is made anew."""
        folder = self.folder(correlation)
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}-unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            self._make(unfinished, correlation)
            unfinished.rename(folder)
        if with_parts and not (self.parts(correlation) / MANIFEST).is_file():
            masks = str(folder / "train_masks")
            config = PartConfig(masks=masks, fill=self.fill, textures=True)  # type: ignore[arg-type]
            out, workers = self.parts(correlation), 0 if self.make is None else None
            resume = out.is_dir()
            write_parts(
                folder / "train", out, config, resume=resume, num_workers=workers, progress=True
            )

    def _make(self, out: Path, correlation: float) -> None:
        if self.make is None:
            draw_photos(out, self.per_class)
            return
        print(f"making photographs at correlation {correlation} ...", file=sys.stderr)
        counts = ["--per-class", str(self.per_class), "--test-per-class", "100"]
        look = ["--size", str(PHOTO_SIZE), "--correlation", str(correlation)]
        subprocess.run([sys.executable, self.make, out, *counts, *look], check=True)


def draw_photos(out: Path, per_class: int, num_classes: int = 8) -> None:
    """Draws what a smoke test needs: bars of a class's width on its own colour."""
    for split in ("train", "test_same", "test_random"):
        for y in range(num_classes):
            for folder in (out / split / f"class{y}", out / f"{split}_masks" / f"class{y}"):
                folder.mkdir(parents=True)
            for number in range(per_class):
                colour = (30 * (number if split == "test_random" else y) % 256, 90, 160)
                image = Image.new("RGB", (PHOTO_SIZE, PHOTO_SIZE), colour)
                mask = Image.new("L", image.size)
                box = (20, 30, 40 + 6 * y, 60)  # thick enough to be eroded by some pixels
                ImageDraw.Draw(image).rectangle(box, (250, 240, 20))
                ImageDraw.Draw(mask).rectangle(box, 255)
                image.save(out / split / f"class{y}" / f"{number}.jpg")
                mask.save(out / f"{split}_masks" / f"class{y}" / f"{number}.png")


class Split(NamedTuple):
    """Photographs in memory.

    Attributes:
        large: (N, 3, 96, 96) uint8.
        images: (N, 3, 48, 48) uint8.
        labels: (N,) int64.
        classes: names by label.
        keys: CLASS/NAME of each.
    """

    large: Tensor
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    keys: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def load_split(folder: Path) -> Split:
    """Reads photographs of a folder, once in a process."""
    found = find_labelled_images(folder)
    pixels = [np.array(read_image(path)) for path in found.paths]
    large = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    images = torch.stack([resize_bytes(image, (SIZE, SIZE)) for image in large])
    keys = tuple(f"{path.parent.name}/{path.stem}" for path in map(Path, found.paths))
    return Split(large, images, torch.tensor(found.labels), found.classes, keys)


@functools.lru_cache(maxsize=2)
def load_part_values(folder: Path) -> HeldParts:
    """Reads all parts of a set, once in a process."""
    parts = PartSet.open(folder)
    return HeldParts([parts.read(number, foreground=True) for number in range(len(parts))])


def make_parts(
    photos: Photos, correlation: float, kind: str, device: torch.device | str = "cpu"
) -> Parts:
    """Opens the parts of the photographs, read into memory once, at the size of the classifier."""
    split, held = (
        load_split(photos.folder(correlation) / "train"),
        load_part_values(photos.parts(correlation)),
    )
    if kind == "whole":
        whole = dict(zip(split.keys, split.large, strict=True))
        every = [held.read(number) for number in range(len(split.keys))]
        held = HeldParts([replace(part, background=whole[part.key]) for part in every])
    labels = {name: y for y, name in enumerate(split.classes)}
    return open_parts(held, SIZE, device, class_to_idx=labels, num_threads=0)


def make_batches(split: Split) -> list[tuple[Tensor, Tensor]]:
    """Returns test photographs as the classifier sees them."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (LOOK.mean, LOOK.std))
    batches = zip(split.images.tensor_split(8), split.labels.tensor_split(8), strict=True)
    return [((images / 255 - mean) / std, labels) for images, labels in batches]


class Photographs(Dataset[tuple[Tensor, int]]):
    """Real photographs as the classifier sees them: augmented, flipped half of the time."""

    def __init__(self, split: Split, augment: str | None) -> None:
        self._images, self._labels = split.images, split.labels.tolist()
        self._mean, self._std = (torch.tensor(x).view(3, 1, 1) for x in (LOOK.mean, LOOK.std))
        self._augment: Callable[[Image.Image], Image.Image] | None = None
        if augment == "randaugment":
            grey = tuple(round(255 * value) for value in LOOK.mean)
            options = {"translate_const": int(0.45 * SIZE), "img_mean": grey}
            self._augment = rand_augment_transform(RANDAUGMENT, options)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._images[index]
        if self._augment is not None:
            image = pil_to_tensor(self._augment(to_pil_image(image)))
        if random.random() < 0.5:
            image = image.flip(2)
        return (image / 255 - self._mean) / self._std, self._labels[index]
