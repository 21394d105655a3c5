"""Plain folders of real images, as the FID reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgn_augment.errors import DataError

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm"})


def find_images(folder: Path) -> list[Path]:
    """Returns the images of a folder and all folders in it, sorted by path.

    Raises:
        DataError: there is no such folder, or it holds fewer than two images.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one with images, in subfolders or not")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise DataError(
            f"{folder} holds {len(paths)} images ({', '.join(sorted(SUFFIXES))}), and two or more "
            "are needed"
        )
    return paths


def read_image(path: Path, size: int) -> Tensor:
    """Returns the middle square of an image as (3, size, size) uint8, resized with antialiasing.

    Raises:
        DataError: the file is no image, or is cut off.
    """
    try:
        with Image.open(path) as image:
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
            square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; replace it or take it away") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def read_batches(paths: list[Path], size: int, batch_size: int) -> Iterator[Tensor]:
    """Yields batches (N, 3, size, size) uint8 of the images; see `read_image`."""
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        yield torch.stack([read_image(path, size) for path in batch])
