"""docs/photographs.md says what masks cost."""

from __future__ import annotations

import json

import pytest
from conftest import REPO
from gpu_table import put_into
from mask_rates import OUT, table


def test_the_table_is_that_of_the_results() -> None:
    page = (REPO / "docs" / "photographs.md").read_text()
    rows = json.loads(OUT.read_text())["rows"]
    assert put_into(page, "mask_rates", table(rows).rstrip()) == page
    for row in rows.values():
        assert row["peak_mib_of_more"] < 1.1 * row["peak_mib"]  # flat


@pytest.mark.parametrize(
    ("rate", "line"),
    [
        (100.0, "| `x` | 100 | 50 s | 8.3 min | 3.6 h | 200 and 201 |"),
        (0.5, "| `x` | 0.5 | 2.8 h | 28 h | 30 days | 200 and 201 |"),
    ],
)
def test_times_are_told_in_units_that_people_use(rate: float, line: str) -> None:
    row = {"images_per_second": rate, "peak_mib": 200.0, "peak_mib_of_more": 201.0}
    assert table({"x": row}).splitlines()[2] == line
