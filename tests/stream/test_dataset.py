"""What goes into a stream, its epochs, and what other libraries see of it."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
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
    classes_shown,
    collect,
    epochs_shown,
    indices,
    large,
    list_of_batches,
    one_batch,
    same,
    stream,
)
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from cgn_augment import FreshSource, Ramp
from cgn_augment.generators import SmallCGN


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


def test_a_broken_off_epoch_is_begun_again_unless_its_last_batch_was_asked_for() -> None:
    whole = stream()
    train = stream()
    for _ in range(3):
        expected = list(whole)
        assert same(list(islice(train, 2)), expected[:2])
        batches = iter(train)
        assert same([next(batches) for _ in range(len(train))], expected)


def test_set_epoch_goes_to_the_start_of_an_epoch() -> None:
    whole = stream()
    epochs = [list(whole) for _ in range(3)]
    train = stream()
    for epoch in (2, 0, 1, 2):  # the last is under way already
        train.set_epoch(epoch)
        assert train.epoch == epoch
        assert same(list(train), epochs[epoch])
    next(iter(train))
    train.set_epoch(0)
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


def test_the_stream_follows_a_library_that_sets_the_samplers_epoch() -> None:
    whole = stream()
    epochs = [list(whole) for _ in range(4)]
    train = stream()
    for epoch in (2, 3, 0):
        train.sampler.set_epoch(epoch)
        assert same(list(train), epochs[epoch])


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


def test_what_goes_to_workers_pickles_and_holds_no_generator(tiny_cgn: SmallCGN) -> None:
    digits = TensorOfNothing()
    for options in ({}, {"seed_items": True}):
        train = stream(digits, tiny_cgn, batch_size=4, **options)
        loader = train._real.loader
        parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
        content = bytes(ForkingPickler.dumps(parts))
        assert len(content) < 2000
        assert b"cgn_augment.generators" not in content
    parts = (stream(DigitStream(8), tiny_cgn, batch_size=4)._real.loader.dataset,)
    assert b"cgn_augment.generators" not in bytes(ForkingPickler.dumps(parts))


class TensorOfNothing(EpochDigits):
    """A dataset whose class a pickle finds again."""


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
