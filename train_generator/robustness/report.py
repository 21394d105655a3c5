"""Tables and pictures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.types import FACTORS, Mechanisms
from train_generator.metrics.tables import NOTHING, Table, format_share
from train_generator.robustness.folders import VARIANTS
from train_generator.robustness.group_report import draw_groups, make_group_table
from train_generator.robustness.groups import cue_conflict_categories
from train_generator.robustness.parts import CUE_CONFLICT, FACTOR, GROUPS, IMAGENET9, REAL
from train_generator.robustness.record import Rows
from train_generator.robustness.sensitivity import change_factors

Measured = Mapping[str, Rows]
"""The rows of one part, by classifier."""

TITLES = {
    CUE_CONFLICT: "Cue-conflict images",
    IMAGENET9: "ImageNet-9",
    REAL: "Real images",
    GROUPS: "Accuracy by group",
    FACTOR: "Counterfactuals: accuracy on each factor's label",
    "sensitivity": "Counterfactuals: predictions that flip when one factor alone changes",
}

_COLUMNS = {
    CUE_CONFLICT: {
        "shape bias": "shape_bias",
        "decided for the shape": "shape_accuracy",
        "decided for the texture": "texture_accuracy",
        "for either": "num_cue_decisions",
        "images": "num_images",
    },
    IMAGENET9: {**{name: name for name in VARIANTS}, "background gap": "background_gap"},
    REAL: {"accuracy": "accuracy", "images": "num_images"},
}
"""Names of the measures in a part's table, by header."""

_NUM_CHANGES = 8
_INK = 0.55  # a cell with at least this share is dark, and its number white


def make_tables(part: str, measured: Measured) -> dict[str, Table]:
    """Returns the tables of a part by title.

    Each output of each classifier is a row; for accuracies by group it is a column.

    Args:
        part: one of `PARTS`.
        measured: results of `Part.measure`, by classifier.

    Examples:
        >>> from train_generator.robustness import make_tables
        >>> rows = {"logits": {"accuracy": 0.75, "num_images": 8}}
        >>> make_tables("real", {"resnet50": rows})["Real images"][1]
        ['resnet50', 'logits', '75.0 %', '8']
    """
    if part == FACTOR:
        header = (*FACTORS, "images")
        return {
            TITLES[title]: _table(measured, header, partial(_factor_cells, what))
            for what, title in (("accuracy", FACTOR), ("sensitivity", "sensitivity"))
        }
    if part == GROUPS:
        return {TITLES[GROUPS]: make_group_table(_named_rows(measured))}
    columns = _columns(part, measured)
    return {
        TITLES[part]: _table(
            measured, columns, lambda row: [_cell(row, name) for name in columns.values()]
        )
    }


def _columns(part: str, measured: Measured) -> dict[str, str]:
    """Returns the columns of a part; ImageNet-9 has one for each further variant, too."""
    columns = dict(_COLUMNS[part])
    if part == IMAGENET9:
        for row in (row for rows in measured.values() for row in rows.values()):
            columns |= {name: name for name in row if name not in columns.values()}
    return columns


def say_what_lacks(part: str, measured: Measured) -> list[str]:
    """Returns a line for each group without images; an empty list if there is none."""
    if part != GROUPS:
        return []
    row = next(iter(_named_rows(measured).values()))
    return [f"there is no image of the group {name}" for name in row["empty_groups"]]


def draw_pictures(part: str, measured: Measured) -> dict[str, Figure]:
    """Returns the pictures of a part by name; ImageNet-9 and real images have none.

    Args:
        part: one of `PARTS`.
        measured: results of `Part.measure`, by classifier.
    """
    if part == CUE_CONFLICT:
        return {"shape_bias": draw_shape_bias(measured)}
    if part == GROUPS:
        return {"groups": draw_groups(_named_rows(measured))}
    if part == FACTOR:
        rows = _named_rows(measured)
        return {
            what: draw_shares({name: row[what] for name, row in rows.items()}, TITLES[title])
            for what, title in (("accuracy", FACTOR), ("sensitivity", "sensitivity"))
        }
    return {}


def draw_shares(rows: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Draws shares as a grid of shaded cells with their numbers in percent.

    Args:
        rows: a number in [0, 1] by name of row and column; all rows have the same columns.
        title: title above the grid.

    Raises:
        ArgumentError: there are no rows, or rows have different columns.

    Examples:
        >>> from train_generator.robustness import draw_shares
        >>> figure = draw_shares({"shape head": {"shape": 0.9, "texture": 0.1, "background": 0.0}})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['90', '10', '0']
    """
    columns = {tuple(row) for row in rows.values()}
    if len(columns) != 1:
        raise ArgumentError(f"a grid needs rows of the same columns, got {sorted(columns)}")
    (names,) = columns
    values = [[row[name] for name in names] for row in rows.values()]
    figure = Figure(
        figsize=(1.9 + 0.95 * len(names) + 0.07 * max(map(len, rows)), 1.0 + 0.42 * len(rows)),
        dpi=160,
        layout="constrained",
    )
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, row in enumerate(values):
        for x, share in enumerate(row):
            color = "white" if share > _INK else "black"
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title + (" (%)" if title else ""), fontsize=8)
    return figure


def draw_shape_bias(measured: Measured) -> Figure:
    """Draws the shape bias of each category of the shape, after figure 4 of Geirhos et al.

    Args:
        measured: the rows of the cue-conflict part, by classifier. The line of an output marks its
            shape bias over all images; a category without any decision for shape or texture has no
            point.
    """
    names = cue_conflict_categories().names
    figure = Figure(figsize=(6.4, 4.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    for number, (label, row) in enumerate(_named_rows(measured).items()):
        biases = np.array([row["categories"][name]["shape_bias"] for name in names], float)
        color = f"C{number % 10}"
        axes.plot(biases, range(len(names)), "o", ms=4, color=color, alpha=0.8, label=label)
        if row["shape_bias"] is not None:
            axes.axvline(row["shape_bias"], color=color, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(-0.02, 1.02), xlabel="shape bias (0: texture decides, 1: shape decides)")
    axes.grid(axis="y", linewidth=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_changes(cgn: Mechanisms, class_map: ClassMap, seed: int = 0) -> Figure:
    """Draws images of a CGN, and how they look when one factor changes.

    Args:
        cgn: a frozen CGN.
        class_map: the classes to draw from.
        seed: seed of the draws.

    Examples:
        >>> from cgn_augment import ClassMap
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.robustness import draw_changes
        >>> len(draw_changes(SmallCGN().freeze(), ClassMap(range(10))).axes)
        32
    """
    generator = step_generator(Purpose.MEASURE, seed)
    choices = class_map.choices
    (part,) = change_factors(cgn, _NUM_CHANGES, generator, choices=choices, chunk=_NUM_CHANGES)
    first = "image of\nshape, texture\nand background"
    rows = {first: part.images}
    captions = {first: [", ".join(map(str, y)) for y in part.classes.t().tolist()]}
    for factor, classes in zip(FACTORS, part.new_classes, strict=True):
        rows[f"another {factor}"] = part.changed[factor]
        captions[f"another {factor}"] = [f"{factor} {y}" for y in classes.tolist()]
    return draw_sheet(rows, captions)


def _table(
    measured: Measured, header: Iterable[str], cells: Callable[[Mapping[str, Any]], list[str]]
) -> Table:
    table = [["classifier", "output", *header]]
    for classifier, rows in measured.items():
        table += [[classifier, output, *cells(row)] for output, row in rows.items()]
    return table


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if name == "background_gap":
        return f"{100 * value:.1f} points"
    if name.startswith("num_"):
        return str(value)
    return NOTHING if value is None else format_share(value)


def _factor_cells(what: str, row: Mapping[str, Any]) -> list[str]:
    num = row["num_images"]
    shares = [row[what][factor] for factor in FACTORS]
    errors = [100 * math.sqrt(share * (1 - share) / num) for share in shares]
    pairs = zip(shares, errors, strict=True)
    return [*(f"{format_share(share)} ± {error:.1f}" for share, error in pairs), str(num)]


def _named_rows(measured: Measured) -> dict[str, dict[str, Any]]:
    """Returns the rows by a unique name: classifier, output, or both if there are several."""
    named = {}
    for classifier, rows in measured.items():
        for output, row in rows.items():
            both = f"{classifier}: {output}" if len(measured) > 1 else output
            named[classifier if len(rows) == 1 else both] = row
    return named
