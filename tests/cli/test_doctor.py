"""What `cgn-augment doctor` says of an installation."""

from __future__ import annotations

import shutil
import types
from typing import Any

import pytest
import torch
from conftest import run_command

from cgn_augment.cli import doctor as module
from cgn_augment.cli.doctor import check_bundled_files, describe_device, find_needs
from cgn_augment.cli.program import main
from cgn_augment.errors import CheckpointError


def test_a_good_installation_fits_on_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "LEAST_SHARED", 0)
    assert run_command(main, monkeypatch, "doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 20
    assert lines[-1].split(maxsplit=1) == ["wrong", "nothing was found"]
    assert any(f"torch {torch.__version__.split('+')[0]}" in line for line in lines)
    assert any("4 generators" in line and "all whole" in line for line in lines)


def asked(*texts: str) -> Any:
    return lambda package: list(texts)


def test_packages_are_sorted_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("numpy>=1", "nothing-such>=2; extra == 'some'", "pytest>=8; extra == 'test'")
    monkeypatch.setattr(module, "requires", asked(*texts))
    needs = find_needs()
    assert set(needs) == {"", "some"}
    assert needs[""][0].fits
    assert needs["some"] == [("nothing-such", ">=2", None, False)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing-such>=2", "nothing-such is missing: pip install 'nothing-such>=2'"),
        ("numpy>=999", "pip install 'numpy>=999'"),
    ],
)
def test_what_is_missing_or_old_is_wrong(
    text: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "requires", asked(text))
    assert run_command(main, monkeypatch, "doctor") == 1
    assert said in capsys.readouterr().out


def test_a_damaged_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == "colored-mnist":
            raise CheckpointError("it is cut off")

    monkeypatch.setattr(module, "load_cgn", load)
    text, wrong = check_bundled_files()
    assert "1 damaged" in text
    assert wrong == ["bundled colored-mnist: it is cut off; install cgn-augment again"]


def test_a_driver_without_a_gpu_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    text, wrong = describe_device()
    assert text.startswith("cpu")
    assert "torch is built for the CPU alone" in wrong[0]


def test_little_shared_memory_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = types.SimpleNamespace(total=2**26)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert run_command(main, monkeypatch, "doctor") == 1
    assert "64 MiB, too few for num_workers above 0" in capsys.readouterr().out
