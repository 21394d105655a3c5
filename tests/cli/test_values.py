"""How values of options and of YAML files are read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import run_command

from cgn_augment.cli.program import run_commands
from cgn_augment.cli.values import load_value

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


@pytest.mark.parametrize("text", ["[" * 2000, "a: &a [*a]"])
def test_what_is_nested_without_end_is_no_value(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="nested too deep"):
        load_value(text)


def test_a_file_whose_anchors_stand_for_billions_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in pairwise("abcdefghij"):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "seed: *j"]))

    def command(seed: int = 0) -> None:
        raise AssertionError

    with pytest.raises(SystemExit) as stop:
        run_commands("x", command, [f"--config={path}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert len(error) < 2000
