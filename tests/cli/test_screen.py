"""Facts fit the screen; what goes into a file stays a line each."""

from __future__ import annotations

import sys

import pytest
from conftest import run_command

from cgn_augment.cli import program
from cgn_augment.cli.screen import tell

COMMANDS = [("doctor",), ("plan", "--step-ms", 0.01), ("plan",), ("info", "colored-mnist")]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 100])
def test_no_line_is_wider_than_the_screen(
    command: tuple[str, ...],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_command(program.main, monkeypatch, *command)
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run_command(program.main, monkeypatch, *command)
    folded = capsys.readouterr().out
    assert max(map(len, folded.splitlines())) <= columns
    assert sorted(folded.split()) == sorted(whole.split())  # no word is lost


def test_a_file_has_a_line_for_each_fact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tell("packages", ", ".join(["torch 2.11"] * 20), 12)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_folded_lines_stand_below_their_fact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tell("made of", "photographs of animals on land and on water", 8)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "made of  photographs of"
    assert all(line.startswith(" " * 9) and line[9] != " " for line in others)
