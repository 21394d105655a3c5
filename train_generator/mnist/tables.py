"""Rows of the tables of measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from train_generator.metrics.tables import NOTHING, Table, format_share
from train_generator.mnist.measure import GeneratorMetrics
from train_generator.mnist.records import DownstreamResult

DOWNSTREAM_HEADER = ("variant", "trained on", "test accuracy", "of visible images", "seeds")


def metrics_table(rows: Mapping[str, GeneratorMetrics]) -> Table:
    """Returns a table with one row per generator; accuracies are in percent.

    Args:
        rows: metrics by name.

    Examples:
        >>> from train_generator.mnist import GeneratorMetrics, metrics_table
        >>> shares = (0.5, (0.4, 0.6), 1.0, None)
        >>> metrics = GeneratorMetrics(*shares, 0.0, 0.2, 0.9, 0.8, 0.7, None, num=60)
        >>> metrics_table({"mine": metrics})[1][:5]
        ['mine', '50.0 %', '0: 40 %, 1: 60 %', '100.0 %', '-']
    """
    cells = {name: [cell(row) for cell in _COLUMNS.values()] for name, row in rows.items()}
    return [["generator", *_COLUMNS], *([name, *row] for name, row in cells.items())]


def downstream_table(results: Sequence[DownstreamResult]) -> Table:
    """Returns a table with a row for each variant and data: mean and spread over the seeds.

    The spread is the standard deviation of a sample (n - 1); a single seed has none.

    Args:
        results: in the order of their rows.

    Examples:
        >>> from train_generator.mnist import DownstreamResult, downstream_table
        >>> results = [DownstreamResult("colored", "ours", s, 0.9 + s / 50, 1, ()) for s in (0, 1)]
        >>> downstream_table(results)[1]
        ['colored', 'ours', '91.0 % ± 1.4', '100.0 % ± 0.0', '0, 1']
    """
    groups: dict[tuple[str, str], list[DownstreamResult]] = {}
    for result in results:
        groups.setdefault((result.variant, result.trained_on), []).append(result)
    table = [list(DOWNSTREAM_HEADER)]
    for (variant, trained_on), group in groups.items():
        table.append(
            [
                variant.replace("_", " "),
                trained_on.replace("_", " "),
                summarize([result.test_accuracy for result in group]),
                summarize([result.visible_accuracy for result in group]),
                ", ".join(str(result.seed) for result in group),
            ]
        )
    return table


def summarize(shares: Sequence[float]) -> str:
    """Returns the mean of shares in percent, with the spread if there are several."""
    mean = format_share(statistics.mean(shares))
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else format_share(value)


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _worst_classes(accuracies: Sequence[float], num: int = 2) -> str:
    known = [(share, y) for y, share in enumerate(accuracies) if not math.isnan(share)]
    return ", ".join(f"{y}: {100 * share:.0f} %" for share, y in sorted(known)[:num])


_COLUMNS: dict[str, Callable[[GeneratorMetrics], str]] = {
    "shape": lambda metrics: _share(metrics.shape_accuracy),
    "worst classes": lambda metrics: _worst_classes(metrics.class_shape_accuracies),
    "texture": lambda metrics: _share(metrics.texture_accuracy),
    "background": lambda metrics: _share(metrics.background_accuracy),
    "mask entropy": lambda metrics: f"{metrics.mask_entropy:.3f}",
    "mask area": lambda metrics: f"{metrics.mask_area:.3f}",
    "diversity": lambda metrics: _ratio(metrics.diversity),
    "coverage": lambda metrics: _ratio(metrics.coverage),
    "texture diversity": lambda metrics: _ratio(metrics.texture_diversity),
    "background diversity": lambda metrics: _ratio(metrics.background_diversity),
}
