"""A dataset is read as the `DataLoader` would that the stream replaces."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import pytest
import torch
from stream_helpers import (
    Digits,
    DigitStream,
    EpochDigits,
    SizedDigitStream,
    StubSource,
    collect,
    indices,
    list_of_batches,
    own,
    same,
    stream,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from cgn_augment import CounterfactualDataset

REACHING: dict[str, Any] = {
    "num_workers": 2,
    "collate_fn": default_collate,
    "pin_memory": True,
    "timeout": 5,
    "worker_init_fn": print,
    "prefetch_factor": 3,
    "persistent_workers": True,
}


@pytest.mark.parametrize("real", [Digits(20), DigitStream(20)])
@pytest.mark.parametrize("order", [{}, {"generator": own()}])
def test_keywords_reach_the_inner_loader_as_they_are(real: Any, order: dict[str, Any]) -> None:
    train = stream(real, batch_size=4, multiprocessing_context="spawn", **REACHING, **order)
    loader = train._real.loader
    assert {name: getattr(loader, name) for name in REACHING} == REACHING
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    if order:
        assert loader.generator is order["generator"]
    untouched = stream(real, batch_size=4)._real.loader
    plain = DataLoader(DigitStream(20), 4)
    for name in (*REACHING, "multiprocessing_context"):
        assert getattr(untouched, name) == getattr(plain, name)


def test_a_dataset_is_shuffled_unless_told_otherwise() -> None:
    def epoch(train: CounterfactualDataset) -> list[int]:
        return indices(torch.cat([images for images, _ in train]))

    for options in ({}, {"shuffle": True}, {"generator": own()}):
        train = stream(ratio=0, **options)
        first, second = epoch(train), epoch(train)
        assert first != second
        assert sorted(first) == sorted(second) == list(range(20))
    for options in ({}, {"generator": own()}):
        assert epoch(stream(ratio=0, shuffle=False, **options)) == list(range(20))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("order", [{}, {"generator": own()}, {"sampler": range(19)}])
def test_the_length_is_the_exact_number_of_steps(drop_last: bool, order: dict[str, Any]) -> None:
    train = stream(num=19, drop_last=drop_last, **order)
    assert len(train) == len(list(train)) == (4 if drop_last else 5)
    for other in (
        stream(SizedDigitStream(19), batch_size=4, drop_last=drop_last),
        stream(DataLoader(Digits(19), 4, drop_last=drop_last)),
        stream(DataLoader(Digits(19), batch_sampler=[[0, 1]] * len(train))),
    ):
        assert len(other) == len(list(other)) == len(train)


@pytest.mark.slow  # a new process imports torch
def test_a_spawned_worker_reads_what_is_read_here() -> None:
    images = torch.cat([images for images, _ in list_of_batches(8)])
    # Of this class a new process needs torch alone.
    digits = TensorDataset(images, torch.arange(8))
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    spawned = stream(digits, batch_size=4, ratio=0, **options)
    assert same(list(spawned), list(stream(digits, batch_size=4, ratio=0)))


def test_sampler_batch_sampler_and_dataset_are_the_users() -> None:
    digits = Digits(20)
    train = stream(digits, batch_size=4)
    assert isinstance(train.sampler, DistributedSampler)
    assert train.batch_sampler.sampler is train.sampler
    assert train.dataset is digits
    weighted = WeightedRandomSampler([1.0] * 20, 17)
    batches = BatchSampler(weighted, 5, drop_last=False)
    assert stream(digits, batch_sampler=batches, count=5).proportion.ratio == 1.0
    for train in (
        stream(EpochDigits(20), batch_size=4, sampler=weighted),
        stream(digits, batch_sampler=batches),
        stream(DataLoader(digits, batch_sampler=batches)),
    ):
        assert train.sampler is train.batch_sampler.sampler is weighted
    streamed = DigitStream(20)
    assert stream(streamed, batch_size=4).dataset is streamed
    train = stream(list_of_batches())
    assert train.sampler is train.batch_sampler is train.dataset is None


class Asking(StubSource):
    """A source that looks at which items a batch holds."""

    needs_items = True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"generator": own()},
        {"sampler": RandomSampler(range(20))},
        {"batch_sampler": BatchSampler(RandomSampler(range(20)), 6, drop_last=False)},
        {"num_workers": 1},
        {"num_workers": 1, "generator": own(), "persistent_workers": True},
    ],
)
def test_a_source_is_told_the_items_whatever_the_order(options: dict[str, Any]) -> None:
    def check(source: Asking) -> None:
        assert source.real
        for real in source.real:
            assert real is not None
            assert real.items is not None
            assert real.items.tolist() == indices(real.images)

    train = stream(source=Asking(), **options)
    collect(train, num_epochs=2)
    list(islice(train, 2))
    check(train.source)
    resumed = stream(source=Asking(), **options)
    resumed.load_state_dict(train.state_dict())
    list(resumed)
    check(resumed.source)


# A loader of the user's: its length, its epochs, and what it shows of itself


def test_workers_that_round_their_own_part_leave_no_exact_length() -> None:
    # Two workers make batches of 4, 4, 2 and 4, 4, 1 images: six, where 19 / 4 rounds up to five.
    train = stream(SizedDigitStream(19), batch_size=4, num_workers=2, ratio=0)
    with pytest.raises(TypeError, match="no length"):
        len(train)
    assert len(list(train)) == 6


def test_workers_that_get_ready_batches_keep_the_declared_length() -> None:
    assert len(stream(DataLoader(SizedDigitStream(20), batch_size=None, num_workers=2))) == 20


def test_a_jump_counts_what_a_batch_sampler_reads_and_not_the_dataset() -> None:
    def make() -> CounterfactualDataset:
        sampler = WeightedRandomSampler([1.0] * 20, 7)
        loader = DataLoader(Digits(20), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        return stream(loader, ratio=0.3, mix="separate")

    epochs = [[len(made[0]) for _, made in epoch] for epoch in [make()] * 3]
    jumped = make()
    jumped.set_epoch(2)
    assert [len(made[0]) for _, made in jumped] == epochs[2]
    assert sum(chain(*epochs)) == int(0.3 * 7 * 3)


def test_persistent_workers_of_a_users_own_loader_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream(DataLoader(EpochDigits(12), 4, num_workers=1, persistent_workers=True))
    assert "persistent workers, whose copies of the dataset may not see set_epoch" in caplog.text
    caplog.clear()
    stream(DataLoader(Digits(12), 4, num_workers=1, persistent_workers=True))
    assert caplog.text == ""
