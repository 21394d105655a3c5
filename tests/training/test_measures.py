"""The numbers of a training: losses, measures, TensorBoard, and steps that are given up."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from training_helpers import STEPS, Before, Killed, at, kill, make, nothing, press

from cgn_augment.errors import CheckpointError
from train_generator.training.measures import LOSSES, MEASURES, read_measures
from train_generator.training.stages import StepAbandonedError
from train_generator.training.trainer import CHECKPOINT, Trainer


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_loss_is_a_line_and_in_tensorboard(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.train(progress=False)
    lines = read_measures(tmp_path / LOSSES)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["third/size"] == pytest.approx(trainer.modules["third"].weight.norm().item())
    scalars = read_scalars(tmp_path)
    assert scalars.keys() == {f"{name}/{loss}" for name in STEPS for loss in ("loss", "size")}
    for tag, points in scalars.items():
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        assert points == [(step, pytest.approx(value)) for step, value in expected]


def test_losses_are_logged_as_often_as_asked_and_at_the_end_of_a_stage(tmp_path: Path) -> None:
    make(tmp_path, log_every=3, save_every=1000).train(progress=False)
    lines = read_measures(tmp_path / LOSSES)
    assert [line["step"] for line in lines] == [1, 4, 5, 7, 8, 11, 12]


@pytest.mark.parametrize("place", [("first", 3), ("second", 1), ("third", 4)])
@pytest.mark.parametrize("stop", [kill, press])
def test_a_stopped_training_is_shown_as_if_nothing_was(
    place: tuple[str, int], stop: Callable[[], None], tmp_path: Path
) -> None:
    make(tmp_path / "whole").train(progress=False)
    folder = tmp_path / "stopped"
    with pytest.raises((Killed, KeyboardInterrupt)):
        make(folder, at(*place, stop)).train(progress=False)
    for path in folder.glob("*tfevents*"):  # two files of one second are read in any order
        path.rename(path.with_name("events.out.tfevents.0000000001"))
    make(folder, resume=True).train(progress=False)
    assert len(list(folder.glob("*tfevents*"))) == 2
    assert read_scalars(folder) == read_scalars(tmp_path / "whole")
    assert (folder / LOSSES).read_bytes() == (tmp_path / "whole" / LOSSES).read_bytes()


def test_what_a_checkpoint_is_past_is_in_the_files_already(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append({step for points in read_scalars(tmp_path).values() for step, _ in points})
        seen.append({line["step"] for line in read_measures(tmp_path / LOSSES)})

    make(tmp_path, at("second", 2, look)).train(progress=False)
    assert seen == [set(range(1, 7))] * 2


@pytest.mark.parametrize("missing", ["tensorboard", "torch.utils.tensorboard"])
def test_without_tensorboard_there_are_lines_and_a_word_on_how_to_get_it(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with caplog.at_level(logging.WARNING):
        make(tmp_path, measure=lambda: {"size": 1.0}).train(progress=False)
    assert len(caplog.records) == 1
    assert "pip install 'cgn-augment[train]'" in caplog.text
    assert len(read_measures(tmp_path / LOSSES)) == 12
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, LOSSES, MEASURES}


class Slow:
    """Steps of three parts, between which it asks whether to stop; calls `before` first."""

    name, num_steps = "slow", 4

    def __init__(self, layer: nn.Linear, stops: Callable[[], bool], before: Before) -> None:
        self.layer, self.stops, self.before = layer, stops, before
        self.optimizers = {"sgd": torch.optim.SGD(layer.parameters(), 0.1)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        self.optimizers["sgd"].zero_grad()
        for part in range(3):
            self.before(f"step {step}", part)
            if self.stops():
                raise StepAbandonedError
            self.layer(torch.randn(2, 1, generator=generator)).square().mean().backward()
        self.optimizers["sgd"].step()
        return {}


def make_slow(folder: Path, before: Before = nothing, **options: Any) -> Trainer:
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    trainer: Trainer
    stages = {"slow": lambda: Slow(layer, trainer.stops, before)}
    measure = lambda: {"weight": layer.weight.item()}  # noqa: E731
    trainer = Trainer(
        folder, {"layer": layer}, stages, {}, **{"measure": measure, "measure_every": 2} | options
    )
    return trainer


@pytest.mark.parametrize("place", [("step 0", 0), ("step 2", 1), ("step 3", 2)])
def test_a_step_that_is_given_up_is_taken_again_whole(
    place: tuple[str, int], tmp_path: Path
) -> None:
    whole = make_slow(tmp_path / "whole")
    whole.train(progress=False)
    with pytest.raises(KeyboardInterrupt):
        make_slow(tmp_path / "stopped", at(*place, press)).train(progress=False)
    position = torch.load(tmp_path / "stopped" / CHECKPOINT, weights_only=True)["position"]
    assert position == (0, int(place[0][-1]))
    resumed = make_slow(tmp_path / "stopped", resume=True)
    resumed.train(progress=False)
    assert torch.equal(whole.modules["layer"].weight, resumed.modules["layer"].weight)
    ours, theirs = ((tmp_path / name / MEASURES).read_bytes() for name in ("whole", "stopped"))
    assert ours == theirs


def test_measures_are_taken_before_the_first_step_at_intervals_and_in_the_end(
    tmp_path: Path,
) -> None:
    trainer = make_slow(tmp_path)
    trainer.train(progress=False)
    lines = read_measures(tmp_path / MEASURES)
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[0]["weight"] == 1
    assert lines[-1]["weight"] == trainer.modules["layer"].weight.item()
    assert read_scalars(tmp_path)["metrics/weight"] == [
        (line["step"], pytest.approx(line["weight"])) for line in lines
    ]


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    count = []

    def measure() -> dict[str, float]:
        count.append(1)
        return {"weight": 0.0}

    with pytest.raises(KeyboardInterrupt):
        make_slow(tmp_path, at("step 2", 0, press), measure=measure).train(progress=False)
    assert len(count) == 2
    make_slow(tmp_path, resume=True, measure=measure).train(progress=False)
    assert len(count) == 3


def test_a_damaged_file_of_measures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / MEASURES).write_text('{"step": 0}\nhalf a li')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl holds no measures, or is damaged"):
        make_slow(tmp_path).train(progress=False)
