"""The Trainer of Hugging Face transformers on a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from client_helpers import DictDigits, Seen, TinyNet, expected, seen, stream
from torch import Tensor, nn
from transformers import Trainer, TrainerState, TrainingArguments

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import UsageError

KEYS = ("pixel_values", "labels")


class Net(nn.Module):
    """As the library's own models: takes a batch's columns, gives a dict with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyNet()
        self.steps: list[Seen] = []

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.steps.append(seen(pixel_values))
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def make_stream() -> CounterfactualDataset:
    return stream(DictDigits(20), batch_size=4, keys=KEYS)


def train_on(
    train: Any, folder: Path, resume: Path | None = None, *, told: bool = True, **options: Any
) -> list[Seen]:
    settings = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3, **options}
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=100, **settings
    )
    net = Net()
    trainer = Trainer(net, arguments, train_dataset=train)
    if told:
        trainer.get_train_dataloader = train.as_loader
    if resume:
        state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        train.set_epoch(int(state.epoch))
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return net.steps


def test_it_trains_epoch_by_epoch_and_goes_on_anywhere(tmp_path: Path) -> None:
    """It skips by itself what a checkpoint's epoch had seen already."""
    whole = train_on(make_stream(), tmp_path)
    assert whole == expected(3)
    for num in (2, 5, 6, 9, 10, 14):
        saved = tmp_path / f"checkpoint-{num}"
        assert train_on(make_stream(), tmp_path / "again", saved) == whole[num:], num


def test_going_on_in_an_epoch_that_nobody_has_named_is_an_error(tmp_path: Path) -> None:
    """It does not tell a loader that it skips in which epoch that is."""
    train_on(make_stream(), tmp_path, num_train_epochs=2)
    train, arguments = make_stream(), TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = Trainer(Net(), arguments, train_dataset=train)
    trainer.get_train_dataloader = train.as_loader
    with pytest.raises(UsageError, match=r"skip_first_batches leaves out 2 .* set_epoch"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_accumulated_gradients_take_the_same_batches(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 2, "num_train_epochs": 2}
    assert train_on(make_stream(), tmp_path, **options) == expected(2)
    saved = tmp_path / "checkpoint-4"
    assert train_on(make_stream(), tmp_path, saved, **options) == expected(2)[7:]


def test_steps_may_be_limited(tmp_path: Path) -> None:
    options = {"max_steps": 7, "num_train_epochs": 9, "save_strategy": "no"}
    assert train_on(make_stream(), tmp_path, **options) == expected(2)[:7]


def test_its_own_loader_of_a_stream_is_an_error_that_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"get_train_dataloader = stream\.as_loader"):
        train_on(make_stream(), tmp_path, told=False)


def test_its_workers_and_its_batch_size_do_not_matter(tmp_path: Path) -> None:
    options = {"dataloader_num_workers": 2, "per_device_train_batch_size": 7, "num_train_epochs": 1}
    assert train_on(make_stream(), tmp_path, **options) == expected()
