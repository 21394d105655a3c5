"""docs/performance.md says what was measured, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import REPO, run_command
from gpu_table import WRITERS, for_documents, markdown, put_into, rates_of

from cgn_augment.cli import program
from cgn_augment.sources.cost import MEASURED

PAGE = (REPO / "docs" / "performance.md").read_text()
RESULTS = REPO / "benchmarks" / "results"


@pytest.mark.parametrize("name", WRITERS)
def test_the_tables_are_those_of_the_results(name: str) -> None:
    if not (RESULTS / name).is_file():
        pytest.skip(f"{name} was not measured yet")
    tables = WRITERS[name](json.loads((RESULTS / name).read_text()))
    assert put_into(PAGE, name, tables) == PAGE, (
        f"python benchmarks/gpu_table.py benchmarks/results/{name} --into docs/performance.md"
    )


def test_the_plan_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(line for line in PAGE.splitlines() if line.startswith("cgn-augment plan"))
    assert run_command(program.main, monkeypatch, *command.split()[1:]) == 0
    shown = PAGE.split("```text\n")[1].split("```")[0]
    assert shown == capsys.readouterr().out


def test_tables_replace_what_stood_between_the_marks(tmp_path: Path) -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    assert put_into(page, "x", "new").splitlines()[:4] == ["a", "<!-- x -->", "new", "<!-- /x -->"]
    assert put_into(put_into(page, "x", "new"), "x", "old") == page
    assert put_into(page, "y", "z").endswith("<!-- y -->\nz\n<!-- /y -->\n")


def test_numbers_in_tables_have_three_digits() -> None:
    spread = {"median": 1.23456, "quartile_1": 1.0, "quartile_3": 1500.7}
    assert markdown(["a", "b"], [[spread, None]])[-1] == "| 1.23 (1 to 1501) |  |"


def test_parts_that_failed_are_left_out_of_the_page() -> None:
    ways = {"what": "steps", "rows": [{"way": "plain", "ms": 1.0}]}
    parts = {"ceilings": {"error": "no"}, "training": {"result": ways}}
    machine = {"card": "card", "torch": "2", "python": "3"}
    text = for_documents({"machine": machine, "command": "command", "parts": parts})
    assert "Training: steps." in text
    assert "| plain | 1 |" in text
    assert "no" not in text.replace("unknown", "")


def test_the_rates_of_the_command_are_those_that_were_measured() -> None:
    results = json.loads((RESULTS / "gpu.json").read_text())
    found = rates_of(results)
    assert MEASURED.name == found.name
    for name in ("copy_gb_per_s", "made_over_floor", "resized_over_floor", "tflops"):
        assert getattr(MEASURED, name) == pytest.approx(getattr(found, name), rel=0.02), found
