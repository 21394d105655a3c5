"""Tables of images: CSV or JSON lines, one row per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgn_augment.errors import DataError
from cgn_augment.files import first_line, open_regular, parse_json

SUFFIXES = (".csv", ".tsv", ".jsonl")

MOST_DIGITS = 18
"""Digits of the longest number in a table; Python refuses to convert thousands."""

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    r"""Reads a table.

    Args:
        path: a CSV file whose first line names the columns (.csv, or .tsv with tabs), or a file
            with one JSON object per line (.jsonl).

    Returns:
        Its rows, each value as text.

    Raises:
        DataError: it is missing, empty, or cannot be read; a row has other columns; or two columns
            have one name.

    Examples:
        >>> from cgn_augment.images.tables import read_table
        >>> path = getfixture("tmp_path") / "photos.csv"
        >>> size = path.write_text("path,label\ncat/1.jpg,cat\n")
        >>> read_table(path)
        [{'path': 'cat/1.jpg', 'label': 'cat'}]
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            rows = list(_objects(file) if path.suffix == ".jsonl" else _lines(file, path.suffix))
    except FileNotFoundError as error:
        raise DataError(f"there is no table {path}") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({first_line(error)})") from error
    if not rows:
        raise DataError(f"{path} has no row: expected one for each image")
    return rows


def require_columns(rows: Sequence[Row], names: Sequence[str], what: str, advice: str = "") -> None:
    """Raises if a table lacks a column; `what` names the table in the error.

    Raises:
        DataError: a column is missing.
    """
    for number, row in enumerate(rows):
        lost = [name for name in names if name not in row]
        if lost:
            where = f"{what}, row {number + 1}," if number else what
            raise DataError(f"{where} has the columns {list(row)}, and none {lost[0]!r}{advice}")


def number_in(cell: str, end: int) -> int | None:
    """Returns the number that a text from a file holds, or None if it is not one of 0 to `end` - 1.

    Args:
        cell: the text.
        end: one more than the largest number allowed.

    Examples:
        >>> from cgn_augment.images.tables import number_in
        >>> number_in(" 7 ", 10), number_in("7", 7), number_in("9" * 5000, 10)
        (7, None, None)
    """
    text = cell.strip()
    if not (text.isdecimal() and len(text) <= MOST_DIGITS):
        return None
    number = int(text)
    return number if number < end else None


def _lines(file: Iterator[str], suffix: str) -> Iterator[Row]:
    lines = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
    names = lines.fieldnames or ()
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of its columns are called {twice!r}")
    for row in lines:
        if None in row or None in row.values():
            raise ValueError(f"line {lines.line_num} has more or fewer cells than the first")
        yield row


def _objects(file: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            yield {name: "" if value is None else str(value) for name, value in row.items()}
