"""Tables of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cgn_augment.errors import DataError
from cgn_augment.images.tables import read_table


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffpath,y\n1.jpg,0\n2.jpg,1\n"),
        ("a.tsv", "path\ty\n1.jpg\t0\n2.jpg\t1\n"),
        ("a.jsonl", '{"path": "1.jpg", "y": 0}\n\n{"path": "2.jpg", "y": 1}\n'),
    ],
)
def test_every_kind_of_table_gives_the_same_rows(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_table(tmp_path / name) == [
        {"path": "1.jpg", "y": "0"},
        {"path": "2.jpg", "y": "1"},
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,y\n", "has no row"),
        ("a.csv", "path,y\n1.jpg\n", "line 2 has more or fewer cells"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        ("a.jsonl", "{\n", "cannot be read as a table"),
        ("a.jsonl", "[" * 100_000, "nested too deep"),
        ("a.csv", "path,y,y\n1.jpg,0,1\n", "two of its columns are called 'y'"),
    ],
)
def test_what_is_no_table_is_an_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="there is no table"):
        read_table(tmp_path / "other.csv")


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match="is no regular file"):
        read_table(tmp_path / "a.csv")
