"""The pictures of docs/performance.md show what was measured."""

from __future__ import annotations

import json

import gpu_table
import pytest
from conftest import REPO
from performance_plots import PLOTS, draw_gpu, draw_peers

RESULTS = REPO / "benchmarks" / "results"


def test_bars_and_lines_are_those_of_the_results() -> None:
    results = json.loads((RESULTS / "gpu.json").read_text())
    bars, lines = draw_gpu(results).axes
    steps = [row for row in results["parts"]["training"]["result"]["rows"] if "ratio" in row]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(
        [100 * (row["ratio"]["median"] - 1) for row in steps]
    )
    assert [text.get_text() for text in bars.get_yticklabels()] == [row["way"] for row in steps]
    assert bars.get_ylim()[0] > bars.get_ylim()[1]  # the first is at the top
    drawn = {
        (line.get_label(), x): y for line in lines.lines for x, y in line.get_xydata().tolist()
    }
    assert drawn == {
        (f"{row['way']}, {row['dtype']}", row["batch"]): pytest.approx(row["images_per_second"])
        for row in results["parts"]["generator"]["result"]["rows"]
    }


def test_nothing_is_cut_off() -> None:
    for name, draw in PLOTS.items():
        figure = draw(json.loads((RESULTS / name).read_text()))
        figure.draw_without_rendering()
        for axes in figure.axes:
            for text in axes.texts:
                box = text.get_window_extent()
                assert box.x1 < axes.bbox.x1, (name, text.get_text())
            assert axes.get_tightbbox().x0 >= 0


def test_what_was_not_measured_has_no_place() -> None:
    failed = {"training": {"error": "no"}, "generator": {"result": {"rows": [{"error": "no"}]}}}
    left, right = draw_gpu({"parts": failed}).axes
    assert not left.patches
    assert not right.lines
    row = {"way": "ours", "ms": {"quartile_1": 1.0, "median": 2.0, "quartile_3": 3.0}}
    [axes] = draw_peers({"rows": [row, {"way": "kornia", "error": "missing"}]}).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ours"]


def test_every_table_has_a_picture() -> None:
    page = (REPO / "docs" / "performance.md").read_text()
    assert set(PLOTS) == set(gpu_table.WRITERS)
    for name in PLOTS:
        assert f"(images/{name.removesuffix('.json')}.png)" in page
