"""Summarises the results over the seeds of a benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Cell(NamedTuple):
    """Percentages of the seeds: their mean, standard deviation (None of one seed), and each one."""

    mean: float
    spread: float | None
    values: tuple[float, ...]

    def __str__(self) -> str:
        shown = f"{self.mean:.1f}"
        return shown if self.spread is None else f"{shown} ± {self.spread:.1f}"


def summarise(values: Sequence[float]) -> Cell:
    """Returns what the values of several seeds came to.

    Examples:
        >>> str(summarise([10.0, 20.0])), str(summarise([10.0]))
        ('15.0 ± 7.1', '10.0')
    """
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), spread, tuple(values))


def summarise_each(found: Mapping[Key, Sequence[float]]) -> dict[Key, Cell]:
    """Returns that of each key."""
    return {key: summarise(values) for key, values in found.items()}
