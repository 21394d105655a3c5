"""The examples as a user runs them: real processes, real interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import pytest
import torch

from cgn_augment import SmallCGN

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def checkpoint(tiny_cgn: SmallCGN, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(tiny_cgn.state_dict(), path)
    return path


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, *arguments), capture_output=True, text=True, timeout=300, check=False
    )


SMALL = ("--num-train", 256, "--num-test", 100, "--bank", 20)


def test_drop_in_prints_its_diff_and_trains_both_loops(checkpoint: Path) -> None:
    done = run("drop_in.py", checkpoint, "--num-train", 128)
    assert done.returncode == 0, done.stderr
    assert "-    train = DataLoader(train_set, batch_size=64, shuffle=True)\n" in done.stdout
    assert "+    train = CounterfactualDataset(" in done.stdout
    assert "before: test accuracy" in done.stdout
    assert "after: test accuracy" in done.stdout


def test_the_invariant_example_prints_its_table_and_draws_its_pictures(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("--cgn", checkpoint, *SMALL, "--epochs", 1, "--seeds", 0, 1, "--out", out)
    done = run("invariant_mnist.py", *arguments, "--upper-bound")
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()[-4:]
    assert table[0].split("  ")[0] == "variant"
    kinds = ["biased images", "counterfactuals", "unbiased images"]
    for line, kind in zip(table[1:], kinds, strict=True):
        assert line.startswith(f"double_colored  {kind}")
        assert line.count(" % ± ") == 2
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["data"], row["seed"]) for row in rows] == [(k, s) for k in kinds for s in (0, 1)]
    assert json.loads((out / "settings.json").read_text())["settings"]["bank"] == "20"
    for picture in ("sheet.png", "curves.png"):
        assert matplotlib.image.imread(out / picture).std() > 0.05
    # Colours are not classes here: nothing of another run is touched.
    again = run("invariant_mnist.py", *arguments, "--upper-bound")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(f"error: {out} holds a run: pass --resume")
    other = run("invariant_mnist.py", *arguments, "--resume", "--upper-bound", "--batch-size", 32)
    assert "other settings (batch_size)" in other.stderr


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if path.is_file() or process.poll() is not None:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on_to_the_same_results(
    stop: signal.Signals, checkpoint: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = ("--cgn", checkpoint, *SMALL, "--epochs", 3)
    assert run("invariant_mnist.py", *arguments, "--out", whole).returncode == 0

    process = subprocess.Popen(
        command("invariant_mnist.py", *arguments, "--out", stopped),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(stopped / "biased_images-seed0.pt", process)  # written after the first epoch
    process.send_signal(stop)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    if stop is signal.SIGINT:
        assert "interrupted; the same command with --resume goes on" in error
    assert not (stopped / "results.jsonl").exists()

    done = run("invariant_mnist.py", *arguments, "--out", stopped, "--resume")
    assert done.returncode == 0, done.stderr
    assert (stopped / "results.jsonl").read_text() == (whole / "results.jsonl").read_text()


@pytest.mark.parametrize("name", ["drop_in.py", "invariant_mnist.py"])
def test_examples_explain_themselves_and_refuse_bad_paths(name: str, tmp_path: Path) -> None:
    told = run(name, "--help")
    assert told.returncode == 0
    assert "--variant" in told.stdout
    out = tmp_path / "run"
    arguments = ["nothing.pth"] if name == "drop_in.py" else ["--cgn", "nothing.pth", "--out", out]
    refused = run(name, *arguments, "--variant", "colored")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: 'nothing.pth' is neither a file nor")
    assert refused.stderr.count("\n") == 1
    assert not out.exists()
