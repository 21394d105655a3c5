"""Lightning's Trainer and Fabric on a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from client_helpers import Seen, TinyNet, expected, seen, step_on, steps_of, stream
from lightning.fabric import Fabric
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from stream_helpers import list_of_batches
from torch import Tensor
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*has `__len__` defined"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    # Lightning 2.6 asks torch in a way that torch 2.14 has deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]

WAYS = ["bare", "as_loader"]
VAL = DataLoader(list_of_batches(), batch_size=None)  # type: ignore[arg-type]


def given(way: str, **options: Any) -> Any:
    train = stream(**options)
    return train if way == "bare" else train.as_loader()


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = TinyNet()
        self.steps: list[Seen] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        self.steps.append(seen(images))
        return F.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(train: Any, num_epochs: int = 2, *, val: Any = None, **options: Any) -> list[Seen]:
    """Fits and returns what the training saw."""
    ckpt_path = options.pop("ckpt_path", None)
    net = Net()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=num_epochs,
        logger=False,
        enable_checkpointing="callbacks" in options,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    if isinstance(train, LightningDataModule):
        trainer.fit(net, datamodule=train, ckpt_path=ckpt_path)
    else:
        trainer.fit(net, train, val, ckpt_path=ckpt_path)
    return net.steps


def keep(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, **options)


@pytest.mark.parametrize("way", WAYS)
def test_epochs_follow_each_other(way: str) -> None:
    assert fit(given(way)) == expected(2)


@pytest.mark.parametrize("way", WAYS)
def test_validation_and_its_sanity_check_take_nothing_from_the_stream(way: str) -> None:
    assert fit(given(way), val=VAL, num_sanity_val_steps=2) == expected(2)


@pytest.mark.parametrize("way", [*WAYS, "plain loader"])
def test_limited_epochs_are_of_other_batches(way: str) -> None:
    train = DataLoader(stream(), batch_size=None) if way == "plain loader" else given(way)
    whole = expected(3)
    steps = fit(train, 3, limit_train_batches=3)
    assert steps == [*whole[:3], *whole[5:8], *whole[10:13]]


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_limited_or_whole_run_goes_on_anywhere(
    way: str, limit: int | None, tmp_path: Path
) -> None:
    """Saved after each step, in the middle of epochs and at their end."""
    saver = keep(tmp_path, every_n_train_steps=1)
    whole = fit(given(way), limit_train_batches=limit, callbacks=[saver])
    length = limit or 5
    assert len(whole) == 2 * length
    for num in (1, length - 1, length, length + 1):
        saved = tmp_path / f"step={num}.ckpt"
        assert fit(given(way), limit_train_batches=limit, ckpt_path=saved) == whole[num:], num


@pytest.mark.parametrize(
    ("val", "at_the_end"), [(None, True), (VAL, True), (VAL, False)], ids=["alone", "end", "val"]
)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_after_an_epoch(way: str, val: Any, at_the_end: bool, tmp_path: Path) -> None:
    saver = keep(tmp_path, every_n_epochs=1, save_on_train_epoch_end=at_the_end)
    fit(given(way), 1, val=val, callbacks=[saver])
    (saved,) = tmp_path.glob("*.ckpt")
    assert fit(given(way), 3, val=val, ckpt_path=saved) == expected(3)[5:]


class Endless:
    """Batches whose number nobody knows."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list_of_batches())


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_without_a_length_goes_on_behind_what_was_read_ahead(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = keep(tmp_path, every_n_train_steps=1)
    whole = fit(given(way, real=Endless()), callbacks=[saver])
    assert "Lightning reads one batch ahead of a stream whose length is unknown" in caplog.text
    train = stream(Endless())
    assert whole == [step for _ in range(2) for step in steps_of(train)]
    saved = tmp_path / "step=2.ckpt"
    assert fit(given(way, real=Endless()), ckpt_path=saved) == whole[3:]


class Data(LightningDataModule):
    """Makes its stream when it is made itself, or anew for each epoch."""

    def __init__(self, way: str, anew: bool) -> None:
        super().__init__()
        self.way, self.anew = way, anew
        self.train = given(way)

    def train_dataloader(self) -> Any:
        return given(self.way) if self.anew else self.train


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_data_module_may_make_the_stream_for_each_epoch(way: str, anew: bool) -> None:
    steps = fit(Data(way, anew), 3, reload_dataloaders_every_n_epochs=1)
    assert steps == expected(3)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("way", WAYS)
def test_a_loader_that_it_would_rebuild_is_an_error(way: str) -> None:
    """`overfit_batches` puts another sampler into the loader; there is `limit_train_batches`."""
    with pytest.raises(
        (ValueError, MisconfigurationException), match=r"needs to subclass|into the `StreamLoader`"
    ):
        fit(given(way, shuffle=False), overfit_batches=1)


@pytest.mark.parametrize("step", [2, 5])
def test_fabric_trains_saves_and_goes_on(step: int, tmp_path: Path) -> None:
    def start(train: Any) -> tuple[Fabric, Any, Any, Any]:
        fabric = Fabric(accelerator="cpu", devices=1)
        model = TinyNet()
        model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.1))
        return fabric, model, optimizer, fabric.setup_dataloaders(train.as_loader())

    train = stream()
    fabric, model, optimizer, loader = start(train)
    steps = []
    for _ in range(2):
        for batch in loader:
            step_on(model, optimizer, batch, fabric.backward)
            steps.append(seen(batch[0]))
            if len(steps) == step:
                fabric.save(tmp_path / "state", {"model": model, "train": train})
    assert steps == expected(2)
    resumed = stream()
    fabric, model, _, loader = start(resumed)
    fabric.load(tmp_path / "state", {"model": model, "train": resumed})
    rest = steps_of(loader) + steps_of(loader)
    assert rest[: 10 - step] == steps[step:]
