"""The command that says what a step has room for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn, run_command
from part_helpers import make_photos, write

import cgn_augment.cli.plan as commands
from cgn_augment.cli import program
from cgn_augment.cli.plan import measure_rates
from cgn_augment.sources.cost import Work


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return run_command(program.main, monkeypatch, "plan", *arguments)


def test_a_plan_for_a_small_generator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--pixels", 32, "--batch", 64, "--step-ms", 10, "--cgn", "colored-mnist"
    assert run(monkeypatch, *given, "--device-gb", 0.1, "--overhead", 0.1) == 0
    text = capsys.readouterr().out
    for words in ("64 real images of 32 pixels", "13950 of each", "10.0% of a step", "all fresh"):
        assert words in text, text


def test_a_bank_keeps_larger_factors_at_the_size_of_the_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--cgn", "colored-mnist", "--device-gb", 0.1
    for pixels, kept, num in ((16, 16, 55803), (32, 32, 13950), (64, 32, 13950)):
        assert run(monkeypatch, *given, "--pixels", pixels) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"bank {num} of each 0.1 GB" in text
        assert f"({kept} pixels, uint8)" in text


def test_parts_are_read_and_not_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--cgn", "parts") == 0
    text = capsys.readouterr().out
    assert "GFLOP" not in text
    assert "parts are read" in text


def test_a_folder_of_parts_is_planned_as_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(make_photos(tmp_path, 1), tmp_path / "set")
    assert run(monkeypatch, "--cgn", tmp_path / "set") == 0
    assert "parts are read" in capsys.readouterr().out
    assert run(monkeypatch, "--cgn", tmp_path / "photos") == 2
    assert "holds no complete set of parts" in capsys.readouterr().err


def test_a_step_without_room_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--cgn", "colored-mnist", "--step-ms", 0.01) == 0
    assert "lower --ratio or raise --overhead" in capsys.readouterr().out


def test_values_that_cannot_be_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--cgn", "colored-mnist", "--step-ms", 0) == 2
    assert "error: step_ms must be above 0" in capsys.readouterr().err
    assert run(monkeypatch, "--cgn", "no-such") == 2
    assert "no-such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pixels", "99999999"], "pixels must be 32768 or less, got 99999999"),
        (["--ratio", ".inf"], "ratio must be 0 or more, got inf"),
        (["--ratio", "1e400"], "ratio must be 0 or more, got inf"),
        (["--overhead", ".inf"], "overhead must be 0 or more, got inf"),
        (["--device-gb", ".inf"], "device_gb must be 0 or more, got inf"),
        (["--device-gb", "-1"], "device_gb must be 0 or more, got -1.0"),
        (["--step-ms", ".inf"], "step_ms must be a number of milliseconds"),
        (["--step-ms", ".nan"], "step_ms must be a number of milliseconds"),
        (["--card", "here", "--device", "nosuch"], "'nosuch' is not the name of a device"),
        (["--card", "here", "--device", "meta"], "device meta is not measured: take cpu or cuda"),
        (["--card", "here", "--device", "mps"], "device mps is not measured: take cpu or cuda"),
        (["--device", "meta"], "pass --card here too"),
    ],
)
@pytest.mark.parametrize("cgn", ["imagenet", "parts"])
def test_what_cannot_be_planned_is_known_before_a_network_is_opened(
    cgn: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands, "_open", None)
    assert run(monkeypatch, "--cgn", cgn, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("cgn", ["imagenet", "parts"])
def test_a_gpu_that_is_not_there_is_not_measured(
    cgn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--cgn", cgn, "--card", "here", "--device", "cuda") == 2
    assert "torch sees no GPU here" in capsys.readouterr().err


def test_this_machine_is_measured() -> None:
    work = Work(pixels=16, batch=4, source_pixels=32, flops=1e6)
    rates = measure_rates(work, make_tiny_cgn().freeze(), torch.device("cpu"), seconds=0.01)
    assert rates.name == "cpu"
    assert min(rates.copy_gb_per_s, rates.made_over_floor, rates.resized_over_floor) > 0
