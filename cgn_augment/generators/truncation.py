"""Truncated noise, and the rows of BigGAN's batch statistics for a truncation."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from cgn_augment.checks import require_choice, require_part

NOISE_LIMIT = 2.0
"""Noise is truncated at this many standard deviations, then multiplied by the truncation."""

TruncationLookup = Literal["exact", "published"]


class StatisticsRows(NamedTuple):
    """The batch statistics for a truncation.

    Attributes:
        lower: index of a row.
        upper: index of the next row, or the same.
        fraction: weight of `upper`; `lower` has the rest.
    """

    lower: int
    upper: int
    fraction: float


def draw_truncated(num: int, dim: int, generator: torch.Generator) -> Tensor:
    """Draws normal noise truncated at ±2, on the CPU and without rejection.

    Args:
        num: number of vectors.
        dim: length of each.
        generator: a CPU generator; it alone determines the noise.

    Returns:
        (num, dim) float32.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.truncation import draw_truncated
        >>> noise = draw_truncated(1000, 8, torch.Generator().manual_seed(0))
        >>> noise.abs().max().item() <= 2
        True
    """
    uniform = torch.rand(num, dim, generator=generator, dtype=torch.float64)
    inside = math.erf(NOISE_LIMIT / math.sqrt(2))  # probability of being inside
    noise = math.sqrt(2) * torch.erfinv(inside * (2 * uniform - 1))
    return noise.clamp(-NOISE_LIMIT, NOISE_LIMIT).float()


def find_rows(
    truncation: float, num_rows: int = 51, lookup: TruncationLookup = "exact"
) -> StatisticsRows:
    """Returns the rows of the batch statistics for a truncation.

    Args:
        truncation: in (0, 1].
        num_rows: number of rows; row i is for truncation i / (num_rows − 1).
        lookup: "exact" reads the row of a truncation on the grid; between two rows the nearer one
            has the larger weight. "published" does what `pytorch-pretrained-biggan` does: the
            weights of the two rows are swapped, and where the division is a rounding error off the
            grid (0.14, 0.28, 0.56, 0.58 and 0.94 of 51 rows) it reads a neighbour.

    Raises:
        ArgumentError: truncation is outside (0, 1], or lookup is unknown.

    Examples:
        >>> from cgn_augment.generators.truncation import find_rows
        >>> find_rows(0.14)
        StatisticsRows(lower=7, upper=7, fraction=0.0)
        >>> find_rows(0.14, lookup="published").upper
        8
    """
    require_part("truncation", truncation)
    require_choice("truncation_lookup", lookup, get_args(TruncationLookup))
    if lookup == "published":
        fraction, whole = math.modf(truncation / (1.0 / (num_rows - 1)))
        lower, fraction = int(whole), 1 - fraction if fraction else 0.0
    else:
        position = truncation * (num_rows - 1)
        if abs(position - round(position)) < 1e-9 * num_rows:
            position = float(round(position))
        lower = math.floor(position)
        fraction = position - lower
    return StatisticsRows(lower, lower + (fraction > 0), fraction)
