"""Reads pixels as intended: upright, in eight bits, masks in [0, 1].

Pillow leaves an image as the camera held it, clips 16-bit grey at 255, and takes a palette's
colours for shades of grey, all without a warning.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cgn_augment.images.remote import local_path, open_file, protocol_of

Pixels = npt.NDArray[np.float32]

Encoded = str | bytes
"""An image file: its path, URL or content."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted formats by Pillow's names, whatever a file is called. Pillow knows more, and starts
Ghostscript for some of them."""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_COLOURED = 32  # difference between channels; JPEG makes smaller ones in grey


def open_image(file: Encoded) -> Image.Image:
    """Opens an image file in one of the `FORMATS`, without reading its pixels.

    Raises:
        OSError: it is missing, not a regular file, or not an image.
    """
    if isinstance(file, bytes):
        return Image.open(io.BytesIO(file), formats=FORMATS)
    with open_file(file) as stream:
        if protocol_of(file):
            return Image.open(io.BytesIO(stream.read()), formats=FORMATS)
    return Image.open(local_path(file), formats=FORMATS)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns displayed height and width of an image, in pixels."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image upright and in RGB, eight bits per channel.

    Applies the camera's orientation (EXIF), divides 16-bit grey by 257, converts CMYK, palettes and
    grey, and drops an alpha channel.

    Raises:
        ValueError: the pixels are floating point or have more than 16 bits.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from cgn_augment.images.reading import to_rgb
        >>> deep = Image.fromarray(np.full((2, 2), 257 * 200, np.uint16))
        >>> to_rgb(deep).getpixel((0, 0))
        (200, 200, 200)
    """
    return _to_mode(_upright(image), "RGB")


def to_mask(image: Image.Image) -> Pixels:
    """Returns a mask upright, (H, W) float32 in [0, 1].

    Black is background, white is object, and grey is between. A mask of 0 and 1 is read as 0 and
    255. In a coloured mask (a palette of classes or objects) every colour but black is object.
    Transparent pixels are background.

    Raises:
        ValueError: the pixels are floating point or have more than 16 bits.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from cgn_augment.images.reading import to_mask
        >>> to_mask(Image.fromarray(np.uint8([[0, 1], [1, 0]]))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    image = _upright(image)
    if image.mode in _DEEP:
        return _shares(_sixteen_bits(image), 65535)
    if image.mode == "L":
        return _shares(np.asarray(image), 255)
    rgba = np.asarray(_to_mode(image, "RGBA")).astype(np.float32)
    colours = rgba[..., :3] * rgba[..., 3:] / 255
    most = colours.max(axis=-1)
    if (most - colours.min(axis=-1)).max(initial=0) > _COLOURED:
        return np.asarray(most > 0, np.float32)
    return _shares(most, 255)


def _shares(grey: npt.NDArray[Any], white: int) -> Pixels:
    most = 1 if grey.max(initial=0) == 1 else white
    return (grey / most).astype(np.float32)


def alpha_of(image: Image.Image) -> Pixels:
    """Returns the alpha channel of an image, upright, (H, W) float32 in [0, 1].

    Raises:
        ValueError: it has no alpha channel.
    """
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise ValueError(f"it has no alpha channel (its mode is {image.mode})")
    alpha = _upright(image).convert("RGBA").getchannel("A")
    return (np.asarray(alpha) / 255).astype(np.float32)


def bounded(size: tuple[int, int], bound: int) -> tuple[int, int]:
    """Returns height and width of an image of `size`, scaled so that no side exceeds `bound`.

    Examples:
        >>> from cgn_augment.images.reading import bounded
        >>> bounded((1000, 500), 224), bounded((100, 50), 224)
        ((224, 112), (100, 50))
    """
    height, width = size
    scale = min(1.0, bound / max(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_mask(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes a mask (h, w) float32 in [0, 1] to height and width `size`."""
    if mask.shape == size:
        return mask
    resized = Image.fromarray(mask).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).clip(0, 1)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) or image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in _DEEP:
        image = Image.fromarray((_sixteen_bits(image) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating point numbers, whose range is not known")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _sixteen_bits(image: Image.Image) -> npt.NDArray[np.int64]:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
        raise ValueError("its pixels have more than 16 bits")
    return pixels
