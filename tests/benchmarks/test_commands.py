"""Benchmarks start as scripts do: with the package and what lies beside them, and nothing else."""

from __future__ import annotations

import subprocess
import sys

from conftest import REPO

IMPORT_ALL = """
import pathlib, runpy, sys
folder = pathlib.Path(sys.argv[1], "benchmarks")
sys.path[:0] = [sys.argv[1], str(folder)]
for script in sorted(folder.glob("*.py")):
    try:
        runpy.run_path(str(script), run_name="imported")
    except ImportError as error:
        print(f"{script.name}: {error}")
"""


def test_scripts_find_all_that_they_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(REPO)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
