"""Ctrl-C at any time: also while a command is imported, which takes longer than many a command."""

from __future__ import annotations

import configparser
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

ARGUMENTS = {
    "cgn-augment": ("info", "colored-mnist"),
    "train-generator": ("data", "colored", "data.png"),
}


def start_program(name: str, folder: Path, action: Any = signal.SIG_DFL) -> subprocess.Popen[bytes]:
    """Starts an installed program, which tells on standard error of each module it has imported.

    It inherits what is done on SIGINT, which the tests themselves may have been told to ignore.
    """
    setup = configparser.ConfigParser()
    setup.read(REPO / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].splitlines()
    entries = dict(line.split(" = ") for line in scripts if line)
    module, function = entries[name].split(":")
    script = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-X", "importtime", "-c", script, *ARGUMENTS[name]]
    handler = signal.signal(signal.SIGINT, action)
    try:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, bufsize=0, **pipes)
    finally:
        signal.signal(signal.SIGINT, handler)


def interrupt(
    process: subprocess.Popen[bytes], name: str, num_modules: int, seconds: float = 0.0
) -> bytes:
    """Presses Ctrl-C after some modules of the program, and some seconds; returns what it says.

    The first module after `cli.start` proves that Ctrl-C is heeded: before it, Python is starting.
    """
    assert process.stderr is not None
    assert num_modules > 0
    last_light = f" {name.replace('-', '_')}.cli.start".encode()
    told, seen = process.stderr, -1
    for line in told:
        seen += line.rstrip().endswith(last_light) or seen >= 0
        if seen >= num_modules:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    return b"".join(
        line for line in rest.splitlines(keepends=True) if not line.startswith(b"import time:")
    )


@pytest.mark.parametrize(
    ("name", "num_modules"),
    [
        ("cgn-augment", 1),
        ("cgn-augment", 100),
        ("cgn-augment", 1000),  # within torch
        ("cgn-augment", 1600),  # within our own
        ("train-generator", 1),
        ("train-generator", 500),
    ],
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(
    name: str, num_modules: int, tmp_path: Path
) -> None:
    with start_program(name, tmp_path) as process:
        told = interrupt(process, name, num_modules)
    assert process.returncode == 130
    assert told == f"{name}: interrupted\n".encode()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_ctrl_c_at_any_time_is_one_line_or_nothing(name: str, tmp_path: Path) -> None:
    drawn = random.Random(0)
    statuses = []
    for _ in range(40):
        with start_program(name, tmp_path) as process:
            told = interrupt(process, name, drawn.randrange(1, 2000), drawn.uniform(0, 0.05))
        statuses.append(process.returncode)
        # A command that had ended before says and does what it does.
        assert told in (b"", f"{name}: interrupted\n".encode())
        assert process.returncode in (0, 130)
    assert statuses.count(130) > 20


@pytest.mark.slow
def test_ctrl_c_is_not_heeded_where_whoever_starts_a_command_says_so(tmp_path: Path) -> None:
    with start_program("cgn-augment", tmp_path, signal.SIG_IGN) as process:
        told = interrupt(process, "cgn-augment", 1)
    assert process.returncode == 0
    assert told == b""
