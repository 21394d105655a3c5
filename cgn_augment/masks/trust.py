"""Which masks and which images are left out: rules that are stated, and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.types import Factors

logger = logging.getLogger(__name__)

VERDICTS = ("usable", "empty", "full", "unsure")
"""What a gate says of a mask; its place is the number that `MaskGate.judge` returns."""

MAX_REDRAWS = 8
"""Times that a texture and a background are drawn again before a pair is taken as it is."""

_FEW = 64
"""Masks that are judged before it is said that most of them are left out."""


@dataclass(frozen=True)
class MaskGate:
    """Tells masks of real images that can be used from those that cannot.

    The object is where a mask is above 1/2. A mask is *empty* if its object covers less than
    `min_area` of the image, *full* if more than `max_area`, and otherwise *unsure* if the mean of
    |2m - 1| over its pixels m is below `min_confidence`.

    Args:
        min_area: share of the image.
        max_area: share of the image.
        min_confidence: 0 (any mask) to 1 (only binary ones).

    Raises:
        ArgumentError: not 0 <= min_area <= max_area <= 1, or a confidence outside [0, 1].

    Example:
        >>> import torch
        >>> from cgn_augment import MaskGate
        >>> masks = torch.stack([torch.zeros(1, 8, 8), torch.eye(8)[None], torch.ones(1, 8, 8)])
        >>> MaskGate().judge(masks).tolist()                      # empty, usable, full
        [1, 0, 2]
    """

    min_area: float = 0.02
    max_area: float = 0.8
    min_confidence: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ArgumentError(
                "min_area and max_area must be 0 <= min_area <= max_area <= 1, got "
                f"{self.min_area} and {self.max_area}"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ArgumentError(f"min_confidence must be in [0, 1], got {self.min_confidence}")

    def judge(self, masks: Tensor) -> Tensor:
        """Returns for masks (N, 1, H, W) in [0, 1] their verdicts, (N,) int64, 0 for usable."""
        area = (masks > 0.5).flatten(1).float().mean(dim=1)
        confidence = (2 * masks - 1).abs().flatten(1).mean(dim=1)
        verdicts = (confidence < self.min_confidence).long() * VERDICTS.index("unsure")
        verdicts[area > self.max_area] = VERDICTS.index("full")
        verdicts[area < self.min_area] = VERDICTS.index("empty")
        return verdicts


class GateCounter:
    """Counts verdicts, and says once if most masks are left out."""

    def __init__(self) -> None:
        self._counts = torch.zeros(len(VERDICTS), dtype=torch.int64)
        self._said = False

    @property
    def counts(self) -> dict[str, int]:
        """Masks by verdict."""
        return dict(zip(VERDICTS, self._counts.tolist(), strict=True))

    def add(self, verdicts: Tensor) -> None:
        """Counts verdicts (N,) int64 on the CPU."""
        self._counts += verdicts.bincount(minlength=len(VERDICTS))
        judged, usable = int(self._counts.sum()), int(self._counts[0])
        if not self._said and judged >= _FEW and usable < judged / 2:
            self._said = True
            logger.warning(
                "%d of %d masks of real images are left out (%s): look at them, train the masker "
                "on a generator of these images, or pass another gate=MaskGate(…)",
                judged - usable,
                judged,
                self.counts,
            )


def edge_contrast(mask: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Measures whether an object can be told from what is behind it.

    Args:
        mask: (N, 1, H, W) float32 in [0, 1].
        foreground: (N, 3, H, W) float32 in [-1, 1].
        background: (N, 3, H, W) float32 in [-1, 1].

    Returns:
        (N,) float32 in [0, 2]: the mean absolute difference of foreground and background over the
        three channels of the pixels on both sides of the object's edge; infinite without an edge.

    Example:
        >>> import torch
        >>> from cgn_augment.masks.trust import edge_contrast
        >>> mask = torch.zeros(1, 1, 8, 8)
        >>> mask[:, :, 2:6, 2:6] = 1
        >>> edge_contrast(mask, torch.full((1, 3, 8, 8), 0.25), torch.zeros(1, 3, 8, 8)).item()
        0.25
    """
    thing = (mask > 0.5).float()
    edge = F.max_pool2d(thing, 3, stride=1, padding=1) + F.max_pool2d(1 - thing, 3, 1, 1) - 1
    difference = (foreground - background).abs().mean(dim=1, keepdim=True)
    num = edge.sum(dim=(1, 2, 3))
    contrast = (difference * edge).sum(dim=(1, 2, 3)) / num
    return torch.where(num > 0, contrast, torch.inf)


def redraw_unseen(
    factors: Factors,
    classes: Tensor,
    min_contrast: float,
    again: Callable[[Tensor], tuple[Factors, Tensor]],
) -> int:
    """Gives objects that cannot be seen another texture and another background, in place.

    Args:
        factors: masks stay as they are.
        classes: (3, N) int64 of the factors; texture and background change.
        min_contrast: least `edge_contrast`; 0 redraws nothing.
        again: draws factors for some places (M,) int64, with their classes (3, M).

    Returns:
        How many cannot be seen after `MAX_REDRAWS` drawings.
    """
    if min_contrast <= 0:
        return 0
    places = torch.arange(len(factors), device=factors.mask.device)
    for redraws in range(MAX_REDRAWS + 1):
        parts = (factors.mask[places], factors.foreground[places], factors.background[places])
        places = places[edge_contrast(*parts) < min_contrast]
        if len(places) == 0 or redraws == MAX_REDRAWS:
            break
        drawn, drawn_classes = again(places)
        factors.foreground[places] = drawn.foreground
        factors.background[places] = drawn.background
        classes[1:, places.to(classes.device)] = drawn_classes[1:].to(classes.device)
    return len(places)


def require_contrast(min_contrast: float) -> float:
    """Returns the contrast, or raises `ArgumentError` if it is not in [0, 2)."""
    if not 0 <= min_contrast < 2:
        raise ArgumentError(
            "min_contrast is a difference of grey levels of [-1, 1] and must be in [0, 2), got "
            f"{min_contrast}"
        )
    return float(min_contrast)


class UnseenWarning:
    """Says once that some objects cannot be told from their background."""

    def __init__(self) -> None:
        self._said = False

    def add(self, num: int, min_contrast: float) -> None:
        """Takes how many are left in a step."""
        if num and not self._said:
            self._said = True
            logger.warning(
                "%d counterfactuals of a step have less contrast than min_contrast=%g after %d "
                "drawings and are kept: lower it, or allow more classes of texture and background",
                num,
                min_contrast,
                MAX_REDRAWS + 1,
            )
