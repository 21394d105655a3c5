"""The trainer's measures, and steps that are given up."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, CheckpointError
from train_generator.training.trainer import CHECKPOINT, StepAbandonedError, Trainer

Before = Callable[[int, int], object]


class Slow:
    """Steps of three parts, between which it asks whether to stop; calls `before` first."""

    name, num_steps = "slow", 4

    def __init__(self, layer: nn.Linear, stops: Callable[[], bool], before: Before) -> None:
        self.layer, self.stops, self.before = layer, stops, before
        self.optimizers = {"sgd": torch.optim.SGD(layer.parameters(), 0.1)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        self.optimizers["sgd"].zero_grad()
        for part in range(3):
            self.before(step, part)
            if self.stops():
                raise StepAbandonedError
            self.layer(torch.randn(2, 1, generator=generator)).square().mean().backward()
        self.optimizers["sgd"].step()
        return {}


def make(folder: Path, before: Before = lambda *_: None, **options: Any) -> Trainer:
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


def press_at(*place: int) -> Before:
    return lambda *here: os.kill(os.getpid(), signal.SIGINT) if here == place else None


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (2, 1), (3, 2)])
def test_a_step_that_is_given_up_is_taken_again_whole(
    place: tuple[int, int], tmp_path: Path
) -> None:
    whole = make(tmp_path / "whole")
    whole.train(progress=False)
    stopped = make(tmp_path / "stopped", press_at(*place))
    with pytest.raises(KeyboardInterrupt):
        stopped.train(progress=False)
    position = torch.load(tmp_path / "stopped" / CHECKPOINT, weights_only=True)["position"]
    assert position == (0, place[0])
    resumed = make(tmp_path / "stopped", resume=True)
    resumed.train(progress=False)
    assert torch.equal(whole.modules["layer"].weight, resumed.modules["layer"].weight)
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "whole")


def test_measures_are_taken_before_the_first_step_at_intervals_and_in_the_end(
    tmp_path: Path,
) -> None:
    trainer = make(tmp_path)
    trainer.train(progress=False)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[0]["weight"] == 1
    assert lines[-1]["weight"] == trainer.modules["layer"].weight.item()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("metrics/weight")
    assert [(event.step, event.value) for event in events] == [
        (line["step"], pytest.approx(line["weight"])) for line in lines
    ]


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    count = []

    def measure() -> dict[str, float]:
        count.append(1)
        return {"weight": 0.0}

    stopped = make(tmp_path, press_at(2, 0), measure=measure)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(progress=False)
    assert len(count) == 2
    make(tmp_path, resume=True, measure=measure).train(progress=False)
    assert len(count) == 3


def test_without_measures_there_is_no_file(tmp_path: Path) -> None:
    make(tmp_path, measure=None).train(progress=False)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_damaged_file_of_measures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nhalf a li')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl holds no measures, or is damaged"):
        make(tmp_path).train(progress=False)


def test_how_often_to_measure_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="measure_every must be 1 or more, got 0"):
        make(tmp_path, measure_every=0)
