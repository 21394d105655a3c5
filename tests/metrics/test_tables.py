"""Tables as text."""

from __future__ import annotations

from train_generator.metrics.tables import format_table


def test_cells_are_printed_as_they_are() -> None:
    table = [["name", "share"], ["a", "10 %"], ["b", "1.0"], ["c", "-"]]
    plain = [line.split("  ") for line in format_table(table).splitlines()]
    assert [[cell.strip() for cell in row if cell] for row in plain] == table
    header, rule, *rows = format_table(table, "markdown").splitlines()
    marked = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *rows)]
    assert marked == table
    assert set(rule) == {"|", "-"}
