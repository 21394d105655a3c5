"""The trainer on toy stages: order, resume, interruption, damage, epochs."""

from __future__ import annotations

import random
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import matplotlib.image
import numpy as np
import pytest
import torch
from file_helpers import FORKS
from matplotlib.figure import Figure
from shard_helpers import PROCESSES
from torch import Tensor, nn
from training_helpers import (
    PLACES,
    SETTINGS,
    STEPS,
    Killed,
    Toy,
    at,
    draw_numpy,
    kill,
    make,
    make_epochs,
    nothing,
    press,
    read_scalars,
    train_and_be_killed,
    train_until_killed,
    weights,
)

from cgn_augment.errors import ArgumentError, CheckpointError, FileError, UsageError
from cgn_augment.files import leftovers
from cgn_augment.functional import isolated_rng
from train_generator.training import trainer as trainer_module
from train_generator.training.average import update_average
from train_generator.training.measures import LOSSES
from train_generator.training.trainer import CHECKPOINT, Trainer

ENDS = [place for place in PLACES if place[1] in (0, STEPS[place[0]] - 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training that nothing stopped."""
    trainer = make(tmp_path_factory.mktemp("whole"))
    trainer.train(progress=False)
    return trainer


def resume(folder: Path, **arguments: Any) -> Trainer:
    trainer = make(folder, resume=True, **arguments)
    trainer.train(progress=False)
    return trainer


# Order and seeds


def test_stages_take_their_steps_in_order(tmp_path: Path) -> None:
    taken: list[tuple[str, int]] = []
    trainer = make(tmp_path / "new" / "folder", lambda *place: taken.append(place))
    assert not trainer.finished
    trainer.train(progress=False)
    assert trainer.finished
    assert taken == PLACES
    trainer.train(progress=False)
    assert len(taken) == 12
    assert trainer.seconds > 0


def test_every_stage_and_step_draws_numbers_of_its_own(tmp_path: Path) -> None:
    drawn: list[tuple[float, ...]] = []

    class Draws(Toy):
        def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            own = torch.rand(1, generator=generator).item()
            drawn.append((own, random.random(), draw_numpy()))
            return {}

    layer = nn.Linear(2, 1)
    for seed in (3, 3, 4):
        stages = {name: lambda n=name: Draws(n, layer, nothing) for name in STEPS}
        Trainer(None, {"layer": layer}, stages, {}, seed=seed).train(progress=False)
    assert drawn[:12] == drawn[12:24]
    for column in zip(*drawn[12:], strict=True):
        assert len(set(column)) == 24


def test_the_global_generators_are_left_alone(tmp_path: Path) -> None:
    with isolated_rng(5, torch.device("cpu")):
        expected = torch.rand(3), random.random(), draw_numpy()
    with isolated_rng(5, torch.device("cpu")):
        make(tmp_path).train(progress=False)
        resume(tmp_path)
        assert torch.equal(torch.rand(3), expected[0])
        assert (random.random(), draw_numpy()) == expected[1:]


def test_another_seed_ends_elsewhere_and_no_folder_the_same(whole: Trainer) -> None:
    other, same = make(None, seed=1), make(None)
    for trainer in (other, same):
        trainer.train(progress=False)
    assert (weights(other) != weights(whole)).all()
    assert torch.equal(weights(same), weights(whole))
    with pytest.raises(CheckpointError, match="keeps no checkpoint to resume: give it a folder"):
        same.resume()


# Resume


def test_a_training_whose_process_is_killed_goes_on_bit_for_bit(
    whole: Trainer, tmp_path: Path
) -> None:
    process = PROCESSES.Process(target=train_until_killed, args=(tmp_path, "second", 1))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert torch.equal(weights(resume(tmp_path)), weights(whole))
    assert (tmp_path / LOSSES).read_bytes() == (whole.folder / LOSSES).read_bytes()


@pytest.mark.parametrize("stop", [kill, press])
@pytest.mark.parametrize("place", ENDS)
def test_a_stopped_training_ends_and_is_shown_as_if_nothing_was(
    place: tuple[str, int], stop: Callable[[], None], whole: Trainer, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((Killed, KeyboardInterrupt)):
        make(tmp_path, at(*place, stop)).train(progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    if (place, stop) == (PLACES[0], kill):  # before the first checkpoint
        assert not (tmp_path / CHECKPOINT).exists()
        return
    for path in tmp_path.glob("*tfevents*"):  # two files of one second are read in any order
        path.rename(path.with_name("events.out.tfevents.0000000001"))
    taken: list[tuple[str, int]] = []
    trainer = make(tmp_path, lambda *place: taken.append(place), resume=True, save_every=7)
    before = trainer.seconds
    trainer.train(progress=False)
    if stop is press:
        assert taken == PLACES[PLACES.index(place) + 1 :]
    assert torch.equal(weights(trainer), weights(whole))
    assert trainer.seconds > before > 0 or not taken
    assert read_scalars(tmp_path) == read_scalars(whole.folder)
    assert (tmp_path / LOSSES).read_bytes() == (whole.folder / LOSSES).read_bytes()


@pytest.mark.slow
def test_a_training_that_is_killed_in_every_step_still_ends(whole: Trainer, tmp_path: Path) -> None:
    for place, following in pairwise([*PLACES, None]):
        before = nothing if following is None else at(*following, kill)
        trainer = make(tmp_path, before, resume=place != PLACES[0], save_every=1)
        if following is None:
            trainer.train(progress=False)
        else:
            with pytest.raises(Killed):
                trainer.train(progress=False)
    assert torch.equal(weights(trainer), weights(whole))


def test_a_finished_training_that_is_resumed_does_nothing(whole: Trainer, tmp_path: Path) -> None:
    make(tmp_path).train(progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trainer = make(tmp_path, at("third", 0, kill), resume=True)
    assert trainer.finished
    assert torch.equal(weights(trainer), weights(whole))
    trainer.train(progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_stage_of_no_steps_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "second", 0)
    taken: list[str] = []
    make(None, lambda name, step: taken.append(name)).train(progress=False)
    assert taken == ["first"] * 4 + ["third"] * 5


# Ctrl-C


def test_ctrl_c_between_the_last_look_and_the_end_of_a_step_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count(1)  # pressed right after the trainer has looked for the third time
    late = SimpleNamespace(is_set=lambda: next(looks) > 3)
    monkeypatch.setattr(trainer_module, "deferred_interrupt", lambda: nullcontext(late))
    trainer = make(tmp_path, save_every=1000)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(progress=False)
    assert torch.equal(weights(make(tmp_path, resume=True)), weights(trainer))


def test_the_second_ctrl_c_raises_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        press()
        press()
        time.sleep(1)
        raise AssertionError("the step went on")

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at("first", 3, twice)).train(progress=False)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (0, 2)


def test_a_training_in_a_thread_trains(whole: Trainer) -> None:
    trainer = make(None)
    thread = threading.Thread(target=trainer.train, kwargs={"progress": False})
    thread.start()
    thread.join(timeout=60)
    assert torch.equal(weights(trainer), weights(whole))


# Epochs


@pytest.mark.parametrize("stop", [kill, press])
@pytest.mark.parametrize(
    "place", [("epoch 1", 1), ("epoch 1", 2), ("end 1", 0), ("epoch 2", 0), ("end 2", 0)]
)
def test_an_epoch_that_is_stopped_in_a_step_or_at_its_end_counts_once(
    place: tuple[str, int], stop: Callable[[], None], tmp_path: Path
) -> None:
    with pytest.raises((Killed, KeyboardInterrupt)):
        make_epochs(tmp_path, at(*place, stop), save_every=1).train(progress=False)
    trainer = make_epochs(tmp_path, resume=True)
    trainer.train(progress=False)
    assert trainer.results == [{"weight": 6.0}, {"weight": 12.0}]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 3, "weight": 6.0}', '{"step": 6, "weight": 12.0}']


# What is refused


def test_a_folder_that_holds_a_training_is_never_written_over_unasked(tmp_path: Path) -> None:
    make(tmp_path).train(progress=False)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ArgumentError, match=rf"{tmp_path}.* holds a training: pass --resume"):
        make(tmp_path).train()
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_file_in_place_of_a_folder_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    for again in (False, True):
        with pytest.raises(ArgumentError, match=f"{path} is a file: give a folder"):
            make(path, resume=again).train()
    assert path.read_text() == "mine"
    with pytest.raises(CheckpointError, match=rf"no {tmp_path}/gone/{CHECKPOINT} to resume: start"):
        make(tmp_path / "gone", resume=True)
    assert not (tmp_path / "gone").exists()


def test_other_settings_are_refused_by_their_names(tmp_path: Path) -> None:
    make(tmp_path).train(progress=False)
    other = {"rate": 0.2, "deep": {"width": 4, "names": ["a", "b"]}, "new": 1}
    with pytest.raises(
        CheckpointError, match=r"\(deep.width: 3 then, 4 now; new: .*; rate: .*\): resume"
    ):
        make(tmp_path, settings=other, resume=True)
    with pytest.raises(CheckpointError, match=r"other settings \(deep: .* then, None now\)"):
        make(tmp_path, settings={"rate": 0.1}, resume=True)
    make(tmp_path, settings={"deep": dict(SETTINGS["deep"]), "rate": 0.1}, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: torch.save(nn.Linear(2, 1).state_dict(), path),
        lambda path: torch.save(nn.Linear(2, 1), path),  # would run code when it is read
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_one_error(
    damage: Callable[[Path], object], whole: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes((whole.folder / CHECKPOINT).read_bytes())
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"is no checkpoint of a training, or") as caught:
        make(tmp_path, resume=True)
    assert path.read_bytes() == before
    assert "weights_only" not in str(caught.value)  # torch's advice to run the code


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a step below 0": lambda state: state.update(position=(1, -4)),
    "a stage that there is not": lambda state: state.update(position=(9, 0)),
    "no position": lambda state: state.pop("position"),
    "a position that is text": lambda state: state.update(position="ab"),
    "no optimizer": lambda state: state.update(optimizers=None),
    "a network that is none": lambda state: state["modules"].update(first=None),
    "a network without weights": lambda state: state["modules"].update(first={}),
    "results that are none": lambda state: state.update(results=[3]),
    "steps that are none": lambda state: state.update(steps_before=2.5),
    "seconds that are none": lambda state: state.update(seconds="long"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_a_training_cannot_be_in_is_one_error(
    case: str, whole: Trainer, tmp_path: Path
) -> None:
    state = torch.load(whole.folder / CHECKPOINT, weights_only=True)
    STATES[case](state)
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt") as told:
        make(tmp_path, resume=True)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("value", [None, {}, {"state": 3, "param_groups": []}])
def test_an_optimizer_that_is_none_is_one_error(value: object, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, at("second", 2, kill)).train(progress=False)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state["optimizers"] = {"adam": value, "schedule": value}
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="holds other networks or states") as told:
        make(tmp_path, resume=True).train(progress=False)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("lost", ["stream", "everything"])
def test_a_checkpoint_without_a_stream_is_one_error(lost: str, tmp_path: Path) -> None:
    make_epochs(tmp_path).train(progress=False)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state["state"] = {} if lost == "stream" else None
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="holds other networks or states"):
        make_epochs(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["save_every", "sheet_every", "log_every", "measure_every"])
def test_numbers_of_steps_are_checked_when_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got 0"):
        make(tmp_path, **{name: 0})
    assert list(tmp_path.iterdir()) == []


# A training that fails


@pytest.mark.parametrize("log_every", [1, 1000])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_training_that_diverges_keeps_the_last_good_checkpoint(
    broken: float, log_every: int, tmp_path: Path
) -> None:
    trainer = make(tmp_path, at("third", 3, lambda: broken), log_every=log_every)
    with pytest.raises(CheckpointError, match=r"\['loss', 'size'\] of stage third are not finite"):
        trainer.train(progress=False)
    assert not weights(trainer).isfinite().all()
    resumed = make(tmp_path, resume=True)
    assert not weights(resumed).isnan().any()
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (2, 2)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_weights_that_are_lost_behind_finite_losses_end_a_training(
    checkpoint: bool, tmp_path: Path
) -> None:
    trainer = make(tmp_path if checkpoint else None)

    def lose(name: str, step: int) -> None:
        if (name, step) == ("third", 3):
            with torch.no_grad():
                trainer.modules["first"].bias.fill_(float("nan"))

    trainer.stages = {
        name: lambda n=name: Toy(n, trainer.modules[n], lose)  # type: ignore[misc]
        for name in trainer.stages
    }
    what = r"the weights first\.bias hold NaN or infinity after step 1[12]: the training has"
    with pytest.raises(CheckpointError, match=what):
        trainer.train(progress=False)
    if checkpoint:
        assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (2, 2)
        assert not weights(make(tmp_path, resume=True)).isnan().any()


def test_a_disk_that_fills_while_a_checkpoint_is_saved_is_told_of(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))

    try:
        with pytest.raises(FileError, match=r"checkpoint\.pt cannot be written \(File too large\)"):
            make(tmp_path, at("third", 3, fill)).train(progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (2, 2)
    assert leftovers(tmp_path) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_trainings_in_one_folder_are_one_error_and_the_first_goes_on(
    tmp_path: Path, whole: Trainer
) -> None:
    second: list[int | None] = []

    def train_too() -> None:
        process = FORKS.Process(target=train_elsewhere, args=(tmp_path,))
        process.start()
        process.join()
        second.append(process.exitcode)

    first = make(tmp_path, at("first", 1, train_too))
    first.train(progress=False)
    assert second == [3]
    assert torch.equal(weights(first), weights(whole))


@pytest.mark.parametrize("num_kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_while_a_checkpoint_is_saved_leave_nothing_and_change_no_weight(
    num_kills: int, tmp_path: Path, whole: Trainer
) -> None:
    for kill_number in range(num_kills):
        process = PROCESSES.Process(target=train_and_be_killed, args=(tmp_path, kill_number % 6))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(leftovers(tmp_path)) == 1  # those of earlier kills are gone
    last = make(tmp_path, resume=(tmp_path / CHECKPOINT).exists(), save_every=1)
    last.train(progress=False)
    assert torch.equal(weights(last), weights(whole))
    assert leftovers(tmp_path) == []


def train_elsewhere(folder: Path) -> None:
    try:
        make(folder).train(progress=False)
    except UsageError:
        sys.exit(3)


def test_a_checkpoint_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.save

    def full(state: dict[str, object], file: IO[bytes]) -> None:
        if state["position"] == (2, 2):
            file.write(b"half")
            raise OSError("no space left on device")
        saved(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        make(tmp_path).train(progress=False)
    files = [path.name for path in tmp_path.iterdir() if "tfevents" not in path.name]
    assert sorted(files) == [CHECKPOINT, "train.jsonl"]
    make(tmp_path, resume=True)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (2, 0)


# What is shown


def test_sheets_are_drawn_on_time_and_after_each_stage(tmp_path: Path, whole: Trainer) -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.subplots().imshow(np.eye(2))
        return figure

    make(tmp_path, draw=draw, sheet_every=4).train(progress=False)
    sheets = sorted((tmp_path / "sheets").iterdir())
    # After step 4 of the first and the third stage, and after each stage.
    assert [path.name for path in sheets] == [f"{step:07}.png" for step in (4, 7, 11, 12)]
    assert matplotlib.image.imread(sheets[0]).std() > 0.05
    assert not (whole.folder / "sheets").exists()


def test_the_bar_shows_stage_and_losses_from_where_the_training_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at("third", 2, press)).train()
    bars = capfd.readouterr().err
    for number, name in enumerate(("first", "second"), start=1):
        steps = STEPS[name]
        pattern = rf"{number}/3 {name}: 100%\|.*\| {steps}/{steps} .*loss \d+\.\d{{3}} size \d+\."
        assert re.search(pattern, bars)
    make(tmp_path, resume=True).train()
    assert re.search(r"3/3 third: +60%\|.*\| 3/5 ", capfd.readouterr().err)
    make(None).train(progress=False)
    assert capfd.readouterr().err == ""


# The running average


@pytest.mark.parametrize(
    ("step", "decay", "expected"), [(0, 0.9, 0.1), (8, 0.9, 0.5), (1000, 0.9, 0.9), (1000, 0.0, 0)]
)
def test_the_average_moves_by_what_the_decay_leaves(
    step: int, decay: float, expected: float
) -> None:
    average, network = (nn.BatchNorm1d(2).double() for _ in range(2))
    for module, value in ((average, 3.0), (network, 5.0)):
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    update_average(average, network, decay, step)
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = average.state_dict()[name]
        assert values.tolist() == pytest.approx([5 - 2 * expected] * 2, abs=1e-12)
    assert average.num_batches_tracked.item() == 5
    assert all(value.eq(5).all() for value in network.state_dict().values())
    assert average.weight.grad_fn is None
