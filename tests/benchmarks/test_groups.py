"""The benchmark of groups: its one command, as small as can be, and its table in the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import REPO, run_command


def test_the_command_runs_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from groups import ROWS, main

    out = tmp_path / "out"
    words = ["--smoke", "--out", out, "--cache", tmp_path / "cache"]
    assert run_command(main, monkeypatch, *words) == 0
    table = capsys.readouterr().out
    assert table == (out / "table.md").read_text()
    assert all(f"| {row.name} | {row.labels} | " in table for row in ROWS.values())
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(files) == len(ROWS)
    for path in files:
        result = json.loads(path.read_text())
        in_every_place = result["row"] == "upper"
        assert result["train_counts"] == ([3, 3, 3, 3] if in_every_place else [6, 0, 0, 6])
        counts = [group["num_images"] for group in result["test"]["groups"].values()]
        assert counts == [3, 3, 3, 3]
        assert (result["retrained"] is not None) == (result["row"] == "dfr")
    assert (out / "groups.png").is_file()
    missing = out / "groupdro-1.0-1-0.json"
    missing.unlink()
    assert run_command(main, monkeypatch, *words, "--rows", "groupdro", "plain") == 0
    again = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert [path for path in files if again[path] != files[path]] == [missing]


def test_the_table_has_means_and_deviations_over_the_seeds() -> None:
    from groups import make_table

    runs = [
        {
            "row": "parts",
            "correlation": 1.0,
            "test": {"worst_group_accuracy": x, "average": 0.9, "adjusted_average": 0.8},
        }
        for x in (0.1, 0.2)
    ]
    row = "| parts, other background | none | 15.0 ± 7.1 | 90.0 ± 0.0 | 80.0 ± 0.0 |"
    assert row in make_table(runs)


def test_the_upper_bound_stands_beside_every_correlation() -> None:
    from groups import make_table

    measured = {"worst_group_accuracy": 0.5, "average": 0.6, "adjusted_average": 0.55}
    places = ("plain", 0.95), ("plain", 1.0), ("upper", 0.5)
    runs = [{"row": row, "correlation": c, "test": measured} for row, c in places]
    head, _, plain, upper = make_table(runs).splitlines()
    assert "worst group, 0.5 " not in head
    assert plain.count("50.0") == upper.count("50.0") == 2


def test_the_documented_table_is_that_of_the_runs() -> None:
    from groups import RESULTS, make_table, read_results

    page = (REPO / "docs" / "groups.md").read_text()
    [shown] = re.findall(r"<!-- groups table -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    results = read_results(RESULTS)
    assert shown == (make_table(results) if results else "Not run yet.\n")
