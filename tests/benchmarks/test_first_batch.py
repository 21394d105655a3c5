"""docs/performance.md says how long the first batch takes, as it was measured."""

from __future__ import annotations

import json

import pytest
from conftest import REPO
from first_batch import NAME, RESULT, WAYS, summarize, table
from gpu_table import put_into


def test_the_table_is_that_of_the_results() -> None:
    if not RESULT.is_file():
        pytest.skip(f"{NAME} was not measured yet")
    page, result = (REPO / "docs" / "performance.md").read_text(), json.loads(RESULT.read_text())
    assert put_into(page, NAME, table(result)) == page, (
        "python benchmarks/first_batch.py --into docs/performance.md"
    )
    assert [row["way"] for row in result["rows"]] == list(WAYS)


def test_ratios_are_taken_within_rounds() -> None:
    plain, mixed = summarize({"plain": [2.0, 4.0, 2.0], "mixed": [3.0, 8.0, 4.0]})
    assert (plain["ratio"], plain["more"]) == (1, 0)
    assert mixed == {"way": "mixed", "seconds": 4.0, "ratio": 2.0, "more": 2.0}
