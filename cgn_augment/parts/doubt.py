"""Rates how doubtful a cut-out looks, so that people see the worst first.

Rules of thumb, each from 0 (fine) to 1. They exclude nothing by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from cgn_augment.parts.part import Part

FEATHER = 3
"""Pixels from the edge where a cut-out is soft on purpose (see `cut_out`)."""

SURE = 0.95
"""Share of opacity above which nothing shines through."""

ALIKE = 24
"""Of 255: an object's pixel counts as like the background if no colour differs by more."""

LEAST = 0.1
"""Doubts below this are not mentioned."""

_RAMPS: Mapping[str, tuple[float, float]] = {
    "small": (1.0, 3.0),  # halvings of the class's median area
    "large": (1.0, 3.0),  # doublings
    "soft mask": (0.02, 0.3),  # share of the inside that is not opaque
    "several pieces": (0.01, 0.25),  # share outside the largest piece
    "holes": (0.0, 0.15),  # share of the outline's inside that is open
    "at the border": (1.0, 4.0),  # sides of the image that the box touches
    "like the background": (0.02, 0.4),  # share of the object's pixels
    "no background": (0.0, 1.0),
}
"""Value at which each doubt begins, and at which it is full."""


def find_doubts(part: Part, usual_area: float) -> dict[str, float]:
    """Returns the doubts about a part, worst first; most parts have none.

    Args:
        part: a part with an object, and with a background if there is one.
        usual_area: median share of the image that masks of its class cover.

    Returns:
        Doubts from `LEAST` to 1, by name.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.doubt import find_doubts
        >>> from cgn_augment.parts.part import Part
        >>> cut, back = torch.full((4, 10, 32), 255), torch.zeros(3, 32, 32)
        >>> cut[3, :, 20:22] = 0                               # a gap: two pieces, of 20 and 10
        >>> part = Part("cat/1", "cat", (32, 32), (0, 0, 10, 32), 0.3, "usable", cut, back)
        >>> find_doubts(part, usual_area=0.3)                  # and three sides of the image
        {'several pieces': 1.0, 'at the border': 0.667}
    """
    values = {"at the border": float(_sides(part)), "no background": float(part.background is None)}
    if part.area and usual_area:
        change = math.log2(part.area / usual_area)
        values |= {"small": -change, "large": change}
    if part.object is not None:
        values |= _of_shape(part.object[3].numpy() / 255)
        values["like the background"] = _alike(part.object, part)
    doubts = {name: round(_ramp(value, *_RAMPS[name]), 3) for name, value in values.items()}
    return dict(
        sorted(
            ((name, doubt) for name, doubt in doubts.items() if doubt >= LEAST),
            key=lambda item: -item[1],
        )
    )


def _of_shape(alpha: npt.NDArray[np.float64]) -> dict[str, float]:
    shape = np.pad(alpha > 0, 1)
    if not shape.any():
        return {}
    pieces, _ = ndimage.label(shape, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    whole = ndimage.binary_fill_holes(shape)
    inside = ndimage.binary_erosion(shape, iterations=FEATHER)[1:-1, 1:-1]
    return {
        "several pieces": 1 - float(sizes.max() / sizes.sum()),
        "holes": 1 - float(shape.sum() / whole.sum()),
        "soft mask": float((alpha[inside] < SURE).mean()) if inside.any() else 0.0,
    }


def _alike(cut: Tensor, part: Part) -> float:
    """Returns the share of an object that looks like the filling of its background there."""
    there = cut[3] > 127
    if part.background is None or not there.any():
        return 0.0
    top, left, height, width = part.box
    behind = part.background[:, top : top + height, left : left + width].to(torch.int16)
    differences = (behind - cut[:3].to(torch.int16)).abs().amax(dim=0)
    return float((differences[there] <= ALIKE).float().mean())


def _sides(part: Part) -> int:
    """Returns the number of sides of its image that an object touches."""
    (rows, columns), (top, left, height, width) = part.size, part.box
    return (top == 0) + (left == 0) + (top + height == rows) + (left + width == columns)


def _ramp(value: float, start: float, end: float) -> float:
    return min(max((value - start) / (end - start), 0.0), 1.0)
