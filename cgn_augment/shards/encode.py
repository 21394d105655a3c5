"""Turns drawn images into the files of samples, and back."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cgn_augment.generators.drawing import known_classes
from cgn_augment.images.tar import Sample
from cgn_augment.shards.config import ImageFormat, ShardConfig, sample_key
from cgn_augment.shards.sampling import draw_numbered, numbered_classes, pictures, to_pixels
from cgn_augment.types import FACTORS, Mechanisms

Array = npt.NDArray[Any]

IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


@dataclass(frozen=True)
class Block:
    """A block of images as they are kept, on the CPU.

    Attributes:
        first: index of the first image.
        classes: (3, N) int64 classes of shape, texture and background.
        pictures: by suffix such as "jpg" or "mask.png": (N, H, W, 3) or (N, H, W) uint8, and for
            npy (N, C, H, W) float32.
    """

    first: int
    classes: Array
    pictures: dict[str, Array]


@torch.no_grad()
def draw_block(cgn: Mechanisms, config: ShardConfig, block: int) -> Block:
    """Draws the block of this number, always whole."""
    first = block * config.block_size
    rules, numbers = config.interventions, range(first, first + config.block_size)
    classes = numbered_classes(rules, known_classes(cgn), numbers, config.seed)
    factors = draw_numbered(
        cgn,
        classes,
        first,
        seed=config.seed,
        num_per_shape=rules.num_per_shape,
        tied=rules.is_tied,
    )
    drawn = pictures(factors)
    arrays = {}
    for suffix in config.suffixes:
        member, _, kind = suffix.rpartition(".")
        if kind in IMAGE_FORMATS:
            images = drawn[member or "composite"].float()
            arrays[suffix] = images.cpu().numpy() if kind == "npy" else to_pixels(images)
    return Block(first, classes.numpy(), arrays)


def encode_block(block: Block, config: ShardConfig, indices: range) -> list[Sample]:
    """Encodes those images of a block whose index is in `indices`.

    The classes of a sample lie in `__classes__` too, which is not written to the tar.
    """
    samples = []
    for index, row in enumerate(block.classes.T.tolist(), start=block.first):
        if index not in indices:
            continue
        classes = dict(zip(FACTORS, row, strict=True))
        sample: Sample = {
            "__key__": sample_key(index),
            "__classes__": classes,
            "cls": str(classes[config.label]).encode(),
            "json": json.dumps({**classes, **config.place(index)}).encode(),
        }
        for suffix, arrays in block.pictures.items():
            kind = suffix.rpartition(".")[2]
            sample[suffix] = encode_picture(arrays[index - block.first], kind, config.quality)
        samples.append(sample)
    return samples


def encode_picture(array: Array, kind: str, quality: int = 95) -> bytes:
    """Encodes (H, W, 3) or (H, W) uint8 as png, jpg or webp; any array as npy."""
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, array, allow_pickle=False)
        return file.getvalue()
    picture = Image.fromarray(array)
    if kind == "jpg":
        # Without subsampling: at 32x32 it would halve the colours' resolution to 16x16.
        picture.save(file, "JPEG", quality=quality, subsampling=0)
    else:
        picture.save(file, kind, quality=quality)
    return file.getvalue()


def decode_picture(data: bytes, kind: str) -> Array:
    """Decodes what `encode_picture` made.

    Returns:
        (H, W, 3) or (H, W) uint8; for npy what the file holds.

    Raises:
        Exception: of Pillow or NumPy, where the bytes are damaged.
    """
    if kind == "npy":
        array: Array = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def to_images(decoded: Tensor) -> Tensor:
    """Returns decoded images as (N, 3, H, W) float32 in [-1, 1]; masks (N, 1, H, W) in [0, 1]."""
    if decoded.dtype != torch.uint8:
        return decoded
    if decoded.dim() == 3:
        return decoded[:, None].float().div_(255)
    return decoded.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def image_kind(sample: Sample) -> ImageFormat:
    """Returns the format of a sample's image, or raises a KeyError if it has none."""
    for kind in IMAGE_FORMATS:
        if kind in sample:
            return kind
    raise KeyError(f"no image of the kinds {', '.join(IMAGE_FORMATS)}")
