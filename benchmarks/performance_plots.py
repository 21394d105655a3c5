"""Draws the measurements for docs/performance.md, where `gpu_table.py` puts the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]

_LINES = {"float32": "--", "bfloat16": "-"}


def draw_gpu(results: Row) -> Figure:
    """Draws how much longer a step of training takes, and how fast the generator draws.

    Parts that were not measured, and rows that failed, have no place in it.

    Args:
        results: of `gpu.json`.

    Examples:
        >>> ratio = {"quartile_1": 1.01, "median": 1.02, "quartile_3": 1.04}
        >>> rows = [{"way": "plain"}, {"way": "bank, prefetch 0", "base": "plain", "ratio": ratio}]
        >>> figure = draw_gpu({"parts": {"training": {"result": {"rows": rows}}}})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+2.0 %']
    """
    parts = {name: part["result"] for name, part in results["parts"].items() if "result" in part}
    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    steps = [row for row in parts.get("training", {"rows": ()})["rows"] if "ratio" in row]
    _draw_bars(
        left,
        [row["way"] for row in steps],
        [{key: 100 * (value - 1) for key, value in row["ratio"].items()} for row in steps],
        ["0.7" if row["way"].endswith("prefetch 0") else "C1" for row in steps],
        [f"+{100 * (row['ratio']['median'] - 1):.1f} %" for row in steps],
    )
    of_steps = "longer than a step on as many images that lie ready (%); lines: quartiles"
    left.set_xlabel(of_steps, fontsize=8)
    left.set_title("training of a ResNet-50", fontsize=9)
    drawn = [r for r in parts.get("generator", {"rows": ()})["rows"] if "images_per_second" in r]
    ways = list(dict.fromkeys(row["way"] for row in drawn))
    for way, dtype in dict.fromkeys((row["way"], row["dtype"]) for row in drawn):
        rows = [row for row in drawn if (row["way"], row["dtype"]) == (way, dtype)]
        right.plot(
            [row["batch"] for row in rows],
            [row["images_per_second"] for row in rows],
            _LINES[dtype],
            marker="o",
            ms=3,
            color=f"C{ways.index(way)}",
            label=f"{way}, {dtype}",
        )
    batches = sorted({row["batch"] for row in drawn})
    right.set_xscale("log")
    right.set_xticks(batches, [str(batch) for batch in batches], fontsize=8)
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_xlabel("images that are drawn at once", fontsize=8)
    right.set_ylabel("fresh images a second", fontsize=8)
    right.set_title("generator: the ImageNet CGN", fontsize=9)
    right.tick_params(labelsize=8)
    if drawn:
        right.legend(fontsize=7, handlelength=3.5)
    return figure


def draw_peers(results: Row) -> Figure:
    """Draws how long a batch takes to be mixed by each way.

    Args:
        results: of `peers.json`.

    Examples:
        >>> times = {"quartile_1": 40.0, "median": 50.0, "quartile_3": 60.0}
        >>> rows = [{"way": "plain", "ms": times}, {"way": "ours", "ms": times, "added_ms": 9.0}]
        >>> [text.get_text() for text in draw_peers({"rows": rows}).axes[0].texts]
        ['50', '50 (+9)']
    """
    rows = [row for row in results["rows"] if "ms" in row]
    figure = Figure(figsize=(8, 1.1 + 0.3 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    _draw_bars(
        axes,
        [row["way"] for row in rows],
        [row["ms"] for row in rows],
        [_color(row) for row in rows],
        [
            f"{row['ms']['median']:.0f}"
            + (f" ({row['added_ms']:+.0f})" if "added_ms" in row else "")
            for row in rows
        ],
    )
    axes.set_xlabel(
        "milliseconds of a batch, and how many more than the plain one; lines: quartiles",
        fontsize=8,
    )
    return figure


def _say(row: Row) -> str:
    added = f" ({row['added_ms']:+.0f})" if "added_ms" in row else ""
    return f"{row['ms']['median']:.0f}{added}"


def _color(row: Row) -> str:
    return "0.8" if "added_ms" not in row else "C1" if row["way"].startswith("ours") else "0.5"


def _draw_bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[Mapping[str, float]],
    colors: Sequence[str],
    texts: Sequence[str],
) -> None:
    """Draws bars to the medians, from above down, with their quartiles and a text beside each."""
    for place, (value, color, text) in enumerate(zip(values, colors, texts, strict=True)):
        low, middle, high = (value[key] for key in ("quartile_1", "median", "quartile_3"))
        axes.barh(place, middle, color=color, height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.annotate(
            text,
            (max(middle, high), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0)


PLOTS: dict[str, Callable[[Row], Figure]] = {"gpu.json": draw_gpu, "peers.json": draw_peers}
"""By the name of a file of results."""
