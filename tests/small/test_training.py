"""The training of the small generator as a whole: a stop, resume, what it writes and refuses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from small_helpers import CLASSES, PARTS, STEPS, make_config, make_images, one_thread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.generators import read_metadata
from train_generator.small.config import FactorsConfig, MaskerConfig, ShapesConfig, TexturesConfig
from train_generator.small.training import SmallTraining
from train_generator.training.machine import CGN_FILE
from train_generator.training.trainer import CHECKPOINT, Trainer

# Masks that are found after a few steps of training are too poor to complete textures from.
pytestmark = pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning")


DRAW = SmallTraining.draw


def train(folder: Path, **arguments: Any) -> Path:
    """Trains without bars."""
    arguments = {"config": make_config(), "data": make_images()[0], "progress": False, **arguments}
    return SmallTraining(folder=folder, **arguments).train()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module", autouse=True)
def _blank_sheets() -> Iterator[None]:
    """Drawing takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallTraining, "draw", lambda _: Figure(figsize=(1, 1)))
        yield


@pytest.fixture(scope="module")
def whole(_blank_sheets: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


# Stops. A real kill is proved on the trainer's toy stages.


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
        if trainer.checkpoint is not None and (at, of) == (number, step):  # not that of the blobs
            stop()
        return taken(trainer, stage, at, of)

    monkeypatch.setattr(Trainer, "_step", take)


def test_a_training_that_is_stopped_goes_on_to_the_same_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = list(STEPS).index("textures")  # which takes the images apart again when resumed
    with monkeypatch.context() as patch:
        stop_at(patch, number, 1, press)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (number, 2)
    assert not (tmp_path / CGN_FILE).exists()
    train(tmp_path, resume=True)
    require_same(tmp_path, whole)


@pytest.mark.slow
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
    names = {path.name for path in whole.iterdir()}
    assert names >= {CGN_FILE, CHECKPOINT, "settings.json", "sheets"}
    facts = json.loads((whole / "settings.json").read_text())
    assert facts["settings"]["factors"]["blob_steps"] == PARTS["factors"].blob_steps
    assert facts["images"] == {"description": "a made-up world", "classes": list(CLASSES)}
    assert facts["versions"].keys() >= {"cgn-augment", "torch", "accelerate"}
    assert (facts["device"], facts["threads"]) == ("cpu", 1)
    sheets = sorted((whole / "sheets").iterdir())
    assert [int(sheet.stem) for sheet in sheets] == list(accumulate(STEPS.values()))


def test_a_sheet_has_real_images_of_each_class_and_drawn_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "train_generator.small.training.draw_cgn", lambda *given: drawn.append(given)
    )
    data = make_images()[0]
    training = SmallTraining(make_config(), data, tmp_path)
    DRAW(training)
    [(cgn, columns, _, (images, labels))] = drawn
    assert (cgn, columns, labels.tolist()) == (training.average, 9, [0, 1, 2])
    assert torch.equal(images, data.images[:3])


def test_the_generator_is_the_average_in_half_precision(whole: Path) -> None:
    cgn = load_cgn(whole / CGN_FILE)
    assert (cgn.config["shape_network"], cgn.num_classes) == ("deep", 3)
    average = torch.load(whole / CHECKPOINT, weights_only=True)["modules"]["average"]
    for name, value in cgn.state_dict().items():
        expected = average[name]
        if name.startswith("f_shape.14."):  # the logits of masks
            expected = 4 * expected
        if expected.is_floating_point():
            expected = expected.half().float()
        assert torch.equal(value, expected)
    kept = read_metadata(whole / CGN_FILE)
    assert json.loads(kept["recipe"])["masker"]["num_factors"] == PARTS["masker"].num_factors
    assert (kept["description"], kept["classes"]) == ("a made-up world", json.dumps(CLASSES))


def test_tensorboard_has_the_losses_of_every_stage(whole: Path) -> None:
    events = EventAccumulator(str(whole), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    assert {tag.split("/")[0] for tag in tags} == {"factors", "masker", "textures", "shapes"}
    for tag in tags:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps))


def test_a_seed_decides_all_and_another_one_ends_elsewhere(tmp_path: Path) -> None:
    short = {
        "factors": FactorsConfig(
            num_steps=1, batch_size=4, discriminator_width=4, images_per_texture=2, blob_steps=1
        ),
        "masker": MaskerConfig(num_steps=0),
        "texturing": TexturesConfig(num_steps=0),
        "shapes": ShapesConfig(num_steps=0),
    }
    files = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # which must not matter
        path = train(tmp_path / str(number), config=make_config(**short, seed=seed))
        files.append(load_file(path))
    first, again, other = files
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["f_text1.1.weight"], other["f_text1.1.weight"])
    assert not torch.equal(first["label_emb.weight"], other["label_emb.weight"])


# What is refused


def test_an_existing_training_is_neither_overwritten_nor_mixed(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    with pytest.raises(ArgumentError, match="holds a training: pass --resume"):
        train(whole)
    with pytest.raises(CheckpointError, match=r"other settings \(seed: "):
        train(whole, config=make_config(seed=1), resume=True)
    with pytest.raises(CheckpointError, match=r"other settings \(images: "):
        train(whole, data=make_images(27)[0], resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_trained_is_told_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(CheckpointError, match="to resume: start without --resume"):
        train(folder, resume=True)
    with pytest.raises(ArgumentError, match="save_every must be 1 or more, got 0"):
        train(folder, save_every=0)
    with pytest.raises(ArgumentError, match=r"factors.batch_size \(8\) .* images \(6\): lower it"):
        train(folder, data=make_images(6)[0])
    assert not folder.exists()
