"""Texture sets for the wildlife variant: procedural, from a folder, or from DTD.

A set has ten object and ten background textures, one per class. The paper (Sauer and Geiger, ICLR
2021, appendix) takes them from the Describable Textures Dataset of Cimpoi et al. (CVPR 2014):
"striped" for objects, "veined" for backgrounds, resized to 150x150.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets import DTD
from torchvision.transforms.functional import pil_to_tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import find_images, read_image
from train_generator.mnist.digits import IMAGE_SIZE
from train_generator.mnist.procedural import STRIPED, VEINED, draw

NUM_CLASSES = 10
TEXTURE_SIZE = 150

DTD_OBJECT_FILES = tuple(
    f"striped_{number:04}.jpg" for number in (1, 91, 8, 43, 92, 28, 97, 4, 125, 33)
)
DTD_BACKGROUND_FILES = tuple(
    f"veined_{number:04}.jpg" for number in (66, 67, 73, 180, 131, 157, 158, 104, 188, 189)
)


@dataclass(frozen=True, eq=False)
class Textures:
    """Ten object and ten background textures, in the order of their classes.

    Attributes:
        object: `(10, 3, H, W) float32 in [0, 1]`.
        background: `(10, 3, H, W) float32 in [0, 1]`.

    Raises:
        ArgumentError: either has another shape, dtype or range, or is smaller than an image.
    """

    object: torch.Tensor
    background: torch.Tensor

    def __post_init__(self) -> None:
        for name, stack in (("object", self.object), ("background", self.background)):
            _check_stack(name, stack)


def procedural_textures(seed: int = 0, size: int = TEXTURE_SIZE) -> Textures:
    """Draws ten striped object textures and ten veined background textures.

    Each can be distinguished from the nineteen others by a 32x32 crop. The seed moves the patterns;
    colours and kinds of pattern stay.

    Args:
        seed: 0 or more; the same seed gives the same textures.
        size: side, in pixels. Patterns keep their scale, so more pixels show more of them.

    Raises:
        ArgumentError: the seed is negative or the size below 32.

    Examples:
        >>> procedural_textures().object.shape
        torch.Size([10, 3, 150, 150])
    """
    require_count("seed", seed, least=0)
    require_count("size", size, least=IMAGE_SIZE)
    striped, veined = draw(STRIPED, seed, size), draw(VEINED, seed, size)
    return Textures(torch.from_numpy(striped.copy()), torch.from_numpy(veined.copy()))


def load_textures(folder: str | Path) -> Textures:
    """Reads a texture set from `folder/object` and `folder/background`, ten images each.

    Images are taken in the order of their names, the first for class 0, and resized to 150x150
    with the nearest neighbour.

    Args:
        folder: holds the two folders.

    Raises:
        DataError: a folder is missing or does not hold ten images, or an image is unreadable.
    """
    stacks = (_read_images(_list_images(Path(folder) / kind)) for kind in ("object", "background"))
    return Textures(*stacks)


def dtd_textures(root: str | Path, download: bool = False) -> Textures:
    """Takes the twenty textures of the paper from the Describable Textures Dataset.

    Args:
        root: the folder given to `torchvision.datasets.DTD`.
        download: fetches DTD (0.6 GB) into `root` first, unless it is there. Its licence allows
            research only.

    Raises:
        DataError: DTD is not at `root` or cannot be fetched, or an image is unreadable.
    """
    if download:
        try:
            DTD(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"DTD could not be downloaded to {root}: {error}; check the connection, or "
                "unpack DTD there by hand"
            ) from error
    images = Path(root) / "dtd" / "dtd" / "images"
    if not images.is_dir():
        raise DataError(
            f"{images} is missing: pass download=True, or the root under which torchvision put DTD"
        )
    return Textures(
        _read_images([images / "striped" / name for name in DTD_OBJECT_FILES]),
        _read_images([images / "veined" / name for name in DTD_BACKGROUND_FILES]),
    )


def _list_images(folder: Path) -> list[Path]:
    images = find_images(folder, least=NUM_CLASSES)
    if len(images) > NUM_CLASSES:
        raise DataError(
            f"{folder} must hold {NUM_CLASSES} images, one per class; it holds {len(images)}: "
            "remove some"
        )
    return images


def _read_images(paths: Sequence[Path]) -> torch.Tensor:
    """Reads images as `(N, 3, 150, 150) float32 in [0, 1]`."""
    size, images = (TEXTURE_SIZE, TEXTURE_SIZE), []
    for path in paths:
        # PIL's nearest neighbour, since the protocol's resize worked on PIL images.
        resized = read_image(path).resize(size, Image.Resampling.NEAREST)
        images.append(pil_to_tensor(resized))
    return torch.stack(images).float() / 255


def _check_stack(name: str, stack: torch.Tensor) -> None:
    if stack.dtype != torch.float32 or stack.ndim != 4 or stack.shape[:2] != (NUM_CLASSES, 3):
        raise ArgumentError(
            f"{name} textures must be ({NUM_CLASSES}, 3, H, W) float32; "
            f"got {tuple(stack.shape)} {stack.dtype}"
        )
    if min(stack.shape[2:]) < IMAGE_SIZE:
        raise ArgumentError(
            f"{name} textures must be at least {IMAGE_SIZE}x{IMAGE_SIZE} pixels; "
            f"got {stack.shape[2]}x{stack.shape[3]}"
        )
    low, high = stack.min().item(), stack.max().item()
    if not (low >= 0 and high <= 1):
        raise ArgumentError(
            f"{name} textures must lie in [0, 1]; got {low:.3g} to {high:.3g}: rescale them"
        )
