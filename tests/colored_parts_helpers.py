"""Parts in memory that tell which image they are of, for the tests of what draws from parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cgn_augment import MaskGate, Parts
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.cut import take_apart
from cgn_augment.parts.held import HeldParts
from cgn_augment.parts.opening import open_parts
from cgn_augment.parts.part import Part
from cgn_augment.parts.writing import write_parts

CLASSES = ("ant", "bee", "cow")
SIZES = ((40, 40), (40, 60), (50, 30))


def make_part(number: int, size: tuple[int, int] | None = None, **options: Any) -> Part:
    """An image of one colour with an object of one colour; both say which image it is.

    The object's red is 200 plus the number and the background's red is the number; the green is
    the same of classes, in steps of 20.
    """
    y = number % len(CLASSES)
    height, width = size or SIZES[number % len(SIZES)]
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0], image[1] = number, 20 * y
    mask = torch.zeros(1, height, width)
    top, left = 4 + number % 7, 3 + number % 5
    mask[:, top : top + 14, left : left + 18] = 1
    image[0, mask[0] > 0], image[1, mask[0] > 0] = 200 + number, 20 * y + 100
    settings = {"filler": "none", "gate": MaskGate(), "max_hole": 1.0, **options}
    return take_apart(image, mask, key=f"{CLASSES[y]}/{number}", label=CLASSES[y], **settings)


def make_set(num: int = 12, size: tuple[int, int] | None = None, **options: Any) -> HeldParts:
    return HeldParts([make_part(number, size, **options) for number in range(num)])


def make_parts(size: int = 32, num: int = 12, **options: Any) -> Parts:
    return open_parts(make_set(num), size, **options)


def write_photos(folder: Path, num: int = 9, size: int = 40) -> Path:
    """The images of `make_part` as a folder of class folders of PNG; alpha is the mask."""
    for number in range(num):
        part = make_part(number, (size, size))
        assert part.object is not None
        assert part.background is not None
        top, left, height, width = part.box
        pixels = torch.cat([part.background, torch.zeros(1, *part.size, dtype=torch.uint8)])
        pixels[:, top : top + height, left : left + width] = part.object
        pixels[3] = 255 * (pixels[3] > 0)
        (folder / part.label).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.save(folder / part.label / f"{number}.png")
    return folder


def write_set(folder: Path, num: int = 9, size: int = 40) -> Path:
    """A set on disk of `write_photos`."""
    photos = write_photos(folder / "photos", num, size)
    config = PartConfig(masks="alpha", fill="none")
    write_parts(photos, folder / "parts", config, num_workers=0)
    return folder / "parts"
