"""Takes an image apart: cuts out the object, and fills the background behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cgn_augment.checks import require_part
from cgn_augment.errors import ArgumentTypeError, DataError
from cgn_augment.masks.trust import VERDICTS, MaskGate
from cgn_augment.parts.blend import Bools, Floats
from cgn_augment.parts.fill import Filler, find_filler
from cgn_augment.parts.part import Part
from cgn_augment.parts.quilt import make_sheet

MARGIN, LEAST_MARGIN = 0.12, 2.0
"""How much wider the hole is than the object: a share of the object's side plus a number of pixels.
Soft edges and shadows scale with the object."""

FAINT = 0.1
"""Values of a soft mask above this belong to the hole."""

SOFTNESS, LEAST_SOFTNESS, MOST_SOFTNESS = 0.015, 0.5, 2.0
"""Width of the soft edge, in pixels: a share of the object's side, and its bounds."""

SURE = 0.95
"""Value of a soft mask above which no background shines through."""

FAR = 4.0
"""Pixels; colours from further inside do not replace those of a thin part's edge."""


@torch.no_grad()
def take_apart(
    image: Tensor,
    mask: Tensor,
    *,
    filler: str | Filler,
    gate: MaskGate | None,
    key: str = "",
    label: str = "",
    columns: Mapping[str, str] = {},
    max_hole: float = 0.8,
    textures: bool = False,
) -> Part:
    """Takes one image apart.

    The object is cut out with a soft edge whose colours come from inside the object, so that no old
    background surrounds it in a new place. The background is cut with a wider mask, whose margin
    grows with the object, and filled.

    Args:
        image: (3, H, W) uint8.
        mask: (1, H, W) float in [0, 1], the object's.
        filler: fills the background (see `find_filler`).
        gate: which masks are trusted. An image whose mask is rejected gets neither object nor
            background. None trusts every mask with something above 1/2.
        key: name of the image.
        label: its class.
        columns: further facts about it.
        max_hole: share of the image; a background with a larger hole is not used.
        textures: also make a whole sheet of the object's texture.

    Raises:
        ArgumentError: the filler is unknown, or max_hole is outside [0, 1].
        ArgumentTypeError: image or mask has the wrong type.
        DataError: image or mask has a wrong shape or range.
        MissingPackageError: the filler needs a package that is not installed.

    Examples:
        >>> import torch
        >>> from cgn_augment import MaskGate
        >>> from cgn_augment.parts.cut import take_apart
        >>> image, mask = torch.full((3, 48, 64), 200, dtype=torch.uint8), torch.zeros(1, 48, 64)
        >>> image[:, 10:20, 30:45], mask[:, 10:20, 30:45] = 20, 1
        >>> part = take_apart(image, mask, filler="copy", gate=MaskGate())
        >>> part.verdict, part.box, part.background.unique().tolist()
        ('usable', (10, 30, 10, 15), [200])
    """
    _require(image, mask)
    require_part("max_hole", max_hole)
    fill = find_filler(filler)
    verdict = VERDICTS[int((gate or MaskGate(0, 1, 0)).judge(mask[None]))]
    soft: Floats = mask[0].numpy().astype(np.float32, copy=False)
    size = image.shape[1], image.shape[2]
    area = float((soft > 0.5).mean())
    if not area:
        verdict = "empty"
    box, cut, background, foreground = (0, 0, 0, 0), None, None, None
    if area:
        box = _box(soft > 0.5)
    if verdict == VERDICTS[0]:
        cut, box = cut_out(image, soft)
        foreground = make_sheet(image, soft > 0.5) if textures else None
        hole = torch.from_numpy(widen(soft))
        if float(hole.float().mean()) <= max_hole and not hole.all():
            background = fill(image, hole)
    return Part(
        key=key,
        label=label,
        size=size,
        box=box,
        area=area,
        verdict=verdict,
        object=cut,
        background=background,
        foreground=foreground,
        columns=dict(columns),
    )


def cut_out(image: Tensor, mask: Floats) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Cuts an object out, with a soft edge and colours from inside it.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) float32 in [0, 1]; at least one value is above 1/2.

    Returns:
        (4, h, w) uint8, the object in its box, and the box: top, left, height, width. Pixels around
        the object have the colours of its edge, so that it can be resized.
    """
    top, left, height, width = box = _box(mask > 0.5)
    here = slice(top, top + height), slice(left, left + width)
    inside = np.pad(mask[here] > 0.5, 1)
    depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1].astype(np.float32)
    side = math.sqrt(float(inside.sum()))
    softness = min(max(SOFTNESS * side, LEAST_SOFTNESS), MOST_SOFTNESS)
    alpha = np.minimum(mask[here], ((depth - 0.5) / softness).clip(0, 1))
    pixels = image[:, here[0], here[1]].numpy()
    sure = (depth > softness + 0.5) & (mask[here] > SURE)
    colours = _from_inside(pixels, depth, sure)
    cut = np.concatenate([colours, (alpha * 255).round().astype(np.uint8)[None]])
    return torch.from_numpy(cut), box


def _from_inside(pixels: NDArray[np.uint8], depth: Floats, sure: Bools) -> NDArray[np.uint8]:
    """Returns the colours; unsure pixels take that of the nearest sure one."""
    if not sure.any():
        sure = depth >= depth.max()
    distance, (rows, columns) = ndimage.distance_transform_edt(~sure, return_indices=True)
    own = (depth > 0) & (distance > FAR)  # thin parts
    colours = pixels[:, rows, columns]
    return np.where(own, pixels, colours)


def widen(mask: Floats) -> Bools:
    """Returns the hole (H, W) bool of a mask (H, W) float32: wider by a margin.

    At least one value of the mask is above 1/2.
    """
    inside = mask > 0.5
    _, _, height, width = _box(inside)
    # Geometric mean of the sides of both areas: a thin object's shadow is as wide as its length.
    side = (float(inside.sum()) * height * width) ** 0.25
    margin = LEAST_MARGIN + MARGIN * side
    found: Bools = ndimage.distance_transform_edt(mask <= FAINT) <= margin
    return found


def _box(inside: Bools) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def _require(image: Tensor, mask: Tensor) -> None:
    kinds = [getattr(given, "dtype", type(given).__name__) for given in (image, mask)]
    if kinds[0] is not torch.uint8 or not (isinstance(mask, Tensor) and mask.is_floating_point()):
        raise ArgumentTypeError(
            "take_apart needs an image (3, H, W) uint8 and a mask (1, H, W) float in [0, 1], got "
            f"{kinds[0]} and {kinds[1]}"
        )
    if image.dim() != 3 or len(image) != 3 or mask.shape != (1, *image.shape[1:]):
        raise DataError(
            "take_apart needs an image (3, H, W) and a mask (1, H, W), got "
            f"{tuple(image.shape)} and {tuple(mask.shape)}"
        )
    if not mask.numel():
        raise DataError(f"an image of {image.shape[1]} by {image.shape[2]} has no pixels")
    least, most = float(mask.min()), float(mask.max())
    if not 0 <= least <= most <= 1:
        raise DataError(f"a mask must be in [0, 1], and spans [{least:.3g}, {most:.3g}]")
