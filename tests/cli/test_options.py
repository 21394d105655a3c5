"""Options of a command that are made of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from cgn_augment.cli.options import settings_as_options
from cgn_augment.cli.program import run_commands
from cgn_augment.errors import ArgumentError


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        size: in pixels.
    """

    size: int = 3


@dataclass(frozen=True)
class Settings:
    """Settings.

    Attributes:
        path: of a file, on which
            much is to be said.
        kind: of a thing.
        part: a part.
    """

    path: str
    kind: Literal["long", "short"] = "short"
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        if self.part.size == 13:
            raise ArgumentError("size must not be 13, got 13: take another")


@settings_as_options(Settings, path="give --path, the file")
def command(settings: Settings, out: str = "here") -> None:
    """Does something.

    Args:
        settings: of it.
        out: folder to write.
    """
    print(settings, out)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Returns exit status, output and errors of the command."""
    status = 0
    try:
        run_commands("program", {"command": command}, ["command", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    return (status, *capsys.readouterr())


def test_settings_are_options_beside_those_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "--path=a.bin", "--kind=long", "--part.size=7", "--out=there")
    assert out == f"{Settings('a.bin', 'long', Part(7))} there\n"
    assert run(capsys, "--path=a.bin")[1] == f"{Settings('a.bin')} here\n"


def test_help_says_what_the_dataclass_says(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    words = " ".join(out.split())
    assert status == 0
    assert "Does something." in words
    for told in ("of a file, on which much is to be said.", "in pixels.", "folder to write."):
        assert told in words
    assert "of it." not in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: give --path, the file"),
        (["--path=a", "--kind=wide"], "kind"),
        (["--path=a", "--colour=red"], "colour"),
        (["--path=a", "--part.size=13"], "error: size must not be 13, got 13: take another"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, errors = run(capsys, *arguments)
    assert status == 2
    (line,) = errors.splitlines()
    assert message in line
