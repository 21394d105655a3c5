"""Toy stages that train in no time, and trainers of them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cgn_augment.functional import isolated_rng
from train_generator.training.stages import descend
from train_generator.training.trainer import CHECKPOINT, Trainer

STEPS = {"first": 4, "second": 3, "third": 5}
PLACES = [(name, step) for name, num in STEPS.items() for step in range(num)]
SETTINGS = {"rate": 0.1, "deep": {"width": 3, "names": ["a", "b"]}}
Before = Callable[[str, int], object]


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is saved."""


def nothing(name: str, step: int) -> None:
    """What most stages do before a step."""


def at(name: str, step: int, do: Callable[[], object]) -> Before:
    """Does something before one of the steps."""
    return lambda *place: do() if place == (name, step) else None


def kill() -> None:
    raise Killed


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def draw_numpy() -> float:
    """A number of NumPy's global generator, which augmentation libraries use."""
    return float(np.random.rand())  # noqa: NPY002


class Toy:
    """Fits a layer to noise of the given generator and of the global ones; calls `before` first."""

    def __init__(self, name: str, layer: nn.Module, before: Before) -> None:
        self.name, self.num_steps, self.layer, self.before = name, STEPS[name], layer, before
        adam = torch.optim.Adam(layer.parameters(), 0.1)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)
        self.optimizers = {"adam": adam, "schedule": self.schedule}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        factor = self.before(self.name, step)
        inputs = torch.randn(8, 2, generator=generator) + torch.rand(8, 2)
        loss = (self.layer(inputs) - random.random() - draw_numpy()).square().mean()
        loss = loss * (1.0 if factor is None else factor)
        descend(None, self.optimizers["adam"], loss)
        self.schedule.step()
        return {"loss": loss.detach(), "size": self.layer.weight.detach().norm()}


class ToyStream:
    """Yields three numbers an epoch, and knows where it is."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Any:
        while self.next < 3:
            self.next += 1
            yield self.next
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class ToyEpoch(Toy):
    """A pass over a stream, whose result is the sum of what it has seen; see `EpochStage`."""

    def __init__(self, layer: nn.Module, before: Before, stream: ToyStream, number: int) -> None:
        super().__init__("third", layer, before)
        self.num_steps, self.number = None, number
        self.stream, self.batches = stream, iter(stream)

    def fetch(self) -> bool:
        self.batch = next(self.batches, None)
        return self.batch is not None

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        self.before(f"epoch {self.number}", step)
        with torch.no_grad():
            self.layer.weight += self.batch
        return {"seen": torch.tensor(float(self.batch))}

    def finish(self) -> dict[str, float]:
        self.before(f"end {self.number}", 0)
        return {"weight": self.layer.weight.mean().item()}


def make(
    folder: Path | None,
    before: Before = nothing,
    settings: dict[str, object] = SETTINGS,
    **arguments: Any,
) -> Trainer:
    with isolated_rng(0, torch.device("cpu")):
        layers = {name: nn.Linear(2, 1) for name in STEPS}
    stages = {name: lambda n=name: Toy(n, layers[n], before) for name in STEPS}
    return Trainer(
        folder, layers, stages, settings, **{"save_every": 2, "log_every": 1} | arguments
    )


def make_epochs(folder: Path | None, before: Before = nothing, **arguments: Any) -> Trainer:
    layer, stream = nn.Linear(2, 1), ToyStream()
    nn.init.zeros_(layer.weight)
    stages = {f"epoch {n}": lambda n=n: ToyEpoch(layer, before, stream, n) for n in (1, 2)}
    return Trainer(folder, {"layer": layer}, stages, {}, state={"stream": stream}, **arguments)


def weights(trainer: Trainer) -> Tensor:
    values = [v for module in trainer.modules.values() for v in module.state_dict().values()]
    return torch.cat([value.flatten() for value in values])


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, by name: steps and values."""
    # Files of one process and one second end in a count, and "10" would be read before "9".
    for path in folder.glob("events.out.tfevents.*"):
        stem, _, number = path.name.rpartition(".")
        path.rename(folder / f"{stem}.{int(number):09}")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def train_and_be_killed(folder: Path, saves: int) -> None:
    """Trains on, and dies in the middle of a checkpoint, after so many whole ones."""
    saved, left = torch.save, iter(range(saves))

    def save(state: dict[str, Any], file: IO[bytes]) -> None:
        if next(left, None) is None or state["position"][0] == len(STEPS):
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        saved(state, file)

    torch.save = save
    make(folder, resume=(folder / CHECKPOINT).exists(), save_every=1).train(progress=False)


def train_until_killed(folder: Path, name: str, step: int) -> None:
    """Trains in a process of its own, which nothing can stop from dying before a step."""
    before = at(name, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    make(folder, before).train(progress=False)
