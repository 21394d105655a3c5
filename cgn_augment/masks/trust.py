"""Which masks are used and which are left out: a rule that is stated, and counted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError

logger = logging.getLogger(__name__)

VERDICTS = ("usable", "empty", "full", "unsure", "border", "several")
"""What a gate says of a mask; its place is the number that `MaskGate.judge` returns."""

_FEW = 64
"""Masks that are judged before it is said that most of them are left out."""


@dataclass(frozen=True)
class MaskGate:
    """Tells masks of real images that can be used from those that cannot.

    The object is where a mask is above 1/2. A mask is *empty* if its object covers less than
    `min_area` of the image, *full* if more than `max_area`, and otherwise *unsure* if the mean of
    |2m - 1| over its pixels m is below `min_confidence`. Of the others, *border* is one whose
    object touches more than `max_sides` sides of the image, as a background does that was taken for
    an object; and *several* one whose second part is larger than `max_second` of its largest. By
    default neither is looked at, for true masks may be so.

    Args:
        min_area: share of the image.
        max_area: share of the image.
        min_confidence: 0 (any mask) to 1 (only binary ones).
        max_sides: of the image's four; 4 lets any mask pass.
        max_second: share of the largest part; 1 lets any mask pass. Below 1 the parts are counted
            on the CPU, a mask at a time.

    Raises:
        ArgumentError: not 0 <= min_area <= max_area <= 1, a confidence or a share outside [0, 1],
            or sides that are not 0 to 4.

    Examples:
        >>> import torch
        >>> from cgn_augment import MaskGate
        >>> masks = torch.stack([torch.zeros(1, 8, 8), torch.eye(8)[None], torch.ones(1, 8, 8)])
        >>> MaskGate().judge(masks).tolist()                      # empty, usable, full
        [1, 0, 2]
    """

    min_area: float = 0.02
    max_area: float = 0.8
    min_confidence: float = 0.8
    max_sides: int = 4
    max_second: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ArgumentError(
                "min_area and max_area must be 0 <= min_area <= max_area <= 1, got "
                f"{self.min_area} and {self.max_area}"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ArgumentError(f"min_confidence must be in [0, 1], got {self.min_confidence}")
        if self.max_sides not in range(5):
            raise ArgumentError(f"max_sides must be 0 to 4, got {self.max_sides}")
        if not 0 <= self.max_second <= 1:
            raise ArgumentError(f"max_second must be in [0, 1], got {self.max_second}")

    def judge(self, masks: Tensor) -> Tensor:
        """Returns for masks (N, 1, H, W) in [0, 1] their verdicts, (N,) int64, 0 for usable."""
        inside = masks[:, 0] > 0.5
        area = inside.flatten(1).float().mean(dim=1)
        confidence = (2 * masks - 1).abs().flatten(1).mean(dim=1)
        verdicts = torch.zeros_like(area, dtype=torch.int64)
        if self.max_second < 1:
            several = [_second(each) > self.max_second for each in inside.cpu().numpy()]
            verdicts[torch.tensor(several, dtype=torch.bool)] = VERDICTS.index("several")
        if self.max_sides < 4:
            edges = inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]
            sides = torch.stack([edge.any(dim=1) for edge in edges]).sum(dim=0)
            verdicts[sides > self.max_sides] = VERDICTS.index("border")
        verdicts[confidence < self.min_confidence] = VERDICTS.index("unsure")
        verdicts[area > self.max_area] = VERDICTS.index("full")
        verdicts[area < self.min_area] = VERDICTS.index("empty")
        return verdicts


def _second(inside: NDArray[np.bool_]) -> float:
    """Returns the size of the second largest connected part, as a share of the largest one's."""
    from scipy import ndimage  # takes its time

    labels, num = ndimage.label(inside)
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    return float(sizes[-2] / sizes[-1]) if num > 1 else 0.0


class GateCounter:
    """Applies a gate, counts its verdicts, and says once if most masks are left out.

    Args:
        gate: None lets every mask pass, and counts it as usable.

    Raises:
        ArgumentTypeError: it is no gate.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.trust import GateCounter, MaskGate
        >>> counter = GateCounter(MaskGate())
        >>> counter.usable(torch.stack([torch.zeros(1, 8, 8), torch.eye(8)[None]])).tolist()
        [False, True]
        >>> counter.counts
        {'usable': 1, 'empty': 1, 'full': 0, 'unsure': 0, 'border': 0, 'several': 0}
    """

    def __init__(self, gate: MaskGate | None) -> None:
        if gate is not None and not isinstance(gate, MaskGate):
            raise ArgumentTypeError(f"gate must be MaskGate(…) or None, got {gate!r}")
        self.gate = gate
        self._counts = torch.zeros(len(VERDICTS), dtype=torch.int64)
        self._said = False

    @property
    def counts(self) -> dict[str, int]:
        """Masks by verdict."""
        return dict(zip(VERDICTS, self._counts.tolist(), strict=True))

    def usable(self, masks: Tensor) -> Tensor:
        """Returns for masks (N, 1, H, W) in [0, 1] whether the gate lets them pass, (N,) bool.

        The answer is on the CPU, wherever the masks are.
        """
        verdicts = torch.zeros(len(masks), dtype=torch.int64)
        if self.gate is not None:
            verdicts = self.gate.judge(masks).cpu()
        # Not in place: the counter may have been made under inference mode.
        self._counts = self._counts + verdicts.bincount(minlength=len(VERDICTS))
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
        return verdicts == 0
