"""ignite's engine on a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_helpers import Seen, TinyNet, expected, seen, step_on, stream
from ignite.engine import DeterministicEngine, Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import Tensor


def make_engine(kind: type = Engine) -> tuple[Engine, list[Seen]]:
    model, steps = TinyNet(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def update(engine: Engine, batch: Any) -> None:
        step_on(model, optimizer, batch, Tensor.backward)
        steps.append(seen(batch[0]))

    return kind(update), steps


@pytest.mark.parametrize("way", ["bare", "as_loader"])
@pytest.mark.parametrize("kind", [Engine, DeterministicEngine])
def test_epochs_follow_each_other(kind: type, way: str) -> None:
    engine, steps = make_engine(kind)
    train = stream()
    engine.run(train if way == "bare" else train.as_loader(), max_epochs=2)
    assert steps == expected(2)


def test_a_shorter_epoch_of_its_own_goes_on_in_the_stream() -> None:
    engine, steps = make_engine()
    engine.run(stream(), max_epochs=3, epoch_length=3)
    assert steps == expected(2)[:9]


def test_its_checkpoint_holds_the_stream(tmp_path: Path) -> None:
    engine, steps = make_engine()
    train = stream()
    keep = {"engine": engine, "train": train}
    saver = Checkpoint(keep, DiskSaver(tmp_path, create_dir=False), n_saved=None)
    engine.add_event_handler(Events.ITERATION_COMPLETED, saver)
    engine.run(train, max_epochs=2)
    for num in (2, 5, 6):
        again, rest = make_engine()
        resumed = stream()
        (saved,) = tmp_path.glob(f"*_{num}.pt")
        Checkpoint.load_objects({"train": resumed}, torch.load(saved, weights_only=True))
        again.run(resumed, max_epochs=2 - resumed.epoch)
        assert rest[: 10 - num] == steps[num:], num
