"""The trainer on toy stages: order, resume, interruption, damage, what it writes."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.functional import isolated_rng
from train_generator.training import trainer as trainer_module
from train_generator.training.average import update_average
from train_generator.training.interrupt import Interrupt, deferred_interrupt
from train_generator.training.trainer import CHECKPOINT, Trainer

STEPS = {"first": 4, "second": 3, "third": 5}
SETTINGS = {"rate": 0.1, "deep": {"width": 3, "names": ["a", "b"]}}


def draw_numpy() -> float:
    """A number of NumPy's global generator, which augmentation libraries use."""
    return float(np.random.rand())  # noqa: NPY002


class Toy:
    """Fits a layer to noise of the given generator and of the global one; calls `before` first."""

    def __init__(self, name: str, layer: nn.Module, before: Callable[[str, int], object]) -> None:
        self.name, self.num_steps, self.layer, self.before = name, STEPS[name], layer, before
        self.optimizers = {"adam": torch.optim.Adam(layer.parameters(), 0.1)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        factor = self.before(self.name, step)
        inputs = torch.randn(8, 2, generator=generator) + torch.rand(8, 2)
        loss = (self.layer(inputs) - random.random() - draw_numpy()).square().mean()
        loss = loss * (1.0 if factor is None else factor)
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.optimizers["adam"].step()
        return {"loss": loss.detach(), "size": self.layer.weight.detach().norm()}


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is saved."""


def nothing(name: str, step: int) -> None:
    """What most stages do before a step."""


def at(name: str, step: int, do: Callable[[], object]) -> Callable[[str, int], object]:
    """Does something before one of the steps."""
    return lambda *place: do() if place == (name, step) else None


def kill() -> None:
    raise Killed


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def make(
    folder: Path,
    before: Callable[[str, int], object] = nothing,
    settings: dict[str, object] = SETTINGS,
    **arguments: object,
) -> Trainer:
    with isolated_rng(0, torch.device("cpu")):
        layers = {name: nn.Linear(2, 1) for name in STEPS}
    stages = {name: lambda n=name: Toy(n, layers[n], before) for name in STEPS}
    return Trainer(
        folder, layers, stages, settings, **{"save_every": 2, "log_every": 1} | arguments
    )


def weights(trainer: Trainer) -> Tensor:
    values = [v for module in trainer.modules.values() for v in module.state_dict().values()]
    return torch.cat([value.flatten() for value in values])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training that nothing stopped."""
    trainer = make(tmp_path_factory.mktemp("whole"))
    trainer.train(progress=False)
    return trainer


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# Order and seeds


def test_stages_take_their_steps_in_order(tmp_path: Path) -> None:
    taken: list[tuple[str, int]] = []
    trainer = make(tmp_path / "new" / "folder", lambda *place: taken.append(place))
    assert not trainer.finished
    trainer.train(progress=False)
    assert trainer.finished
    assert taken == [(name, step) for name, num in STEPS.items() for step in range(num)]
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
        folder = tmp_path / str(len(drawn))
        Trainer(folder, {"layer": layer}, stages, {}, seed=seed).train(progress=False)
    assert drawn[:12] == drawn[12:24]
    for column in zip(*drawn[12:], strict=True):
        assert len(set(column)) == 24


def test_the_global_generators_are_left_alone(tmp_path: Path) -> None:
    with isolated_rng(5, torch.device("cpu")):
        expected = torch.rand(3), random.random(), draw_numpy()
    with isolated_rng(5, torch.device("cpu")):
        make(tmp_path).train(progress=False)
        assert torch.equal(torch.rand(3), expected[0])
        assert (random.random(), draw_numpy()) == expected[1:]


def test_another_seed_ends_elsewhere(whole: Trainer, tmp_path: Path) -> None:
    trainer = make(tmp_path, seed=1)
    trainer.train(progress=False)
    assert (weights(trainer) != weights(whole)).all()


# Resume

PLACES = [(name, step) for name, num in STEPS.items() for step in range(num)]


@pytest.mark.parametrize(("name", "step"), PLACES)
def test_a_killed_training_ends_as_if_nothing_was(
    name: str, step: int, whole: Trainer, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        make(tmp_path, at(name, step, kill)).train(progress=False)
    if (name, step) in PLACES[:2]:  # before the first checkpoint
        assert not (tmp_path / CHECKPOINT).exists()
        return
    trainer = make(tmp_path, resume=True)
    trainer.train(progress=False)
    assert torch.equal(weights(trainer), weights(whole))
    assert trainer.finished


@pytest.mark.parametrize(("name", "step"), PLACES)
def test_ctrl_c_ends_the_step_leaves_a_checkpoint_and_changes_nothing(
    name: str, step: int, whole: Trainer, tmp_path: Path
) -> None:
    taken: list[tuple[str, int]] = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at(name, step, press), save_every=1000).train(progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    trainer = make(tmp_path, lambda *place: taken.append(place), resume=True)
    trainer.train(progress=False)
    assert taken == PLACES[PLACES.index((name, step)) + 1 :]
    assert torch.equal(weights(trainer), weights(whole))


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


def test_a_training_that_is_resumed_goes_on_with_its_time(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at("second", 1, press)).train(progress=False)
    trainer = make(tmp_path, resume=True)
    before = trainer.seconds
    assert before > 0
    trainer.train(progress=False)
    assert trainer.seconds > before


def test_a_finished_training_that_is_resumed_does_nothing(whole: Trainer, tmp_path: Path) -> None:
    make(tmp_path).train(progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trainer = make(tmp_path, at("third", 0, kill), resume=True)
    assert trainer.finished
    assert torch.equal(weights(trainer), weights(whole))
    trainer.train(progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resuming_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at("second", 1, press)).train(progress=False)
    trainer, before = make(tmp_path, resume=True), torch.get_rng_state()
    trainer.train(progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stage_of_no_steps_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "second", 0)
    taken: list[str] = []
    make(tmp_path, lambda name, step: taken.append(name)).train(progress=False)
    assert taken == ["first"] * 4 + ["third"] * 5


# Ctrl-C


def test_ctrl_c_between_the_last_look_and_the_end_of_a_step_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Interrupt):
        """Pressed right after the trainer has looked for the third time."""

        looks = 0

        @property
        def requested(self) -> bool:
            self.looks += 1
            return self.looks > 3

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    @contextmanager
    def late() -> Iterator[Interrupt]:
        yield Late()

    monkeypatch.setattr(trainer_module, "deferred_interrupt", late)
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


def test_the_first_ctrl_c_is_noted_and_the_handler_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupt:
        assert not interrupt.requested
        press()
        assert interrupt.requested
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyError), deferred_interrupt():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_training_in_a_thread_trains(whole: Trainer, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    thread = threading.Thread(target=trainer.train, kwargs={"progress": False})
    thread.start()
    thread.join(timeout=60)
    assert torch.equal(weights(trainer), weights(whole))


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
    for resume in (False, True):
        with pytest.raises(ArgumentError, match=f"{path} is a file: give a folder"):
            make(path, resume=resume).train()
    assert path.read_text() == "mine"


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


def test_how_often_to_save_is_no_setting(whole: Trainer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, at("second", 1, kill), save_every=3).train(progress=False)
    trainer = make(tmp_path, resume=True, save_every=7, log_every=5, sheet_every=9)
    trainer.train(progress=False)
    assert torch.equal(weights(trainer), weights(whole))


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"no {tmp_path}/gone/{CHECKPOINT} to resume: start"):
        make(tmp_path / "gone", resume=True)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: torch.save(nn.Linear(2, 1).state_dict(), path),
        lambda path: torch.save([1, 2, 3], path),
        lambda path: torch.save(nn.Linear(2, 1), path),  # would run code when it is read
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_one_error(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path).train(progress=False)
    path = tmp_path / CHECKPOINT
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"is no checkpoint of a training, or is cut off"):
        make(tmp_path, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["save_every", "sheet_every", "log_every"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_of_steps_are_checked_when_made(name: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got {value}"):
        make(tmp_path, **{name: value})
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


def test_a_checkpoint_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.save

    def full(state: dict[str, object], path: Path) -> None:
        saved(state, path)
        if state["position"] == (2, 2):
            path.write_bytes(path.read_bytes()[:500])
            raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        make(tmp_path).train(progress=False)
    files = [path.name for path in tmp_path.iterdir() if "tfevents" not in path.name]
    assert sorted(files) == [CHECKPOINT, "train.jsonl"]
    make(tmp_path, resume=True)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["position"] == (2, 0)


# What is written


def test_tensorboard_gets_every_loss(whole: Trainer) -> None:
    scalars = read_scalars(whole.folder)
    assert scalars.keys() == {f"{name}/{loss}" for name in STEPS for loss in ("loss", "size")}
    steps = [step for name in STEPS for step, _ in scalars[f"{name}/loss"]]
    assert steps == list(range(1, 13))
    assert scalars["third/size"][-1][1] == pytest.approx(
        whole.modules["third"].weight.norm().item()
    )


def test_losses_are_logged_as_often_as_asked_and_at_the_end_of_a_stage(tmp_path: Path) -> None:
    make(tmp_path, log_every=3, save_every=1000).train(progress=False)
    scalars = read_scalars(tmp_path)
    assert [[step for step, _ in scalars[f"{name}/loss"]] for name in STEPS] == [
        [1, 4],
        [5, 7],
        [8, 11, 12],
    ]


@pytest.mark.parametrize("place", [("first", 3), ("second", 0), ("second", 1), ("third", 4)])
@pytest.mark.parametrize("stop", [kill, press])
def test_tensorboard_shows_a_stopped_training_as_if_nothing_was(
    place: tuple[str, int], stop: Callable[[], None], whole: Trainer, tmp_path: Path
) -> None:
    with pytest.raises((Killed, KeyboardInterrupt)):
        make(tmp_path, at(*place, stop)).train(progress=False)
    for path in tmp_path.glob("*tfevents*"):  # two files of one second are read in any order
        path.rename(path.with_name("events.out.tfevents.0000000001"))
    make(tmp_path, resume=True).train(progress=False)
    assert len(list(tmp_path.glob("*tfevents*"))) == 2
    assert read_scalars(tmp_path) == read_scalars(whole.folder)


def test_what_a_checkpoint_is_past_is_in_tensorboards_file_already(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.extend(step for points in read_scalars(tmp_path).values() for step, _ in points)

    make(tmp_path, at("second", 2, look)).train(progress=False)
    assert set(seen) == set(range(1, 7))


def test_sheets_are_drawn_on_time_and_after_each_stage(tmp_path: Path) -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.subplots().imshow(np.eye(2))
        return figure

    make(tmp_path, draw=draw, sheet_every=2).train(progress=False)
    names = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    # Steps 2 and 4 of each stage, and the ends at 4, 7 and 12.
    expected = [2, 4, 6, 7, 9, 11, 12]
    assert names == [f"{step:07}.png" for step in expected]
    for name in names:
        assert matplotlib.image.imread(tmp_path / "sheets" / name).std() > 0.05
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert sorted({image.step for image in events.Images("samples")}) == expected


def test_without_a_drawing_there_are_no_sheets(whole: Trainer) -> None:
    assert not (whole.folder / "sheets").exists()


def test_the_bar_shows_stage_and_losses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: Trainer
) -> None:
    make(tmp_path).train()
    bars = capfd.readouterr().err
    for number, (name, steps) in enumerate(STEPS.items(), start=1):
        pattern = (
            rf"{number}/3 {name}: 100%\|.*\| {steps}/{steps} .*loss \d+\.\d{{3}} size \d+\.\d{{3}}"
        )
        assert re.search(pattern, bars)
    make(tmp_path / "quiet").train(progress=False)
    assert capfd.readouterr().err == ""


def test_a_resumed_bar_starts_where_the_training_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at("third", 2, press)).train(progress=False)
    make(tmp_path, resume=True).train()
    assert re.search(r"3/3 third: +60%\|.*\| 3/5 ", capfd.readouterr().err)


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


def test_a_damaged_checkpoint_comes_without_advice_to_run_its_code(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError) as caught:
        make(tmp_path, resume=True)
    assert "weights_only" not in str(caught.value)
