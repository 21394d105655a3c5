"""Photographs of land and water animals with groups, and their parts: made once, read into memory.

The layout is that of Waterbirds. Validation and test photographs do not depend on the correlation
and are kept once, in their own folder.
"""

from __future__ import annotations

import csv
import functools
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from photographs_data import LOOK, PHOTO_SIZE, SIZE, load_part_values
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from cgn_augment import Parts
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import read_image
from cgn_augment.images.image_table import Groups
from cgn_augment.images.waterbirds import METADATA, SEGMENTATIONS, read_waterbirds
from cgn_augment.parts.fitting import resize_bytes
from cgn_augment.parts.opening import open_parts
from cgn_augment.parts.writing import PartConfig, write_parts
from cgn_augment.shards.layout import MANIFEST


@dataclass(frozen=True)
class GroupPhotos:
    """Where photographs and parts are, by their correlation.

    Attributes:
        cache: folder of all of them.
        make: the tool that makes photographs; None where they are there already.
        per_class: training photographs.
        test_per_class: test photographs, and as many validation photographs.
        fill: how backgrounds are filled.
        batch: images of a step.
    """

    cache: Path
    make: Path | None
    per_class: int
    test_per_class: int
    fill: str
    batch: int = 64

    @property
    def tests(self) -> Path:
        """Where validation and test photographs are."""
        return self.cache / f"tests-{self.test_per_class}"

    def train(self, correlation: float) -> Path:
        """Returns where the training photographs and their masks are."""
        return self.cache / f"train-{correlation}-{self.per_class}"

    def parts(self, correlation: float) -> Path:
        """Returns where their parts are."""
        return self.cache / f"parts-{correlation}-{self.per_class}-{self.fill}"

    def prepare(self, correlation: float, with_parts: bool, drawn: bool = False) -> None:
        """Makes what is not there yet; what was broken off goes on or is made anew.

        Args:
            correlation: of the training photographs.
            with_parts: whether parts are needed.
            drawn: whether a few drawn images stand for photographs.
        """
        if not self.train(correlation).is_dir() or not self.tests.is_dir():
            whole = self.cache / f"unfinished-{correlation}"
            shutil.rmtree(whole, ignore_errors=True)
            if drawn:
                draw_animals(whole, self.per_class, self.test_per_class, correlation)
            else:
                self._make(whole, correlation)
            self._take_apart(whole, correlation)
            shutil.rmtree(whole)
        if with_parts and not (self.parts(correlation) / MANIFEST).is_file():
            out, workers = self.parts(correlation), 0 if drawn else None
            config = PartConfig(fill=self.fill)  # type: ignore[arg-type]
            place = f"waterbirds:{self.train(correlation)}"
            write_parts(place, out, config, resume=out.is_dir(), num_workers=workers, progress=True)

    def _make(self, out: Path, correlation: float) -> None:
        if self.make is None:
            raise ArgumentError(
                f"there are no photographs in {self.cache}: say where the tool is that makes them, "
                "--make-photos"
            )
        print(f"making photographs at correlation {correlation} ...", file=sys.stderr)
        counts = ["--per-class", str(self.per_class)]
        counts += ["--test-per-class", str(self.test_per_class)]
        look = ["--size", str(PHOTO_SIZE), "--correlation", str(correlation)]
        words = [out, "--layout", "waterbirds", *counts, *look]
        subprocess.run([sys.executable, self.make, *words], check=True)

    def _take_apart(self, whole: Path, correlation: float) -> None:
        """Keeps training photographs with their masks, and the others once without."""
        with (whole / METADATA).open(newline="") as file:
            rows = list(csv.DictReader(file))
        train = [row for row in rows if row["split"] == "0"]
        tests = [row for row in rows if row["split"] != "0"]
        for row in tests if self.tests.is_dir() else []:
            name = row["img_filename"]
            if (whole / name).read_bytes() != (self.tests / name).read_bytes():
                raise DataError(f"{self.tests / name} is of another making: remove {self.tests}")
        for folder, chosen in ((self.tests, tests), (self.train(correlation), train)):
            if folder.is_dir():
                continue
            unfinished = folder.with_name(f"{folder.name}-unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for row in chosen:
                names = [row["img_filename"]]
                if chosen is train:
                    mask = Path(SEGMENTATIONS, row["img_filename"]).with_suffix(".png")
                    names.append(str(mask))
                for name in names:
                    (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(whole / name, unfinished / name)
            write_rows(unfinished, chosen)
            unfinished.rename(folder)


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    """Writes the table of a folder of Waterbirds."""
    with (folder / METADATA).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_animals(out: Path, per_class: int, test_per_class: int, correlation: float) -> None:
    """Draws what a smoke test needs: bars of a class's width on the colour of a place."""
    away = round((1 - correlation) * per_class)
    rows = []
    for split, num in enumerate((per_class, test_per_class, test_per_class)):
        for y in (0, 1):
            for number in range(num):
                place = (y + (number < away)) % 2 if split == 0 else number % 2
                image = Image.new("RGB", (PHOTO_SIZE, PHOTO_SIZE), (30, 90, 60 + 120 * place))
                mask = Image.new("L", image.size)
                box = (20, 30, 40 + 30 * y, 60)
                ImageDraw.Draw(image).rectangle(box, (250, 240, 20 + number))
                ImageDraw.Draw(mask).rectangle(box, 255)
                name = f"{y:03d}/{split}_{number}.jpg"
                for path in (out / name, (out / SEGMENTATIONS / name).with_suffix(".png")):
                    path.parent.mkdir(parents=True, exist_ok=True)
                image.save(out / name)
                mask.save((out / SEGMENTATIONS / name).with_suffix(".png"))
                row = {"img_id": len(rows) + 1, "img_filename": name, "y": y, "split": split}
                rows.append({key: str(value) for key, value in {**row, "place": place}.items()})
    write_rows(out, rows)


class GroupSplit(NamedTuple):
    """Photographs of a split in memory.

    Attributes:
        images: (N, 3, 48, 48) uint8.
        labels: (N,) int64.
        groups: of each, with the names of all.
        classes: names by label.
    """

    images: Tensor
    labels: Tensor
    groups: Groups
    classes: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def load_split(folder: Path, split: str) -> GroupSplit:
    """Reads photographs of a folder, once in a process."""
    table = read_waterbirds(folder).of_split(split)
    if table.groups is None:
        raise DataError(f"{folder} says nothing of groups")
    pixels = [np.array(read_image(Path(path))) for path in table.paths]
    large = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    images = torch.stack([resize_bytes(image, (SIZE, SIZE)) for image in large])
    return GroupSplit(images, torch.tensor(table.labels), table.groups, table.classes)


def make_parts(
    photos: GroupPhotos, correlation: float, classes: tuple[str, ...], device: torch.device
) -> Parts:
    """Opens the parts of the photographs, read into memory once, at the size of the classifier."""
    held = load_part_values(photos.parts(correlation))
    labels = {name: y for y, name in enumerate(classes)}
    return open_parts(held, SIZE, device, class_to_idx=labels, num_threads=0)


def normalise(images: Tensor) -> Tensor:
    """Returns photographs (N, 3, H, W) uint8, or one, as the classifier sees them."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (LOOK.mean, LOOK.std))
    return (images / 255 - mean) / std


def make_batches(split: GroupSplit) -> list[tuple[Tensor, Tensor]]:
    """Returns photographs of a split in their order, as the classifier sees them."""
    batches = zip(split.images.split(100), split.labels.split(100), strict=True)
    return [(normalise(images), labels) for images, labels in batches]


class GroupedPhotographs(Dataset[tuple[Tensor, int, int]]):
    """Real photographs as the classifier sees them, with class and group, flipped half the time."""

    def __init__(self, split: GroupSplit) -> None:
        self._images, self._labels = split.images, split.labels.tolist()
        self._groups = split.groups.numbers

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = self._images[index]
        if random.random() < 0.5:
            image = image.flip(2)
        return normalise(image), self._labels[index], self._groups[index]
