"""Streams in the company of other libraries."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import stream_helpers
import torch
import webdataset
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from stream_helpers import (
    Digits,
    DigitStream,
    Run,
    check_resume,
    classes_shown,
    collect,
    indices,
    picture,
    same,
)
from torch.utils.data import DataLoader, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from cgn_augment import CounterfactualDataset

pytestmark = [
    # torchdata 0.11 makes its loaders with a call that torch 2.14 has deprecated.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    # webdataset closes its shards when they are collected.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture
def accelerators() -> Iterator[Any]:
    """Makes accelerators for the CPU, whose global state is gone afterwards."""

    def make(stateful: bool = False) -> Accelerator:
        configuration = DataLoaderConfiguration(use_stateful_dataloader=stateful)
        return Accelerator(cpu=True, dataloader_config=configuration)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert not PartialState._shared_state


stream = partial(stream_helpers.stream, ratio=0.5)


def check_epoch(batches: list[Any], num: int = 19) -> None:
    """Whether the batches hold all real images once, and counterfactuals with their labels."""
    sizes = [4] * (num // 4) + [num % 4] * (num % 4 > 0)
    assert len(batches) == len(sizes)
    read = []
    for (images, labels), size in zip(batches, sizes, strict=True):
        assert len(images) == len(labels)
        assert len(images) > size
        read += indices(images[:size])
        assert labels[:size].tolist() == [i % 10 for i in indices(images[:size])]
        assert torch.equal(labels[size:], classes_shown(images[size:])[0])
    assert sorted(read) == list(range(num))


# Accelerate


@pytest.mark.parametrize("kind", ["plain", "stateful", "torchdata"])
def test_a_loader_of_another_library_can_be_wrapped(accelerators: Any, kind: str) -> None:
    if kind == "torchdata":
        loader: Any = StatefulDataLoader(Digits(19), 4, shuffle=True)
    else:
        loader = accelerators(kind == "stateful").prepare(DataLoader(Digits(19), 4, shuffle=True))
    train = stream(loader)
    assert len(train) == 5
    first, second = list(train), list(train)
    check_epoch(first)
    check_epoch(second)
    assert not same(first, second)


@pytest.mark.parametrize("stateful", [False, True])
def test_a_stream_over_a_prepared_loader_resumes(accelerators: Any, stateful: bool) -> None:
    accelerator = accelerators(stateful)

    def make() -> CounterfactualDataset:
        # torchdata's loaders draw from the global generator when they are made and not at their
        # first epoch, so that only an order of its own is the same at a later one.
        digits, own = Digits(19), torch.Generator().manual_seed(3) if stateful else None
        shuffled = DataLoader(digits, 4, sampler=RandomSampler(digits, generator=own))
        return stream(accelerator.prepare(shuffled))

    check_resume(make, Run(make), [(0, 0), (0, 4), (0, 5), (1, 0), (1, 3)])


def test_a_prepared_loader_of_a_stream_keeps_the_mixing(accelerators: Any) -> None:
    plain = stream(Digits(19), batch_size=4)
    train = stream(Digits(19), batch_size=4)
    prepared = accelerators().prepare(DataLoader(train, batch_size=None))
    assert len(prepared) == 5
    for _ in range(2):
        batches = list(prepared)
        check_epoch(batches)
        assert same([list(batch) for batch in batches], [list(batch) for batch in plain])


# WebDataset


def web_loader(folder: Path) -> webdataset.WebLoader:
    with webdataset.TarWriter(str(folder / "digits.tar")) as tar:
        for i in range(19):
            file = io.BytesIO()
            torch.save(picture(i), file)
            tar.write({"__key__": f"{i:03}", "pth": file.getvalue(), "cls": i % 10})
    shards = webdataset.WebDataset(str(folder / "digits.tar"), shardshuffle=False)
    samples = shards.decode().to_tuple("pth", "cls").batched(4)
    return webdataset.WebLoader(samples, batch_size=None, num_workers=0)


def test_a_web_loader_is_mixed_and_resumes(tmp_path: Path) -> None:
    def make() -> CounterfactualDataset:
        return stream(web_loader(tmp_path))

    run = Run(make)
    for epoch in run.epochs:
        check_epoch(epoch)
    check_resume(make, run, [(0, 3)])


def test_a_web_loader_gives_its_length_and_a_web_dataset_is_batched(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match="only sets the value of __len__"):
        real = web_loader(tmp_path).with_length(5)
    train = stream(real)
    assert len(train) == len(list(train)) == 5
    samples = webdataset.WebDataset(str(tmp_path / "digits.tar"), shardshuffle=False)
    check_epoch(list(stream(samples.decode().to_tuple("pth", "cls"), batch_size=4)))


# torchdata


@pytest.mark.parametrize("step", [1, 3])
def test_a_stateful_loader_around_a_stream_saves_and_restores_its_state(step: int) -> None:
    def make() -> StatefulDataLoader[Any]:
        return StatefulDataLoader(stream(Digits(19), batch_size=4), batch_size=None)

    whole, saved, resumed = make(), make(), make()
    epochs = [list(whole) for _ in range(2)]
    check_epoch(epochs[0])
    batches = iter(saved)
    collect(islice(batches, step))
    resumed.load_state_dict(saved.state_dict())
    assert same(list(resumed), epochs[0][step:])
    assert resumed.dataset.epoch == 1
    assert same(list(resumed), epochs[1])


def test_a_dataset_with_a_state_of_its_own_is_restored_by_its_stateful_loader() -> None:
    def make() -> tuple[CounterfactualDataset, Counting]:
        digits = Counting(19)
        return stream(StatefulDataLoader(digits, 4)), digits

    whole, _ = make()
    epochs = [list(whole) for _ in range(2)]
    saved, _ = make()
    batches = iter(saved)
    collect(islice(batches, 3))
    state = saved.state_dict()
    next(batches)
    for _ in range(2):
        resumed, digits = make()
        resumed.load_state_dict(state)
        assert same(list(resumed), epochs[0][3:])
        # Twelve samples were not read again.
        assert digits.num_read == 7
        assert same(list(resumed), epochs[1])


class Counting(DigitStream):
    """An iterable dataset that goes on where it was, and hands out its state and not a copy."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self.state, self.num_read = {"place": 0}, 0

    def __iter__(self) -> Iterator[Any]:
        while self.state["place"] < self.num:
            index = self.state["place"]
            self.state["place"] += 1
            self.num_read += 1
            yield picture(index), index % 10
        self.state["place"] = 0

    def state_dict(self) -> dict[str, int]:
        return self.state

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.state = state
