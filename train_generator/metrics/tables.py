"""Tables of measurements, as plain text and as Markdown."""

from __future__ import annotations

from typing import Literal

from tabulate import tabulate

Table = list[list[str]]
"""Rows of cells; the first row is the header."""

Format = Literal["plain", "markdown"]

NOTHING = "-"


def format_table(table: Table, how: Format = "plain") -> str:
    """Returns a table as text.

    Args:
        table: its first row is the header.
        how: "plain", in columns of equal width, or "markdown".

    Examples:
        >>> from train_generator.metrics.tables import format_table
        >>> print(format_table([["name", "share"], ["a", "10 %"]], "markdown"))
        | name   | share   |
        |--------|---------|
        | a      | 10 %    |
    """
    header, *rows = table
    kind = "github" if how == "markdown" else "plain"
    return tabulate(rows, header, tablefmt=kind, disable_numparse=True)


def format_share(share: float) -> str:
    """Returns a share in percent.

    Args:
        share: a number in [0, 1].

    Examples:
        >>> from train_generator.metrics.tables import format_share
        >>> format_share(0.984)
        '98.4 %'
    """
    return f"{100 * share:.1f} %"
