"""Decides which masks are used: a stated rule, whose verdicts are counted."""

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
"""Verdicts of a gate; `MaskGate.judge` returns their indices."""

_FEW = 64
"""Masks to judge before warning that most of them are rejected."""


@dataclass(frozen=True)
class MaskGate:
    """Decides which masks of real images can be used.

    Values above 1/2 are object. A mask is *empty* if its object covers less than `min_area` of the
    image, *full* if more than `max_area`, and otherwise *unsure* if the mean of |2m - 1| over its
    pixels m is below `min_confidence`. Of the others, a mask is *border* if its object touches more
    than `max_sides` sides of the image, as background does when it is taken for an object, and
    *several* if its second part is larger than `max_second` of its largest. By default the last two
    are not checked, since true masks may be so.

    Args:
        min_area: share of the image.
        max_area: share of the image.
        min_confidence: 0 (any mask) to 1 (only binary ones).
        max_sides: number of sides of the image; 4 accepts any mask.
        max_second: share of the largest part; 1 accepts any mask. Below 1 the parts are counted on
            the CPU, one mask at a time.

    Raises:
        ArgumentError: not 0 <= min_area <= max_area <= 1, a confidence or share is outside [0, 1],
            or max_sides is not 0 to 4.

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
        """Returns the verdicts of masks.

        Args:
            masks: (N, 1, H, W) float in [0, 1].

        Returns:
            (N,) int64 indices of verdicts; 0 is usable.
        """
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
    """Returns the size of the second largest connected part, as a share of the largest."""
    from scipy import ndimage  # slow to import

    labels, num = ndimage.label(inside)
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    return float(sizes[-2] / sizes[-1]) if num > 1 else 0.0


class GateCounter:
    """Applies a gate, counts its verdicts, and warns once if most masks are rejected.

    Args:
        gate: the gate; None accepts every mask and counts it as usable.

    Raises:
        ArgumentTypeError: `gate` is not a gate.

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
        """Number of masks by verdict."""
        return dict(zip(VERDICTS, self._counts.tolist(), strict=True))

    def usable(self, masks: Tensor) -> Tensor:
        """Returns which masks (N, 1, H, W) in [0, 1] the gate accepts, (N,) bool.

        The result is on the CPU, wherever the masks are.
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
