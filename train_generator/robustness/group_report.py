"""Table and picture of accuracies by group."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from train_generator.metrics.tables import NOTHING, Table, format_share

_MOST_ABREAST = 10  # groups whose names fit side by side

GroupRows = Mapping[str, Mapping[str, Any]]
"""By name of a classifier's output, the result of `GroupAccuracies.as_row`, with its drops."""


def make_group_table(rows: GroupRows) -> Table:
    """Returns a table with a row per group, then the worst group and the averages.

    A group without images has a dash, and is not part of the rows below.

    Args:
        rows: results of `GroupAccuracies.as_row`, by output.

    Examples:
        >>> from train_generator.metrics.groups import GroupAccuracies
        >>> from train_generator.robustness.group_report import make_group_table
        >>> found = GroupAccuracies(("land", "water"), (100, 50), (90, 20), (300, 100))
        >>> for row in make_group_table({"mine": found.as_row()}):
        ...     print(row)
        ['group', 'images', 'mine']
        ['land', '100', '90.0 % ± 3.0']
        ['water', '50', '40.0 % ± 6.9']
        ['worst group', '', '40.0 % (water)']
        ['average over images', '150', '73.3 %']
        ['adjusted average, groups weighted as in training', '', '77.5 %']
    """
    columns = list(rows.values())
    first = columns[0]
    table = [["group", "images", *rows]]
    for name, group in first["groups"].items():
        cells = [_with_error(column["groups"][name]) for column in columns]
        table.append([name, str(group["num_images"]), *cells])
    worst = [f"{format_share(c['worst_group_accuracy'])} ({c['worst_group']})" for c in columns]
    table.append(["worst group", "", *worst])
    averages = [format_share(column["average"]) for column in columns]
    table.append(["average over images", str(first["num_images"]), *averages])
    adjusted = [_share(column["adjusted_average"]) for column in columns]
    table.append(["adjusted average, groups weighted as in training", "", *adjusted])
    for name in first.get("drops", {}):
        drops = [column["drops"][name] for column in columns]
        table.append([f"drop, {name}", "", *(_points(drop) for drop in drops)])
    return table


def draw_groups(rows: GroupRows) -> Figure:
    """Draws the accuracy of each group as a bar with its standard error.

    Args:
        rows: rows for one set of images; each gets a colour, and a line at its average over images.

    Examples:
        >>> from train_generator.metrics.groups import GroupAccuracies
        >>> from train_generator.robustness.group_report import draw_groups
        >>> found = GroupAccuracies(("land", "water"), (100, 50), (90, 20))
        >>> len(draw_groups({"mine": found.as_row()}).axes[0].patches)
        2
    """
    groups = list(next(iter(rows.values()))["groups"])
    width = 0.8 / len(rows)
    many = len(groups) > _MOST_ABREAST
    size = (1.6 + max(len(groups) * max(0.4 if many else 1.05, 0.35 * len(rows)), 4.0), 3.8)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    axes = figure.subplots()
    for number, (label, row) in enumerate(rows.items()):
        color = f"C{number % 10}"
        shares = np.array([row["groups"][name]["accuracy"] for name in groups], float)
        errors = np.array([row["groups"][name]["standard_error"] for name in groups], float)
        places = np.arange(len(groups)) + width * (number - (len(rows) - 1) / 2)
        axes.bar(
            places, 100 * shares, width, yerr=100 * errors, capsize=2, color=color, label=label
        )
        axes.axhline(100 * row["average"], color=color, linewidth=0.8, linestyle="--")
    empty = set(next(iter(rows.values()))["empty_groups"])
    names = [f"{name} (no image)" if name in empty else name for name in groups]
    labels = names if many else [fill(name, 16) for name in names]
    axes.set_xticks(range(len(groups)), labels, fontsize=7, rotation=90 if many else 0)
    axes.set(ylim=(0, 102), ylabel="accuracy (%)")  # so that a bar to 100 ends below the frame
    axes.legend(
        fontsize=7,
        title="dashed: average over images\nlines on bars: standard error",
        title_fontsize=7,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    return figure


def _with_error(group: Mapping[str, Any]) -> str:
    if group["accuracy"] is None:
        return NOTHING
    return f"{format_share(group['accuracy'])} ± {100 * group['standard_error']:.1f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else format_share(value)


def _points(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} points"
