"""The numbers of a training: losses, measures, TensorBoard, and steps that are given up."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import STEPS, at, make, press, read_scalars, weights

from cgn_augment.errors import CheckpointError
from train_generator.training.measures import LOSSES, MEASURES, read_measures
from train_generator.training.stages import StepAbandonedError
from train_generator.training.trainer import CHECKPOINT, Trainer


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


@pytest.mark.parametrize("place", [("first", 0), ("second", 1), ("third", 4)])
def test_a_step_that_is_given_up_is_taken_again_and_nothing_is_measured_twice(
    place: tuple[str, int], tmp_path: Path
) -> None:
    trainer: Trainer
    measured = []

    def measure() -> dict[str, float]:
        measured.append(trainer)
        return {"weight": trainer.modules["third"].weight[0, 0].item()}

    def give_up() -> None:
        assert not trainer.stops()
        press()
        assert trainer.stops()
        raise StepAbandonedError

    options: dict[str, Any] = {"measure": measure, "measure_every": 4}
    whole = trainer = make(tmp_path / "whole", **options)
    whole.train(progress=False)
    lines = read_measures(tmp_path / "whole" / MEASURES)
    assert [line["step"] for line in lines] == [0, 4, 8, 12]
    assert lines[-1]["weight"] == whole.modules["third"].weight[0, 0].item()
    assert read_scalars(tmp_path / "whole")["metrics/weight"] == [
        (line["step"], pytest.approx(line["weight"])) for line in lines
    ]
    folder = tmp_path / "stopped"
    trainer = make(folder, at(*place, give_up), **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(progress=False)
    position = torch.load(folder / CHECKPOINT, weights_only=True)["position"]
    assert position == (list(STEPS).index(place[0]), place[1])
    trainer = make(folder, resume=True, **options)
    trainer.train(progress=False)
    assert torch.equal(weights(trainer), weights(whole))
    assert (folder / MEASURES).read_bytes() == (tmp_path / "whole" / MEASURES).read_bytes()
    assert len(measured) == 8


@pytest.mark.parametrize("line", ["half a li", "[" * 100_000, '{"step": Infinity}'])
def test_a_damaged_file_of_measures_is_an_error(line: str, tmp_path: Path) -> None:
    (tmp_path / MEASURES).write_text(f'{{"step": 0}}\n{line}')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl holds no measures, or is damaged"):
        make(tmp_path).train(progress=False)
