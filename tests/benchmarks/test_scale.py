"""docs/scale.md says what the measured rates come to."""

from __future__ import annotations

from conftest import REPO
from gpu_table import put_into
from scale import find_costs, tables


def test_the_tables_are_those_of_the_results() -> None:
    page = (REPO / "docs" / "scale.md").read_text()
    assert put_into(page, "scale", tables()) == page, (
        "python benchmarks/scale.py --into docs/scale.md"
    )


def test_hours_are_those_of_the_rates() -> None:
    costs = {cost.what: cost for cost in find_costs()}
    apart = costs["take photographs apart, 224 pixels, `--fill copy`"]
    assert (apart.unit, round(apart.seconds, 4)) == ("core", 0.0531)
    assert {cost.unit for cost in costs.values()} == {"core", "GPU"}
    assert all(0 < cost.seconds < 10 for cost in costs.values())
