"""Tiny sets in the layouts of the benchmarks, with counts that are known by hand.

Image number n of a set has the colour (n, 255 - n, 40 * label), so that a test knows which it sees.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image

SIDE = 16

WATERBIRDS = {
    "train": (5, 1, 1, 4),
    "val": (2, 2, 1, 1),
    "test": (3, 3, 2, 2),
}
"""Images of each group: landbird on land, landbird on water, waterbird on land, on water."""

URBANCARS = {
    "train": (4, 1, 1, 1, 1, 1, 1, 4),
    "val": (1,) * 8,
    "test": (2,) * 8,
}
"""Images of each group, 4 * car + 2 * background + object, where 0 is urban."""

SPAWRIOUS_IMAGES = 100
"""Images of a breed in a location, instead of 3168: 97 and 87 before, 3 and 13 to fill."""

LOCATIONS = ("beach", "desert", "dirt", "jungle", "mountain", "snow")
BREEDS = ("bulldog", "corgi", "dachshund", "labrador")
IMAGENET9 = (
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
)


def save_image(path: Path, number: int = 0, label: int = 0, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (number % 256, 255 - number % 256, 40 * label)).save(path)


def save_mask(path: Path, side: int = SIDE) -> None:
    """A square in the middle is the object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    mask.save(path)


def write_rows(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def make_waterbirds(
    root: Path, *, inside: str = "", masks: bool = False, side: int = SIDE, suffix: str = ".jpg"
) -> Path:
    """Images of the counts of `WATERBIRDS`, below the folder `inside`."""
    rows: list[list[object]] = [["img_id", "img_filename", "y", "split", "place", "place_filename"]]
    for split, (name, counts) in enumerate(WATERBIRDS.items()):
        for group, count in enumerate(counts):
            label, place = divmod(group, 2)
            for i in range(count):
                number = len(rows)
                bird = ("001.Landbird", "002.Waterbird")[label]
                file = f"{bird}/{name}_{group}_{i}{suffix}"
                save_image(root / inside / file, number, label, side)
                if masks:
                    save_mask((root / "segmentations" / file).with_suffix(".png"), side)
                rows.append([number, file, label, split, place, f"/p/{number}.jpg"])
    write_rows(root / "metadata.csv", rows)
    return root


def make_spawrious(
    root: Path,
    *,
    num: int = SPAWRIOUS_IMAGES,
    locations: Sequence[str] = LOCATIONS,
    environments: Sequence[int] = (0, 1),
    side: int = SIDE,
) -> Path:
    """Images of all breeds in all locations, `num` each; all are copies of one file of a breed."""
    for label, breed in enumerate(BREEDS):
        one = root / f"{breed}.png"
        save_image(one, label, label, side)
        for environment, location in product(environments, locations):
            folder = root / "spawrious224" / str(environment) / location / breed
            folder.mkdir(parents=True)
            for i in range(num):
                (folder / f"{location}_{breed}_{i}.png").hardlink_to(one)
    return root


def make_urbancars(root: Path, *, masks: bool = False, side: int = SIDE) -> Path:
    """Images of the counts of `URBANCARS`."""
    kinds = ("urban", "country")
    number = 0
    for split, counts in URBANCARS.items():
        ratio = 0.95 if split == "train" else 0.5
        for count, (car, background, thing) in zip(counts, product(kinds, repeat=3), strict=True):
            group = f"obj-{car}_bg-{background}_co_occur_obj-{thing}"
            folder = root / f"bg-{ratio}_co_occur_obj-{ratio}" / split / group
            folder.mkdir(parents=True)
            for i in range(count):
                save_image(folder / f"{i:03d}.jpg", number, kinds.index(car), side)
                if masks:
                    save_mask(folder / f"{i:03d}_mask.png", side)
                    save_mask(folder / f"{i:03d}_co_occur_obj_mask.png", side)
                number += 1
    return root


def make_imagenet9(
    root: Path,
    variants: Sequence[str] = ("original", "mixed_same", "mixed_rand", "only_fg", "no_fg"),
    *,
    num: int = 1,
    side: int = SIDE,
) -> Path:
    """`num` images of each class in each variant."""
    for variant in variants:
        for label, name in enumerate(IMAGENET9):
            for i in range(num):
                save_image(root / variant / "val" / name / f"{i}.JPEG", i, label % 6, side)
    return root


def make_table(
    path: Path,
    *,
    columns: Sequence[str] = ("path", "label", "split", "group", "mask"),
    num: int = 2,
    side: int = SIDE,
) -> Path:
    """`num` images of cat and dog, by day and night, for each of train, val and test."""
    rows: list[Sequence[object]] = [columns]
    for split, (label, name), time in product(
        ("train", "val", "test"), enumerate(("cat", "dog")), ("day", "night")
    ):
        for i in range(num):
            file, mask = f"{split}/{name}_{time}_{i}.png", f"masks/{split}/{name}_{time}_{i}.png"
            save_image(path.parent / file, len(rows), label, side)
            save_mask(path.parent / mask, side)
            rows.append([file, name, split, time, mask])
    return write_rows(path, rows)
