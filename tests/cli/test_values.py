"""How values of options and of YAML files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from cgn_augment.cli.program import run_commands

SEEN: list[Any] = []


def look(
    class_map: dict[str, int | str | list[int | str]] | None = None,
    classes: int | list[str] | None = None,
    rate: float = 0.1,
    flip: bool = True,
    name: str | None = None,
    sizes: tuple[float, ...] = (),
) -> None:
    """Looks at what was given.

    Args:
        class_map: of the classes.
        classes: their names.
        rate: a number.
        flip: true or false.
        name: of anything.
        sizes: numbers.
    """
    SEEN.append((class_map, classes, rate, flip, name, sizes))


def main() -> None:
    run_commands("test", {"look": look})


DEFAULT = (None, None, 0.1, True, None, ())
MAP = {"000": 5, "010": 10, "no": "fish", "1e3": [8, "cat"]}
TEXT = "{000: 5, 010: 10, no: fish, 1e3: [8, cat]}"


@pytest.mark.parametrize(
    ("options", "file", "expected"),
    [
        ([f"--class-map={TEXT}"], f"class_map: {TEXT}", (MAP, *DEFAULT[1:])),
        (["--classes=[007, off, 3]"], "classes: [007, off, 3]", (None, ["007", "off", "3"])),
        (["--classes=010"], "classes: 010", (None, 10)),
        (["--rate=1e-3"], "rate: 1e-3", (None, None, 0.001)),
        (["--flip=false"], "flip: False", (None, None, 0.1, False)),
        (["--name=no"], "name: no", (None, None, 0.1, True, "no")),
        (["--name=010"], "name: 010", (None, None, 0.1, True, "010")),
        (["--name=null"], "name: null", DEFAULT),
        (["--name=a:b@{0..3}.tar"], "name: 'a:b@{0..3}.tar'", (*DEFAULT[:4], "a:b@{0..3}.tar")),
        (["--sizes=[1, 2.5, 1e2]"], "sizes: [1, 2.5, 1e2]", (*DEFAULT[:5], (1.0, 2.5, 100.0))),
    ],
)
def test_names_stay_as_written_and_numbers_are_numbers_where_one_is_wanted(
    options: list[str],
    file: str,
    expected: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "settings.yaml").write_text(file)
    for given in (options, [f"--config={tmp_path}/settings.yaml"]):
        assert (
            run_command(lambda: run_commands("test", {"look": look}), monkeypatch, "look", *given)
            == 0
        )
        assert SEEN.pop() == (*expected, *DEFAULT[len(expected) :])
