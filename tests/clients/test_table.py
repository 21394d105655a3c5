"""docs/clients.md says what to write: it is what the tests and the examples write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = (DOCS / "clients.md").read_text().split("\n\n")[2]
ROWS = [line.split(" | ") for line in TABLE.splitlines()[2:]]
HERE = {path.name for path in Path(__file__).parent.glob("test_*.py")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| "))
def test_a_row_has_few_lines_and_they_are_those_of_what_it_names(row: list[str]) -> None:
    _, write, _, see = row
    lines = re.findall(r"`([^`]+)`", write)
    assert 1 <= len(lines) <= 3
    named = [DOCS / path for path in re.findall(r"\]\(([^)]+)\)", see)]
    assert any(path.parent == DOCS / ".." / "tests" / "clients" for path in named)
    sources = " ".join(path.read_text() for path in named)
    for line in lines:
        assert line in sources, line


def test_every_client_has_a_row() -> None:
    named = set(re.findall(r"tests/clients/(\w+\.py)", TABLE))
    assert named == HERE - {"test_table.py", "test_gpu.py"}
