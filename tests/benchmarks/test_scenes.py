"""The benchmark of the scenes: its one command, as small as can be."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path

import pytest
from conftest import REPO, run_command

from benchmarks.scenes.__main__ import main
from benchmarks.scenes.run import ENSEMBLES, ROWS
from cgn_augment.types import FACTORS

SCENES = REPO / "benchmarks" / "scenes"


@pytest.mark.slow
def test_the_command_takes_all_steps_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, monkeypatch, tmp_path, "--smoke") == 0
    assert "| no background loss |" in capsys.readouterr().out
    known = json.loads((tmp_path / "reduced_imagenet.json").read_text())
    assert set(known) == {"judges", "prior", "saliency", "cgn", "ensemble"}
    assert (set(known["cgn"]), set(known["ensemble"])) == (set(ROWS), set(ENSEMBLES))
    for found in known["ensemble"].values():
        assert set(found) == {"counterfactuals", "real scenes"}
        assert set(found["real scenes"]["sensitivity"]["shape"]) == set(FACTORS)
    for picture in ("scenes.png", "ablation.png", "sensitivity.png", "all-losses/cgn.png"):
        assert (tmp_path / picture).is_file()
    weights = [path for name in ("*.bin", "*.safetensors") for path in tmp_path.rglob(name)]
    written = {path: path.stat().st_mtime_ns for path in weights}
    steps = ("judges", "prior", "saliency", "cgn")
    assert run_command(main, monkeypatch, tmp_path, "--smoke", "--steps", *steps) == 0
    assert written == {path: path.stat().st_mtime_ns for path in weights}
    assert json.loads((tmp_path / "reduced_imagenet.json").read_text()) == known


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SCENES.glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_of_docstrings_hold(path: Path, request: pytest.FixtureRequest) -> None:
    module = importlib.import_module(f"benchmarks.scenes.{path.stem}")
    found = doctest.testmod(module, extraglobs={"getfixture": request.getfixturevalue})
    assert found.failed == 0
