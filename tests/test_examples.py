"""The examples as a user runs them, at the smallest size."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from conftest import make_red_masker
from shard_helpers import contents

import cgn_augment
from cgn_augment import BankSource, CounterfactualDataset
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import save_masker
from cgn_augment.stream.planning import Planned
from cgn_augment.stream.step import StepMaker

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = ("--num-train", 128, "--num-test", 100, "--bank", 20)


@pytest.fixture(scope="module")
def checkpoint(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    torch.save(tiny_cgn.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masker") / "red.safetensors"
    save_masker(make_red_masker(), path)
    return path


def run(name: str, *arguments: object) -> object:
    """Runs an example in this process; returns what it gave to `sys.exit`, or None."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return None


def test_drop_in_prints_its_diff_and_trains_both_loops(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("drop_in.py", checkpoint, "--num-train", 128, "--num-test", 100) is None
    printed = capsys.readouterr().out
    assert "-    train = DataLoader(train_set, batch_size=64, shuffle=True)\n" in printed
    assert "+    train = CounterfactualDataset(" in printed
    assert "before: test accuracy" in printed
    assert "after: test accuracy" in printed


def test_the_consistency_example_trains_on_pairs(
    checkpoint: Path, masker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--cgn", checkpoint, "--masker", masker, "--num-train", 128, "--num-test", 100)
    assert run("consistency.py", *arguments) is None
    assert "after one epoch; real images by verdict: {'usable': " in capsys.readouterr().out


def test_the_consistency_loss_compares_each_pair_and_nothing_else() -> None:
    names = runpy.run_path(str(EXAMPLES / "consistency.py"))
    log_probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).log()
    made = torch.tensor([False, False, True, True])
    loss = names["consistency_loss"]
    assert loss(log_probs, torch.tensor([0, 1, 0, -1]), made).item() == pytest.approx(0)
    divergence = (log_probs[1].exp() * (log_probs[1] - log_probs[2])).sum()
    assert loss(log_probs, torch.tensor([0, 1, 1, -1]), made).item() == pytest.approx(
        divergence.item()
    )


def test_the_invariant_example_takes_real_shapes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, masker, kinds = tmp_path / "run", "double-colored-mnist", ("real_shapes", "real_parts")
    arguments = ("--cgn", checkpoint, "--masker", masker, *SMALL, "--epochs", 1, "--out", out)
    assert run("invariant_mnist.py", *arguments, "--data", *kinds) is None
    rows = capsys.readouterr().out.splitlines()[-3:-1]
    for row, kind in zip(rows, kinds, strict=True):
        assert row.startswith(f"double_colored  {kind}")
        assert (out / f"{kind}.png").stat().st_size > 10_000


def test_the_invariant_example_prints_its_table_and_draws_its_pictures(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kinds = tmp_path / "run", ["counterfactuals", "unbiased"]
    arguments = ("--cgn", checkpoint, *SMALL, "--epochs", 1, "--seeds", 0, 1, "--out", out)
    arguments = (*arguments, "--data", *kinds)
    assert run("invariant_mnist.py", *arguments) is None
    table = capsys.readouterr().out.splitlines()[-4:-1]
    assert table[0].split("  ")[0] == "variant"
    for line, kind in zip(table[1:], kinds, strict=True):
        assert line.startswith(f"double_colored  {kind}")
        assert line.count(" % ± ") == 2
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["data"], row["seed"]) for row in rows] == [(k, s) for k in kinds for s in (0, 1)]
    assert json.loads((out / "settings.json").read_text())["settings"]["bank"] == "20"
    for picture in ("sheet.png", "curves.png"):
        assert matplotlib.image.imread(out / picture).std() > 0.05
    before = contents(out)
    again = run("invariant_mnist.py", *arguments)
    assert str(again).startswith(f"error: {out} holds a run: pass --resume")
    other = run("invariant_mnist.py", *arguments, "--resume", "--batch-size", 16)
    assert "other settings (batch_size)" in str(other)
    assert contents(out) == before


def test_a_run_that_was_stopped_goes_on_to_the_same_results(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--cgn", checkpoint, *SMALL, "--epochs", 2, "--data", "counterfactuals", "--out")
    assert run("invariant_mnist.py", *arguments, tmp_path / "whole") is None
    epochs, begin = iter([1, 2]), CounterfactualDataset.__iter__

    def stop_at_second(stream: CounterfactualDataset) -> object:
        if next(epochs) == 2:
            raise KeyboardInterrupt
        return begin(stream)

    with monkeypatch.context() as patch:
        patch.setattr(CounterfactualDataset, "__iter__", stop_at_second)
        stopped = run("invariant_mnist.py", *arguments, tmp_path / "stopped")
    assert "interrupted; the same command with --resume" in str(stopped)
    assert not (tmp_path / "stopped" / "results.jsonl").exists()
    assert run("invariant_mnist.py", *arguments, tmp_path / "stopped", "--resume") is None
    results = [(tmp_path / name / "results.jsonl").read_text() for name in ("whole", "stopped")]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["drop_in.py", "invariant_mnist.py"])
def test_examples_explain_themselves(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert "--variant" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", 0), "num_epochs must be 1 or more, got 0"),
        (("--bank", 5, "--refresh", 8), "refresh (8) must not be larger than size (5)"),
        (("--cgn", "nothing.pth"), "'nothing.pth' is neither a file nor"),
    ],
)
def test_a_wrong_argument_is_known_before_anything_is_written(
    arguments: tuple[object, ...], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    refused = run("invariant_mnist.py", "--cgn", checkpoint, *SMALL, "--out", out, *arguments)
    assert str(refused).startswith(f"error: {message}")
    assert not out.exists()
    assert str(run("drop_in.py", "nothing.pth")).startswith("error: 'nothing.pth' is neither")


@pytest.fixture
def small_cgn(tiny_cgn: SmallCGN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that name the bundled CGN get one of width 4, and a bank of twenty."""
    monkeypatch.setattr(cgn_augment, "load_cgn", lambda name: tiny_cgn)
    monkeypatch.setattr(cgn_augment, "BankSource", lambda cgn, size: BankSource(cgn, size=20))


def steps_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The epoch and the step of each batch that is mixed from now on."""
    steps, make = [], StepMaker.make_planned

    def note(self: StepMaker, step: Planned, *drawn: Any) -> Any:
        steps.append((step.position.epoch, step.position.step))
        return make(self, step, *drawn)

    monkeypatch.setattr(StepMaker, "make_planned", note)
    return steps


LOOPS = {
    "accelerate_digits.py": ("--save-every", 1, "--out", "run"),
    "ddp_torchrun.py": ("--save-every", 1, "--out", "run.pt"),
    "resnet_streaming.py": ("--bank", 20, "--workers", 0, "--batch-size", 50, "--out", "run"),
    "trainer_digits.py": ("--save-every", 1, "--out", "run", "--resume"),
    "lightning_digits.py": ("--out", "run"),
    "timm_digits.py": (),
}
RANK = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}


@pytest.mark.filterwarnings("ignore")  # the clients' own, of which their tests tell
@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_of_another_library_trains_and_goes_on(
    name: str,
    small_cgn: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "ddp_torchrun.py":
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        for variable, value in {**RANK, "MASTER_PORT": port}.items():
            monkeypatch.setenv(variable, value)
    steps = steps_read(monkeypatch)
    for epochs in (1, 2):
        assert run(name, "--num-train", 128, "--epochs", epochs, *LOOPS[name]) is None
        assert "accuracy" in capsys.readouterr().out
    one = [(epoch, step) for epoch in range(2) for step in range(2)]
    assert steps == (one if len(LOOPS[name]) else one[:2] + one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp_torchrun.py", "resnet_streaming.py"])
def test_examples_run_on_two_processes(name: str, tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    out = ("--num-train", "512", "--epochs", "1", "--out", tmp_path / "run")
    done = subprocess.run(
        [sys.executable, *command, EXAMPLES / name, *out],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 0: ") == 1


SHORT = ("accelerate_digits", "ddp_torchrun", "lightning_digits", "timm_digits", "trainer_digits")


@pytest.mark.parametrize("name", SHORT)
def test_loops_of_other_libraries_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60


SET = ("--num", 32, "--shard-size", 16)


@pytest.fixture(scope="module")
def shards(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that the example rendered with one process."""
    out = tmp_path_factory.mktemp("shards") / "set"
    assert run("make_shards.py", out, "--cgn", checkpoint, *SET, "--processes", 1) is None
    return out


@pytest.mark.slow
def test_make_shards_renders_the_same_set_with_two_processes(
    shards: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = [sys.executable, EXAMPLES / "make_shards.py", tmp_path / "set", "--cgn", checkpoint]
    command = list(map(str, [*command, *SET, "--processes", 2]))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'set'}: 0 problems\n"
    tars = [sorted(folder.glob("*.tar")) for folder in (shards, tmp_path / "set")]
    assert [path.read_bytes() for path in tars[0]] == [path.read_bytes() for path in tars[1]]


def test_make_shards_goes_on_where_it_was_stopped_and_tells_of_problems(
    shards: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = shards / "counterfactuals-000001.tar"
    whole = tar.read_bytes()
    arguments = (shards, "--cgn", checkpoint, *SET, "--processes", 1)
    tar.unlink()
    assert run("make_shards.py", *arguments) is None
    assert tar.read_bytes() == whole
    tar.write_bytes(whole[:-20_000] + bytes(20_000))
    assert run("make_shards.py", *arguments) == 1
    assert "counterfactuals-000001.tar: has" in capsys.readouterr().out
    tar.write_bytes(whole)
    refused = run("make_shards.py", *arguments, "--shard-size", 8)
    assert "holds another set (shard_size: 16 there, 8 asked for)" in str(refused)


@pytest.mark.parametrize("way", ["stream", "pipeline"])
# webdataset leaves closing its files to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_both_ways_to_train_from_shards_run(
    way: str, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--steps", 3, "--num-train", 64, "--num-test", 20)
    assert run("train_from_shards.py", shards, "--way", way, *small) is None
    assert f"{way}: test accuracy " in capsys.readouterr().out


def test_train_from_shards_refuses_what_is_no_set(tmp_path: Path) -> None:
    refused = run("train_from_shards.py", tmp_path, "--num-train", 64, "--num-test", 20)
    assert "has no manifest.json, so it is not a complete set of counterfactuals" in str(refused)
