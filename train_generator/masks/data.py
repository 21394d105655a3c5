"""Photographs, some of them with masks drawn by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgn_augment.errors import DataError
from cgn_augment.files import first_line
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.images.finding import find_images, read_image
from cgn_augment.images.reading import Pixels, open_image, resize_mask, to_mask
from cgn_augment.parts.fill import fill_with_copies
from cgn_augment.ranks import count_cores

LEAST = 4
"""Fewest images that a masker can learn from."""


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        name: path of the image relative to its folder.
        image: its file.
        mask: its file.
    """

    name: str
    image: Path
    mask: Path


class Annotated(NamedTuple):
    """Photographs of one size, their masks, and the backgrounds behind their objects.

    Attributes:
        images: (N, 3, S, S) uint8.
        masks: (N, 1, S, S) float32 in [0, 1].
        backgrounds: (N, 3, S, S) uint8, images with the object removed and filled.
    """

    images: Tensor
    masks: Tensor
    backgrounds: Tensor


def find_pairs(images: Path, masks: Path) -> list[Pair]:
    """Finds the images that have masks.

    Args:
        images: a folder with images, in folders of classes or not.
        masks: a folder that mirrors it: the mask of images/cat/1.jpg is masks/cat/1.png. Images
            without a mask are ignored.

    Returns:
        The pairs, in the order of their paths.

    Raises:
        DataError: a folder is missing, fewer than four images have a mask, or two share one mask.

    Examples:
        >>> from PIL import Image
        >>> from train_generator.masks.data import find_pairs
        >>> folder = getfixture("tmp_path")
        >>> for name in ("photos", "masks"):
        ...     (folder / name).mkdir()
        >>> for number in range(5):
        ...     Image.new("RGB", (8, 8)).save(folder / "photos" / f"{number}.jpg")
        ...     Image.new("L", (8, 8)).save(folder / "masks" / f"{number + 1}.png")
        >>> [pair.name for pair in find_pairs(folder / "photos", folder / "masks")]
        ['1.jpg', '2.jpg', '3.jpg', '4.jpg']
    """
    images, masks = images.expanduser(), masks.expanduser()
    if not masks.is_dir():
        raise DataError(f"there is no folder {masks} of masks: give one that mirrors {images}")
    pairs: dict[Path, Pair] = {}
    for path in find_images(images):
        name = path.relative_to(images)
        mask = masks / name.with_suffix(".png")
        if mask in pairs:
            raise DataError(f"{pairs[mask].image} and {path} have one mask: rename one of them")
        if mask.is_file():
            pairs[mask] = Pair(name.as_posix(), path, mask)
    if len(pairs) < LEAST:
        raise DataError(
            f"{len(pairs)} images of {images} have a mask in {masks}, and {LEAST} or more are "
            "needed: the mask of cat/1.jpg is cat/1.png, white on the object"
        )
    return list(pairs.values())


def hold_out(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Splits pairs at random into those to learn from and those to measure on.

    Args:
        pairs: images with masks.
        share: share to measure on, in [0, 1); if above 0, at least one pair.
        seed: seed of the choice.

    Raises:
        DataError: too few are left to learn from.

    Examples:
        >>> from pathlib import Path
        >>> from train_generator.masks.data import Pair, hold_out
        >>> pairs = [Pair(str(n), Path(), Path()) for n in range(10)]
        >>> [len(part) for part in hold_out(pairs, 0.2, seed=0)]
        [8, 2]
    """
    num = math.ceil(share * len(pairs) - 1e-9)
    if len(pairs) - num < LEAST:
        raise DataError(
            f"of {len(pairs)} masks {num} are held out, and {LEAST} or more are needed to learn "
            "from: draw more, or give a smaller holdout"
        )
    order = torch.randperm(len(pairs), generator=step_generator(Purpose.ORDER, seed)).tolist()
    held = set(order[:num])
    return (
        [pair for place, pair in enumerate(pairs) if place not in held],
        [pair for place, pair in enumerate(pairs) if place in held],
    )


def read_pair(pair: Pair) -> tuple[Image.Image, Pixels]:
    """Returns an image and its mask (H, W) float32 in [0, 1], both upright and of one size.

    Args:
        pair: files of the image and its mask.

    Raises:
        DataError: one cannot be read, they differ in size, or the mask has no object or no
            background.
    """
    image = read_image(pair.image)
    try:
        with open_image(str(pair.mask)) as file:
            mask = to_mask(file)
    except Exception as error:  # damaged bytes make Pillow raise anything
        raise DataError(
            f"{pair.mask} cannot be read as a mask: replace or remove it ({first_line(error)})"
        ) from error
    if mask.shape != image.size[::-1]:
        raise DataError(
            f"{pair.mask} has {mask.shape[1]}x{mask.shape[0]} pixels and {pair.image} "
            f"{image.width}x{image.height}: fit them"
        )
    inside = mask > 0.5
    if inside.all() or not inside.any():
        what = "nothing but object" if inside.any() else "no object"
        raise DataError(f"{pair.mask} shows {what}: make the object white, and the rest black")
    return image, mask


def read_annotated(pairs: Sequence[Pair], size: int) -> Annotated:
    """Reads pairs into memory at one size, squeezed into a square, and fills their backgrounds.

    Args:
        pairs: images with masks.
        size: side of the square, in pixels.

    Raises:
        DataError: see `read_pair`.
    """
    with ThreadPoolExecutor(count_cores()) as pool:
        read = list(pool.map(lambda pair: _read(pair, size), pairs))
    images, masks, backgrounds = (torch.stack(each) for each in zip(*read, strict=True))
    return Annotated(images, masks, backgrounds)


def to_square(image: Image.Image, size: int) -> Tensor:
    """Returns an image squeezed into a square, (3, size, size) uint8, the form maskers expect.

    Args:
        image: an image in RGB.
        size: side of the square, in pixels.
    """
    square = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def _read(pair: Pair, size: int) -> tuple[Tensor, Tensor, Tensor]:
    image, mask = read_pair(pair)
    small = to_square(image, size)
    shrunk = torch.from_numpy(resize_mask(mask, (size, size)).copy())
    hole = torch.nn.functional.max_pool2d(shrunk[None], 5, 1, 2)[0] > 0.1  # with the halo around it
    fills = bool(hole.any()) and not bool(hole.all())
    background = fill_with_copies(small, hole) if fills else small
    return small, shrunk[None], background
