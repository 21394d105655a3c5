"""Takes a photo apart and encodes the result: the work of a worker per image."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgn_augment.files import first_line
from cgn_augment.images.reading import (
    Pixels,
    alpha_of,
    bounded,
    open_image,
    resize_mask,
    to_mask,
    to_rgb,
    upright_size,
)
from cgn_augment.images.tar import Sample
from cgn_augment.masks.trust import MaskGate
from cgn_augment.parts.cut import take_apart
from cgn_augment.parts.fill import Filler
from cgn_augment.parts.index import MEMBERS, SMALL, Member, describe_part
from cgn_augment.parts.inputs import NONE, Photo
from cgn_augment.parts.part import Part

UNREADABLE, NO_MASK, OTHER_SIZE, EXCLUDED = "unreadable", "no mask", "mask size", "excluded"
"""Verdicts in addition to those of a gate: image or mask cannot be read, the mask is missing, it
has another size than its image, the key was excluded."""


class LeftOutError(Exception):
    """An image that is left out, and why.

    Args:
        verdict: kind of reason.
        why: the reason in words.
        image: what could be read of it.
    """

    def __init__(self, verdict: str, why: str, image: Image.Image | None = None) -> None:
        super().__init__(why)
        self.verdict, self.why, self.image = verdict, why, image


@dataclass(frozen=True)
class Making:
    """Takes photos apart and encodes them; called with a photo, in any process.

    Attributes:
        size: largest length of the longer side, in pixels.
        filler: fills backgrounds: a name, or a function.
        gate: which masks are trusted.
        max_hole: largest share of the image to fill.
        textures: whether to make sheets of textures.
        quality: JPEG quality, 1 to 100.
        exclude: keys to leave out.
    """

    size: int
    filler: str | Filler
    gate: MaskGate
    max_hole: float
    textures: bool
    quality: int
    exclude: frozenset[str]

    def __call__(self, photo: Photo) -> Sample:
        """Returns the files of a photo's sample by suffix, with its facts in `__facts__`."""
        try:
            if photo.key in self.exclude:
                raise LeftOutError(EXCLUDED, "its key is one of those to exclude")
            image, mask = read_photo(photo, self.size)
        except LeftOutError as reason:
            part = Part(
                photo.key,
                photo.label,
                (0, 0),
                (0, 0, 0, 0),
                0.0,
                reason.verdict,
                columns=photo.columns,
            )
            left = {} if reason.image is None else {"image": _encode_left(reason.image)}
            return make_sample(part, photo.source, reason.why, left)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        part = take_apart(
            pixels,
            torch.from_numpy(mask)[None],
            filler=self.filler,
            gate=self.gate,
            key=photo.key,
            label=photo.label,
            columns=photo.columns,
            max_hole=self.max_hole,
            textures=self.textures,
        )
        return make_sample(part, photo.source, *self._encode(part, image, mask))

    def _encode(
        self, part: Part, image: Image.Image, mask: Pixels
    ) -> tuple[str, dict[Member, bytes]]:
        if part.object is None:
            grey = Image.fromarray((mask * 255).astype(np.uint8))
            why = f"its mask covers {part.area:.3f} of it"
            return why, {"image": _encode_left(image), "mask": _encode_left(grey, "PNG")}
        made = {"object": _encode(part.object, "WEBP", lossless=True, method=0, exact=True)}
        jpeg = {"quality": self.quality, "subsampling": 0}
        if part.background is not None:
            made["background"] = _encode(part.background, "JPEG", **jpeg)
        if part.foreground is not None:
            made["foreground"] = _encode(part.foreground, "JPEG", **jpeg)
        why = "" if part.background is not None else f"the hole would be above {self.max_hole}"
        return why, made


def read_photo(photo: Photo, bound: int) -> tuple[Image.Image, Pixels]:
    """Reads an image and its mask, upright and of one size.

    Args:
        photo: the image and its mask; without one the alpha channel is the mask.
        bound: largest length of the longer side, in pixels; smaller images stay as they are.

    Returns:
        The image in RGB and the mask (H, W) float32 in [0, 1].

    Raises:
        LeftOutError: one of them cannot be read, or they do not belong together.
    """
    try:
        with open_image(photo.image) as file:
            full = upright_size(file)
            size = bounded(full, bound)
            if photo.mask is not None:
                # Decode a JPEG file at half or quarter size if that is large enough.
                file.draft(None, (2 * max(size), 2 * max(size)))
            rgb = to_rgb(file)
            mask = alpha_of(file) if photo.mask is None else None
    except Exception as error:  # damaged bytes make Pillow raise anything
        raise LeftOutError(UNREADABLE, f"the image: {first_line(error)}") from error
    if rgb.size[::-1] != size:
        rgb = rgb.resize(size[::-1], Image.Resampling.LANCZOS)
    if photo.mask is not None:
        mask = _read_mask(photo.mask, rgb)
    if mask is None or mask.shape != full:
        there = None if mask is None else "x".join(map(str, mask.shape))
        wanted = "x".join(map(str, full))
        raise LeftOutError(OTHER_SIZE, f"the mask is {there} and the image {wanted}", rgb)
    return rgb, resize_mask(mask, size)


def _read_mask(mask: str | bytes, image: Image.Image) -> Pixels:
    if mask == NONE:
        raise LeftOutError(NO_MASK, "none is named", image)
    try:
        with open_image(mask) as file:
            return to_mask(file)
    except FileNotFoundError as error:
        raise LeftOutError(NO_MASK, f"there is no {mask!r}", image) from error
    except Exception as error:  # damaged bytes make Pillow raise anything
        raise LeftOutError(UNREADABLE, f"the mask: {first_line(error)}", image) from error


def make_sample(part: Part, source: str, why: str, pictures: Mapping[Member, bytes]) -> Sample:
    """Returns the files of a part by suffix, with its facts in `__facts__`."""
    facts: dict[str, Any] = describe_part(part, source, why)
    files = {MEMBERS[member]: data for member, data in pictures.items()}
    return {"__facts__": facts, "json": json.dumps(facts).encode(), **files}


def _encode(picture: Tensor, kind: str, **options: Any) -> bytes:
    return _bytes_of(Image.fromarray(picture.permute(1, 2, 0).numpy()), kind, **options)


def _encode_left(image: Image.Image, kind: str = "JPEG") -> bytes:
    small = bounded((image.height, image.width), SMALL)
    return _bytes_of(image.resize(small[::-1], Image.Resampling.BILINEAR), kind)


def _bytes_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
