"""The benchmark of photographs: its one command, as small as can be, and what it makes of runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import run_command


def test_the_command_runs_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from photographs import LONG, ROWS, main

    out = tmp_path / "out"
    words = ["--smoke", "--out", out, "--cache", tmp_path / "cache"]
    assert run_command(main, monkeypatch, *words) == 0
    table = capsys.readouterr().out
    assert table == (out / "table.md").read_text()
    assert all(f"| {row.name} | 1 |" in table for row in ROWS.values())
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(files) == len(ROWS) + len(LONG)
    for path in files:
        result = json.loads(path.read_text())
        assert 0 <= result["decorrelated"] <= 1
        assert result["photographs"] == 16
    assert (out / "photographs.png").is_file()
    missing = out / "plain-0.98-1-0.json"
    missing.unlink()
    assert run_command(main, monkeypatch, *words, "--rows", "upper", "plain") == 0
    again = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert [path for path in files if again[path] != files[path]] == [missing]


def test_results_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    from job_pool import find_left
    from photographs_data import Photos
    from photographs_runs import Job, describe

    from cgn_augment.errors import ArgumentError

    photos = Photos(tmp_path, None, 4, "copy")
    jobs = [Job("parts", 0.98, 10, 0), Job("parts", 0.98, 10, 1)]
    found = {"settings": describe(jobs[0], photos)}
    (tmp_path / jobs[0].file).write_text(json.dumps(found))
    assert find_left(jobs, tmp_path, partial(describe, photos=photos)) == jobs[1:]
    with pytest.raises(ArgumentError, match=r"is of other settings: pass another --out"):
        find_left(jobs, tmp_path, partial(describe, photos=replace(photos, fill="telea")))


def test_the_table_has_means_and_deviations_over_the_seeds() -> None:
    from photographs import gather, make_table

    runs = [
        {"row": "plain", "steps": 10, "correlation": 0.98, "decorrelated": x, "correlated": 0.9}
        for x in (0.1, 0.2)
    ]
    runs.append({**runs[0], "correlation": 1.0, "decorrelated": 0.3, "correlated": 0.5})
    cell = gather(runs)["plain", 10, 0.98, "decorrelated"]
    assert cell.mean == pytest.approx(15)
    assert cell.spread == pytest.approx(math.sqrt(50))
    assert "| plain | 10 | 15.0 ± 7.1 | 90.0 ± 0.0 | 30.0 | 50.0 |" in make_table(runs)
