"""Real images of a folder, in the form that the FID reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgn_augment.images.finding import read_image


def read_square(path: Path | str, size: int) -> Tensor:
    """Returns the centre square of an image as (3, size, size) uint8, resized with antialiasing.

    Raises:
        DataError: the file is not an image, or is truncated.
    """
    image = read_image(path)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def read_batches(paths: Sequence[Path | str], size: int, batch_size: int) -> Iterator[Tensor]:
    """Yields batches (N, 3, size, size) uint8 of the images; see `read_square`."""
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        yield torch.stack([read_square(path, size) for path in batch])
