"""Fits parts of any size and aspect ratio into a square; pure functions of uint8 pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_object(
    cut: Tensor, box: tuple[int, int, int, int], image: tuple[int, int], size: int
) -> Tensor:
    """Puts an object into an empty square, at its place in the image.

    It keeps its aspect ratio and its share of the image's area, unless it would not fit. The space
    on both sides keeps its proportion, so an object at a border stays there.

    Args:
        cut: (4, h, w) uint8, colours and a mask.
        box: top, left, height and width of the object in its image, in pixels.
        image: height and width of that image, in pixels.
        size: height and width of the square, in pixels.

    Returns:
        (4, size, size) uint8; 0 outside the box. If the image has that very size, the pixels of
        `cut` at their place.
        `cut` at their place.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.fitting import fit_object
        >>> cut = torch.full((4, 10, 20), 255, dtype=torch.uint8)
        >>> square = fit_object(cut, (45, 100, 10, 20), (100, 400), 100)   # half as wide as high
        >>> rows, columns = square[3].nonzero().T.aminmax(dim=1)[0].tolist(), square[3].any(0).sum()
        >>> rows, int(columns)
        ([48, 24], 10)
    """
    height, width = image
    scale = size / max(math.sqrt(height * width), cut.shape[1], cut.shape[2])
    rows, columns = (max(1, round(side * scale)) for side in cut.shape[1:])
    top, left = (
        _share(start, whole - side) * (size - own)
        for start, side, whole, own in zip(box[:2], box[2:], image, (rows, columns), strict=True)
    )
    top, left = round(top), round(left)
    square = cut.new_zeros(4, size, size)
    square[:, top : top + rows, left : left + columns] = resize_bytes(cut, (rows, columns))
    return square


def _share(start: int, room: int) -> float:
    """Returns the share of the room in front of something; 1/2 if there is no room."""
    return start / room if room else 0.5


def fit_background(background: Tensor, place: float, size: int) -> Tensor:
    """Crops a background to a square and resizes it.

    Args:
        background: (3, H, W) uint8.
        place: position of the crop along the longer side, 0 to 1.
        size: height and width of the square, in pixels.

    Returns:
        (3, size, size) uint8.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.fitting import fit_background
        >>> wide = torch.arange(8, dtype=torch.uint8).expand(3, 4, 8)
        >>> fit_background(wide, 1.0, 4)[0, 0].tolist()
        [4, 5, 6, 7]
    """
    side = min(background.shape[1:])
    top, left = (round((whole - side) * place) for whole in background.shape[1:])
    square = background[:, top : top + side, left : left + side]
    return resize_bytes(square, (size, size))


def resize_bytes(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (C, H, W) uint8, bilinear and antialiased; returns it unchanged at that size."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    # Channels last: bytes are then resized with vector instructions.
    last = pixels[None].contiguous(memory_format=torch.channels_last)
    resized: Tensor = F.interpolate(last, size, mode="bilinear", antialias=True)
    return resized[0].contiguous()
