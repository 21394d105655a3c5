"""One image taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """An image taken apart: its object, its background, and facts about both.

    Attributes:
        key: unique name of the image in its set.
        label: class of the image, by name.
        size: height and width of the image, in pixels.
        box: top, left, height and width of the object in the image, in pixels.
        area: share of the image that the mask covers, 0 to 1.
        verdict: "usable", or why the object is left out (see `MaskGate`).
        object: (4, h, w) uint8, the object in its box, colours and a soft mask; None if left out.
        background: (3, H, W) uint8, the image without the object; None if its hole is too large.
        foreground: (3, H, W) uint8, a whole sheet of the object's texture; None unless made.
        columns: further facts about the image, such as its group.
    """

    key: str
    label: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    area: float
    verdict: str
    object: Tensor | None = None
    background: Tensor | None = None
    foreground: Tensor | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
