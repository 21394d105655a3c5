"""Rows of the tables of measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from train_generator.metrics.tables import NOTHING, Table, format_share
from train_generator.mnist.measure import GeneratorMetrics
from train_generator.mnist.records import DownstreamResult

METRICS_HEADER = (
    "generator",
    "shape",
    "worst classes",
    "texture",
    "background",
    "mask entropy",
    "mask area",
    "diversity",
    "coverage",
    "texture diversity",
    "background diversity",
)
DOWNSTREAM_HEADER = ("variant", "trained on", "test accuracy", "of visible images", "seeds")


def metrics_table(rows: Mapping[str, GeneratorMetrics]) -> Table:
    """Returns a table with one row for each generator; accuracies are in percent.

    Args:
        rows: name to metrics.

    Example:
        >>> from train_generator.mnist import GeneratorMetrics, metrics_table
        >>> shares = (0.5, (0.4, 0.6), 1.0, None)
        >>> metrics = GeneratorMetrics(*shares, 0.0, 0.2, 0.9, 0.8, 0.7, None, num=60)
        >>> metrics_table({"mine": metrics})[1][:5]
        ['mine', '50.0 %', '0: 40 %, 1: 60 %', '100.0 %', '-']
    """
    return [list(METRICS_HEADER), *([name, *_metrics_cells(row)] for name, row in rows.items())]


def downstream_table(results: Sequence[DownstreamResult]) -> Table:
    """Returns a table with a row for each variant and data: mean and spread over the seeds.

    The spread is the standard deviation of a sample (n - 1); a single seed has none.

    Args:
        results: in the order in which their rows shall come.

    Example:
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
    """Returns the mean of shares in percent, with the spread where there are several."""
    mean = format_share(statistics.mean(shares))
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def _metrics_cells(metrics: GeneratorMetrics) -> list[str]:
    background, varied = metrics.background_accuracy, metrics.background_diversity
    return [
        format_share(metrics.shape_accuracy),
        _worst_classes(metrics.class_shape_accuracies),
        format_share(metrics.texture_accuracy),
        NOTHING if background is None else format_share(background),
        f"{metrics.mask_entropy:.3f}",
        f"{metrics.mask_area:.3f}",
        f"{metrics.diversity:.2f}",
        f"{metrics.coverage:.2f}",
        f"{metrics.texture_diversity:.2f}",
        NOTHING if varied is None else f"{varied:.2f}",
    ]


def _worst_classes(accuracies: Sequence[float], num: int = 2) -> str:
    known = [(share, y) for y, share in enumerate(accuracies) if not math.isnan(share)]
    return ", ".join(f"{y}: {100 * share:.0f} %" for share, y in sorted(known)[:num])
