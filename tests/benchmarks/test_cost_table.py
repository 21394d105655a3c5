"""docs/performance.md says what the parts of a step cost at least."""

from __future__ import annotations

from conftest import REPO
from cost_table import find_parts, table
from gpu_table import put_into


def test_the_table_is_what_is_counted() -> None:
    page = (REPO / "docs" / "performance.md").read_text()
    assert put_into(page, "cost", table()) == page, (
        "python benchmarks/cost_table.py --into docs/performance.md"
    )
    whole = find_parts()[-1]
    assert round(whole.flops / 1e9) == 225
