"""What goes into a stream, how it is read, its epochs, and what other libraries see of it."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.reduction import ForkingPickler
from typing import Any

import psutil
import pytest
import torch
from stream_helpers import (
    SIZE,
    Digits,
    DigitStream,
    EpochDigits,
    SizedDigitStream,
    StubSource,
    classes_shown,
    collect,
    epochs_shown,
    indices,
    large,
    list_of_batches,
    one_batch,
    own,
    same,
    stream,
)
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from cgn_augment import CounterfactualDataset, FreshSource, Ramp
from cgn_augment.errors import ArgumentTypeError, DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.stream.collating import collate


def num_made(batches: list[Any], batch_size: int = 4) -> list[int]:
    return [len(images) - batch_size for images, _ in batches]


# Inputs


class Batches(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list_of_batches())


@pytest.mark.parametrize(
    ("real", "options", "length"),
    [
        (Digits(20), {"batch_size": 4}, 5),
        (DigitStream(20), {"batch_size": 4}, None),
        (SizedDigitStream(20), {"batch_size": 4}, 5),
        (DataLoader(Digits(20), 4, shuffle=True), {}, 5),
        (DataLoader(DigitStream(20), 4), {}, None),
        (list_of_batches(), {}, 5),
        (Batches(), {}, None),
    ],
)
def test_real_data_of_any_kind_is_read_whole_with_counterfactuals_behind_it(
    real: Any, options: dict[str, Any], length: int | None
) -> None:
    train = stream(real, ratio=0.5, **options)
    for _ in range(2):
        batches = list(train)
        assert [tuple(images.shape) for images, _ in batches] == [(6, 3, SIZE, SIZE)] * 5
        real_images = torch.cat([images[:4] for images, _ in batches])
        assert sorted(indices(real_images)) == list(range(20))
        for images, labels in batches:
            assert labels.dtype == torch.int64
            assert labels[:4].tolist() == [i % 10 for i in indices(images[:4])]
            assert torch.equal(labels[4:], classes_shown(images[4:])[0])
    if length is None:
        with pytest.raises(TypeError, match="has no length, so the stream has none"):
            len(train)
    else:
        assert len(train) == length


def test_a_frozen_cgn_stands_for_a_fresh_source(tiny_cgn: SmallCGN) -> None:
    batch = large()
    assert same(one_batch(batch, tiny_cgn), one_batch(batch, FreshSource(tiny_cgn)))


# How many


@pytest.mark.parametrize(
    ("options", "num"),
    [
        ({}, 4),
        ({"ratio": 2.5}, 10),
        ({"count": 3}, 3),
        ({"fraction": 0.2}, 1),
        ({"fraction": 0}, 0),
    ],
)
def test_ratio_count_and_fraction_say_how_many(options: dict[str, Any], num: int) -> None:
    train = stream(**options)
    assert num_made(list(train)) == [num] * 5
    assert train.source.asked == ([num] * 5 if num else [])
    assert train.proportion.ratio == pytest.approx(num / 4)
    assert f"count={num}" in repr(train)


def test_fractions_of_an_image_carry_over_from_epoch_to_epoch_also_in_a_jump() -> None:
    whole = stream(num=19, ratio=0.3)
    epochs = [list(whole) for _ in range(4)]
    # 5.7 an epoch.
    assert [sum(len(x) for x, _ in epoch) - 19 for epoch in epochs] == [5, 6, 6, 5]
    jumped = stream(num=19, ratio=0.3)
    jumped.set_epoch(3)
    assert same(list(jumped), epochs[3])


def test_a_schedule_counts_steps_over_epochs() -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return step / 4

    train = stream(ratio=schedule)
    assert num_made(collect(train, num_epochs=2)) == list(range(10))
    assert asked == list(range(10))
    jumped = stream(ratio=Ramp(0, 5, num_steps=20))
    jumped.set_epoch(2)
    assert num_made(list(jumped)) == [10, 11, 12, 13, 14]


# Epochs


def test_the_epoch_advances_by_itself_when_an_iteration_completes() -> None:
    train = stream(EpochDigits(20), batch_size=4)
    for epoch in range(3):
        assert train.epoch == epoch
        assert {epoch} == set().union(*(epochs_shown(images[:4]) for images, _ in train))
    assert train.epoch == 3


def test_a_broken_off_epoch_is_followed_by_the_next_one() -> None:
    whole, train = stream(ratio=0.3), stream(ratio=0.3)
    epochs = [list(whole) for _ in range(6)]
    assert same(list(islice(train, 2)), epochs[0][:2])
    state = train.state_dict()
    assert (train.epoch, state["step"], state["total"]) == (0, 2, 2)
    batches = iter(train)
    assert (train.epoch, train.state_dict()["total"]) == (1, 5)
    assert same([next(batches) for _ in range(len(train))], epochs[1])
    assert same(next(iter(train)), epochs[2][0])
    iter(train)  # ends the third epoch, and yields nothing
    iter(train)
    assert same(list(train), epochs[3])
    next(iter(train))
    train.set_epoch(5)  # where a client says that it ended the epoch by the break
    assert same(list(train), epochs[5])


def test_an_epoch_that_was_broken_off_can_be_begun_again() -> None:
    train, whole = stream(), list(stream())
    for _ in range(2):
        assert same(list(islice(train, 2)), whole[:2])
        train.set_epoch(0)
    assert same(list(train), whole)


@pytest.mark.parametrize("break_at", [1, 3, 5])
def test_steps_are_those_of_whole_epochs_or_are_counted_where_the_length_is_unknown(
    break_at: int,
) -> None:
    known, unknown = StubSource(), StubSource()
    for train in (stream(source=known), stream(DigitStream(20), unknown, batch_size=4)):
        for _ in range(3):
            list(islice(train, break_at))
    each = range(break_at)
    assert [step.number for step in known.steps] == [5 * e + k for e in range(3) for k in each]
    assert [step.number for step in unknown.steps] == list(range(3 * break_at))


def test_a_shuffled_loader_of_the_user_draws_anew_after_a_break() -> None:
    train = stream(DataLoader(Digits(20), 4, shuffle=True, generator=own()))
    first, second = (indices(next(iter(train))[0][:4]) for _ in range(2))
    assert first != second


class StoppingDigits(Digits):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 13:
            raise StopIteration
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_item_that_raises_stop_iteration_does_not_end_the_epoch_quietly(
    num_workers: int,
) -> None:
    for train in (
        stream(StoppingDigits(20), batch_size=4, shuffle=False, num_workers=num_workers),
        stream(DataLoader(StoppingDigits(20), 4, num_workers=num_workers)),
    ):
        with pytest.raises(DataError, match="ended after 3 of 5 batches: an item of the dataset"):
            list(train)


@pytest.mark.parametrize("by_sampler", [False, True])  # as other libraries do it
def test_set_epoch_goes_to_the_start_of_an_epoch(by_sampler: bool) -> None:
    whole, train = stream(), stream()
    epochs = [list(whole) for _ in range(3)]
    part = train.sampler if by_sampler else train
    for epoch in (2, 0, 1, 2):  # the last comes next anyway
        part.set_epoch(epoch)
        assert by_sampler or train.epoch == epoch
        assert same(list(train), epochs[epoch])
    next(iter(train))
    part.set_epoch(0)
    assert same(list(train), epochs[0])


@pytest.mark.parametrize("batches", [False, True])
def test_set_epoch_is_forwarded_to_a_loaders_sampler_and_dataset(batches: bool) -> None:
    digits = EpochDigits(20)
    sampler: Any = DistributedSampler(digits, num_replicas=1, rank=0)
    order = {"batch_sampler": BatchSampler(sampler, 4, False)} if batches else {"sampler": sampler}
    train = stream(DataLoader(digits, **order, **({} if batches else {"batch_size": 4})))
    train.set_epoch(5)
    assert epochs_shown(torch.cat([images[:4] for images, _ in train])) == {5}
    assert sampler.epoch == 5
    list(train)
    assert sampler.epoch == 6


@pytest.mark.parametrize("kind", [EpochDigits, DigitStream])
def test_persistent_workers_see_the_new_epoch(kind: type) -> None:
    options: dict[str, Any] = {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 1}
    sampler: Any = DistributedSampler(range(8), num_replicas=1, rank=0)
    if kind is EpochDigits:
        options["sampler"] = sampler
    train = stream(kind(8), batch_size=4, ratio=0, **options)
    for epoch in (0, 1, 5):
        train.set_epoch(epoch)
        images = torch.cat([images for images, _ in train])
        assert epochs_shown(images) == {epoch}
        sampler.set_epoch(epoch)
        assert kind is DigitStream or indices(images) == list(sampler)


# What other libraries look at


def test_a_stream_is_an_iterable_dataset_that_a_loader_passes_on() -> None:
    train, plain = stream(), stream()
    assert isinstance(train, IterableDataset)
    assert not isinstance(train, DataLoader)
    outer = DataLoader(train, batch_size=None)
    assert len(outer) == 5
    for _ in range(2):
        for through, direct in zip(outer, plain, strict=True):
            assert same(list(through), list(direct))


# Workers


class Picklable(EpochDigits):
    """A dataset whose class a pickle finds again."""


def test_what_goes_to_workers_pickles_and_holds_no_generator(tiny_cgn: SmallCGN) -> None:
    reals = [(Picklable(), {}), (Picklable(), {"seed_items": True}), (DigitStream(8), {})]
    for real, options in reals:
        loader = stream(real, tiny_cgn, batch_size=4, **options)._real.loader
        parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
        content = bytes(ForkingPickler.dumps(parts))
        assert len(content) < 2000
        assert b"cgn_augment.generators" not in content


@pytest.mark.parametrize("ending", ["break", "error", "end"])
def test_no_worker_outlives_an_iteration(ending: str) -> None:
    before = {child.pid for child in psutil.Process().children()}
    train = stream(Digits(24), batch_size=4, num_workers=2)
    with suppress(KeyError):
        for _ in train:
            assert len(multiprocessing.active_children()) >= 2
            if ending == "break":
                break
            if ending == "error":
                raise KeyError("training failed")
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_stream_that_is_no_longer_used_is_freed() -> None:
    train = stream()
    list(islice(train, 2))
    source = weakref.ref(train.source)
    del train
    assert source() is None


# A dataset is read as the `DataLoader` would that the stream replaces

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
        wanted = collate if name == "collate_fn" else getattr(plain, name)
        assert getattr(untouched, name) == wanted


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
    assert list(train.sampler) == list(DistributedSampler(digits, 1, 0))
    assert len(train.sampler) == 20
    assert train.dataset is digits
    weighted = WeightedRandomSampler([1.0] * 20, 17)
    batches = BatchSampler(weighted, 5, drop_last=False)
    assert stream(digits, batch_sampler=batches, count=5).proportion.ratio == 1.0
    for train in (
        stream(EpochDigits(20), batch_size=4, sampler=weighted),
        stream(digits, batch_sampler=batches),
        stream(DataLoader(digits, batch_sampler=batches)),
    ):
        assert train.batch_sampler.sampler is weighted
        assert train.sampler.num_samples == 17
    streamed = DigitStream(20)
    assert stream(streamed, batch_size=4).dataset is streamed
    train = stream(list_of_batches())
    assert train.batch_sampler is train.dataset is None
    train.sampler.set_epoch(4)  # also where there is nothing that could take it
    assert train.epoch == train.sampler.epoch == 4
    with pytest.raises(ArgumentTypeError, match="has no sampler that could be iterated"):
        list(train.sampler)


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
