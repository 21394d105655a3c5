"""Encodes drawn images as the files of samples, and decodes them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cgn_augment.errors import CGNError, DataError
from cgn_augment.files import first_line, parse_json
from cgn_augment.generators.drawing import known_classes
from cgn_augment.images.tar import Sample
from cgn_augment.shards.config import ImageFormat, ShardConfig, sample_key
from cgn_augment.shards.sampling import draw_numbered, numbered_classes, pictures, to_pixels
from cgn_augment.types import FACTORS, Mechanisms

Array = npt.NDArray[Any]

IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)

_PILLOW_NAMES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_MODES = {1: "L", 3: "RGB"}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MOST = 1.001
"""Largest value of an array: a blend of values in [-1, 1] may exceed 1 in its last digits."""


@dataclass(frozen=True)
class Block:
    """A block of images in stored form, on the CPU.

    Attributes:
        first: index of the first image.
        classes: (3, N) int64 classes of shape, texture and background.
        pictures: by suffix, such as "jpg" or "mask.png": (N, H, W, 3) or (N, H, W) uint8; for npy
            (N, C, H, W) float32.
    """

    first: int
    classes: Array
    pictures: dict[str, Array]


@torch.no_grad()
def draw_block(cgn: Mechanisms, config: ShardConfig, block: int) -> Block:
    """Draws the block with this number, always whole."""
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
    """Encodes the images of a block whose index is in `indices`.

    A sample also holds its classes in `__classes__`, which is not written to the tar.
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
        # Without subsampling, which would halve the colour resolution, from 32x32 to 16x16.
        picture.save(file, "JPEG", quality=quality, subsampling=0)
    else:
        picture.save(file, kind, quality=quality)
    return file.getvalue()


def decode_picture(data: bytes, kind: str, size: int, channels: int = 3) -> Array:
    """Decodes a file of `encode_picture`, after checking that it is what the set should hold.

    Size, channels and type are at the start of a file and are checked first, so a small file that
    unpacks to a huge picture costs nothing.

    Args:
        data: the file.
        kind: format of the file: png, jpg, webp or npy.
        size: expected height and width, in pixels.
        channels: expected channels: 3 for an image, 1 for a mask.

    Returns:
        (H, W, 3) or (H, W) uint8; for npy (C, H, W) float32.

    Raises:
        DataError: it has another size or type, or holds NaN or values far outside [-1, 1].
        Exception: raised by Pillow or NumPy if the bytes are damaged.
    """
    if kind == "npy":
        return _decode_array(data, (channels, size, size))
    try:
        opened = Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[kind]])
    except UnidentifiedImageError as error:
        raise DataError(f"it is no {_PILLOW_NAMES[kind]} file") from error
    with opened as picture:
        found, wanted = (picture.mode, picture.size), (_MODES[channels], (size, size))
        if found != wanted:
            raise DataError(f"it is {_name(*found)} and not {_name(*wanted)}")
        return np.asarray(picture)


def describe(error: Exception) -> str:
    """Returns one line that says what is wrong with a sample that could not be decoded."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    kind = "" if isinstance(error, CGNError) else f"{type(error).__name__}: "
    return kind + first_line(error)


def _name(mode: str, size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} {mode}"


def _decode_array(data: bytes, shape: tuple[int, ...]) -> Array:
    # NumPy alone would allocate memory for any shape that the file claims.
    file = io.BytesIO(data)
    read_header = _HEADERS.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise DataError("it is of another version of npy than any that is written here")
    found, _, dtype = read_header(file)
    if found != shape or dtype != np.float32:
        raise DataError(f"it is {dtype} of the shape {found} and not float32 of {shape}")
    array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    if not float(np.abs(array).max()) <= _MOST:
        raise DataError("it holds NaN or values outside [-1, 1]")
    return array


def to_images(decoded: Tensor) -> Tensor:
    """Returns decoded images as (N, 3, H, W) float32 in [-1, 1]; masks (N, 1, H, W) in [0, 1]."""
    if decoded.dtype != torch.uint8:
        return decoded
    if decoded.dim() == 3:
        return decoded[:, None].float().div_(255)
    return decoded.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def read_classes(data: bytes, num_classes: int) -> dict[str, int]:
    """Returns the class of each factor in a sample's json.

    Raises:
        DataError: a class is missing, is not an integer, or is out of range.
    """
    try:
        found = parse_json(data)
        classes = {factor: found[factor] for factor in FACTORS}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"it has labels that cannot be read ({first_line(error)})") from error
    if not all(type(y) is int and 0 <= y < num_classes for y in classes.values()):
        raise DataError(f"it has the classes {shorten(str(classes), 90)} of {num_classes}")
    return classes
