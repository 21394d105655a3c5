"""The training of the small generator as a whole: kills, Ctrl-C, resume, what it writes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgn_augment import load_cgn, read_metadata
from cgn_augment.errors import ArgumentError, CheckpointError
from train_generator.small import training as small
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)
from train_generator.small.training import SmallTraining
from train_generator.training.machine import CGN_FILE
from train_generator.training.trainer import CHECKPOINT, Trainer

# Masks that are found after a few steps of training are too poor to complete textures from.
pytestmark = pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning")

STEPS = {"factors": 5, "masker": 4, "masker 1": 4, "masker 2": 4, "textures": 3, "shapes": 5}
BARS = [f"{n}/6 {name.split()[0]}:" for n, name in enumerate(STEPS, start=1)]
SETTINGS: dict[str, Any] = {
    "variant": "colored",
    "num_train": 300,
    "device": "cpu",
    "factors": {
        "num_steps": STEPS["factors"],
        "batch_size": 8,
        "images_per_texture": 2,
        "discriminator_width": 4,
        "blob_steps": 2,
    },
    "masker": {"num_steps": STEPS["masker"], "batch_size": 4, "rounds": 2},
    "texturing": {"num_steps": STEPS["textures"], "batch_size": 8},
    "shapes": {"num_steps": STEPS["shapes"], "batch_size": 8},
}

# The command, in a process that listens to Ctrl-C even in the background of a script. Its card is
# left out, which measures thousands of images; its sheets are blank, to save time.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from train_generator.cli import generators as commands
from train_generator.small.training import SmallTraining
from matplotlib.figure import Figure
commands.write_card = lambda *_, **__: "left out"
SmallTraining.draw = lambda _: Figure(figsize=(1, 1))
from train_generator.cli.program import main
sys.argv = ["train-generator", *sys.argv[1:]]
main()
"""


def make_config(**changes: object) -> SmallConfig:
    parts = {
        "factors": FactorsConfig,
        "masker": MaskerConfig,
        "texturing": TexturesConfig,
        "shapes": ShapesConfig,
    }
    settings = {
        name: parts[name](**value) if name in parts else value for name, value in SETTINGS.items()
    }
    return SmallConfig(**{**settings, **changes})


def train(folder: Path, config: SmallConfig | None = None, **arguments: Any) -> Path:
    """Trains without bars."""
    return SmallTraining(config or make_config(), folder, progress=False, **arguments).train()


@contextmanager
def one_thread() -> Iterator[None]:
    """Weights depend on the number of threads, and the processes of this file have one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def _blank_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallTraining, "draw", lambda _: Figure(figsize=(1, 1)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with one_thread():
        train(folder, save_every=2)
    return folder


def require_same(first: Path, second: Path) -> None:
    """Compares the generators and all that the checkpoints hold, bit for bit."""
    ours, theirs = load_file(first / CGN_FILE), load_file(second / CGN_FILE)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    states = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (first, second)]
    modules, others = (state["modules"] for state in states)
    assert modules.keys() == others.keys()
    for name, module in modules.items():
        wrong = [key for key in module if not torch.equal(module[key], others[name][key])]
        assert wrong == [], name
    for key in ("settings", "stages", "position", "steps_before"):
        assert states[0][key] == states[1][key]


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    settings = folder.with_name("settings.yaml")
    settings.write_text(json.dumps(SETTINGS))  # which is YAML too
    arguments = ["small", f"--config={settings}", f"--out={folder}", "--save_every=2"]
    if (folder / CHECKPOINT).exists():
        arguments.append("--resume=true")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], stderr=file, stdout=file, env=environment
        )


def wait_for(process: subprocess.Popen[bytes], log: Path, text: str) -> None:
    """Waits until the bars show something, or the process ends."""
    end = time.monotonic() + 120
    while process.poll() is None and text.encode() not in log.read_bytes():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.005)


def stop_somewhere(folder: Path, stage: int, delay: float, stop: signal.Signals) -> None:
    """Starts or resumes the training, and stops it some seconds after a stage has begun."""
    log = folder.with_name("log")
    process = start(folder, log)
    wait_for(process, log, BARS[stage])
    time.sleep(delay)
    process.send_signal(stop)
    expected = -signal.SIGKILL if stop is signal.SIGKILL else 130
    assert process.wait(timeout=120) in (0, expected), log.read_text()


def finish(folder: Path) -> None:
    log = folder.with_name("log")
    assert start(folder, log).wait(timeout=300) == 0, log.read_text()


def kill_and_finish(folder: Path, num_kills: int, seed: int) -> None:
    print(f"seed of the kills: {seed}")
    chance = random.Random(seed)
    for stage in sorted(chance.choices(range(len(STEPS)), k=num_kills)):
        stop_somewhere(folder, stage, chance.uniform(0, 0.2), signal.SIGKILL)
    finish(folder)


# Real processes


def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kill_and_finish(folder, 2, random.SystemRandom().randrange(10**6))
    require_same(folder, whole)
    assert read_scalars(folder) == read_scalars(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_training_that_is_killed_often_ends_the_same(
    seed: int, whole: Path, tmp_path: Path
) -> None:
    kill_and_finish(tmp_path / "run", 8, seed)
    require_same(tmp_path / "run", whole)


def test_ctrl_c_is_one_line_and_leaves_a_checkpoint(whole: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(folder, log)
    wait_for(process, log, BARS[2])
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    end = "train-generator: interrupted; the same command with --resume goes on"
    assert log.read_text().splitlines()[-1] == end
    assert "Traceback" not in log.read_text()
    assert not (folder / CGN_FILE).exists()
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    assert state["position"][0] in (2, 3)
    train(folder, resume=True)
    require_same(folder, whole)


# The same in this process, where it can be told to the step


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is saved."""


def kill() -> None:
    raise Killed


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stop_at(
    monkeypatch: pytest.MonkeyPatch, number: int, step: int, stop: Callable[[], None]
) -> None:
    taken = Trainer._step

    def take(trainer: Trainer, stage: Any, at: int, of: int) -> Any:
        if (at, of) == (number, step):
            stop()
        return taken(trainer, stage, at, of)

    monkeypatch.setattr(Trainer, "_step", take)


@pytest.mark.usefixtures("_blank_sheets")
@pytest.mark.parametrize("stop", [kill, press])
def test_a_training_that_is_stopped_in_every_stage_ends_the_same(
    stop: Callable[[], None], whole: Path, tmp_path: Path
) -> None:
    for number, steps in enumerate(STEPS.values()):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, number, steps - 2, stop)
            with pytest.raises((Killed, KeyboardInterrupt)):
                train(tmp_path, resume=number > 0, save_every=2)
        position = torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"]
        done = (steps - 2) // 2 * 2 if stop is kill else steps - 1
        assert position == (number, done)
        assert not (tmp_path / CGN_FILE).exists()
    train(tmp_path, resume=True)
    require_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("_blank_sheets")
def test_a_training_that_is_killed_in_every_step_ends_the_same(whole: Path, tmp_path: Path) -> None:
    places = [(n, step) for n, steps in enumerate(STEPS.values()) for step in range(steps)]
    for first, second in pairwise(places):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, *second, kill)
            with pytest.raises(Killed):
                train(tmp_path, resume=first != (0, 0), save_every=1)
    train(tmp_path, resume=True)
    require_same(tmp_path, whole)


# What it writes


def test_the_folder_says_all(whole: Path) -> None:
    names = {path.name for path in whole.iterdir() if "tfevents" not in path.name}
    assert names == {CGN_FILE, CHECKPOINT, "settings.json", "sheets"}
    facts = json.loads((whole / "settings.json").read_text())
    assert facts["settings"]["factors"].items() >= SETTINGS["factors"].items()
    assert facts["settings"]["variant"] == "colored"
    assert facts["versions"].keys() >= {"cgn-augment", "torch", "accelerate"}
    assert (facts["device"], facts["threads"]) == ("cpu", 1)
    sheets = sorted((whole / "sheets").iterdir())
    assert [int(sheet.stem) for sheet in sheets] == list(accumulate(STEPS.values()))
    assert all(matplotlib.image.imread(sheet).std() > 0.05 for sheet in sheets)


def test_the_generator_is_the_average_in_half_precision(whole: Path) -> None:
    cgn = load_cgn(whole / CGN_FILE)
    assert cgn.config["shape_network"] == "deep"
    average = torch.load(whole / CHECKPOINT, weights_only=True)["modules"]["average"]
    for name, value in cgn.state_dict().items():
        expected = average[name]
        if name.startswith("f_shape.14."):  # the logits of masks
            expected = 4 * expected
        if expected.is_floating_point():
            expected = expected.half().float()
        assert torch.equal(value, expected)
    kept = read_metadata(whole / CGN_FILE)
    assert json.loads(kept["recipe"])["masker"].items() >= SETTINGS["masker"].items()
    assert (kept["variant"], kept["textures"]) == ("colored", "none")


def test_tensorboard_has_the_losses_of_every_stage(whole: Path) -> None:
    scalars = read_scalars(whole)
    assert {tag.split("/")[0] for tag in scalars} == {"factors", "masker", "textures", "shapes"}
    assert scalars.keys() >= {
        "factors/adversarial",
        "factors/discriminator",
        "factors/entropy",
        "factors/size",
        "factors/border",
        "masker/cross entropy",
        "textures/reconstruction",
        "textures/kl",
        "textures/flow",
        "shapes/reconstruction",
        "shapes/kl",
        "shapes/flow",
        "shapes/class",
    }
    for points in scalars.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))


@pytest.mark.usefixtures("_blank_sheets")
def test_a_seed_decides_all_and_another_one_ends_elsewhere(tmp_path: Path) -> None:
    short = {
        "factors": FactorsConfig(**{**SETTINGS["factors"], "num_steps": 1}),
        "masker": MaskerConfig(num_steps=0),
        "texturing": TexturesConfig(num_steps=0),
        "shapes": ShapesConfig(num_steps=0),
    }
    files = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # which must not matter
        config = make_config(**short, seed=seed)
        files.append(load_file(train(tmp_path / str(number), config)))
    first, again, other = files
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["f_text1.1.weight"], other["f_text1.1.weight"])
    assert not torch.equal(first["label_emb.weight"], other["label_emb.weight"])


@pytest.mark.usefixtures("_blank_sheets")
def test_the_masks_of_the_data_are_never_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    made = small.make_data

    def without_masks(config: SmallConfig) -> Any:
        data = made(config)
        return dataclasses.replace(data, masks=torch.zeros_like(data.masks))

    monkeypatch.setattr(small, "make_data", without_masks)
    train(tmp_path)
    require_same(tmp_path, whole)


# What is refused


def test_an_existing_training_is_neither_overwritten_nor_mixed(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}

    before = contents()
    with pytest.raises(ArgumentError, match="holds a training: pass --resume"):
        SmallTraining(make_config(), whole, progress=False)
    other = make_config(
        seed=1, factors=FactorsConfig(**{**SETTINGS["factors"], "size_weight": 1.0})
    )
    with pytest.raises(CheckpointError, match=r"other settings \(factors.size_weight, seed\)"):
        SmallTraining(other, whole, resume=True, progress=False)
    assert contents() == before


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="to resume: start without --resume"):
        SmallTraining(make_config(), tmp_path / "new", resume=True, progress=False)
    assert not (tmp_path / "new").exists()


def test_how_often_to_save_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="save_every must be 1 or more, got 0"):
        SmallTraining(make_config(), tmp_path, save_every=0, progress=False)
