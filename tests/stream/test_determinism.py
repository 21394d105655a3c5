"""Ratio 0 is the plain loader; what a step draws depends on (seed, epoch, rank, step) alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stream_helpers import (
    Digits,
    DigitStream,
    EpochDigits,
    StubSource,
    collect,
    global_state,
    list_of_batches,
    same,
    seed_globals,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, WeightedRandomSampler

from cgn_augment import BankSource, CounterfactualDataset, FreshSource, SmallCGN, match_real


def stream(real: Any = None, source: Any = None, **options: Any) -> CounterfactualDataset:
    if real is None:
        real, options = Digits(19), {"batch_size": 4, **options}
    return CounterfactualDataset(real, source or StubSource(), **options)


def plain_loader(digits: Digits, seed: int, **options: Any) -> DataLoader[Any]:
    sampler: DistributedSampler[Any] = DistributedSampler(
        digits, num_replicas=1, rank=0, seed=seed, drop_last=options.get("drop_last", False)
    )
    return DataLoader(digits, 4, sampler=sampler, **options)


def plain_epochs(loader: DataLoader[Any], num_epochs: int) -> list[Any]:
    batches = []
    for epoch in range(num_epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def large() -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32), torch.arange(4)


# Ratio 0


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ratio_0_of_a_dataset_is_the_plain_loader(num_workers: int, drop_last: bool) -> None:
    expected = plain_epochs(
        plain_loader(EpochDigits(19), 7, num_workers=0, drop_last=drop_last), num_epochs=1
    )
    train = stream(
        EpochDigits(19),
        batch_size=4,
        ratio=0,
        seed=7,
        num_workers=num_workers,
        drop_last=drop_last,
    )
    before = global_state()
    batches = list(train)
    assert global_state() == before
    assert same(batches, expected)


def test_ratio_0_of_a_dataset_is_the_plain_loader_in_later_epochs() -> None:
    expected = plain_epochs(plain_loader(Digits(19), 0), num_epochs=3)
    assert same(collect(stream(ratio=0), num_epochs=3), expected)


def test_ratio_0_leaves_a_datasets_own_global_randomness_as_a_plain_loader_does() -> None:
    seed_globals(1)
    expected = plain_epochs(
        DataLoader(
            Digits(19, noise=True),
            4,
            sampler=DistributedSampler(Digits(19), num_replicas=1, rank=0),
            generator=torch.Generator(),
        ),
        num_epochs=2,
    )
    after = global_state()
    seed_globals(1)
    batches = collect(stream(Digits(19, noise=True), batch_size=4, ratio=0), num_epochs=2)
    assert same(batches, expected)
    assert global_state() == after


def users_loader(name: str) -> DataLoader[Any]:
    def own() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    weights = torch.arange(1.0, 20.0)
    makers: dict[str, Callable[[], DataLoader[Any]]] = {
        "global": lambda: DataLoader(Digits(19, noise=True), 4, shuffle=True),
        "own": lambda: DataLoader(Digits(19, noise=True), 4, shuffle=True, generator=own()),
        "in order": lambda: DataLoader(Digits(19, noise=True), 4),
        "weighted": lambda: DataLoader(
            Digits(19), 4, sampler=WeightedRandomSampler(weights.tolist(), 19)
        ),
        "iterable": lambda: DataLoader(DigitStream(19), 4),
        "workers": lambda: DataLoader(Digits(19, noise=True), 4, shuffle=True, num_workers=2),
    }
    return makers[name]()


@pytest.mark.parametrize("name", ["global", "own", "in order", "weighted", "iterable", "workers"])
def test_ratio_0_of_a_users_loader_is_that_loader_and_so_is_the_global_state(name: str) -> None:
    seed_globals(2)
    loader = users_loader(name)
    expected = []
    for epoch in range(2):
        if isinstance(loader.dataset, DigitStream):
            loader.dataset.set_epoch(epoch)
        expected += list(loader)
    after = global_state()
    own_after = None if loader.generator is None else loader.generator.get_state()
    seed_globals(2)
    loader = users_loader(name)
    assert same(collect(stream(loader, ratio=0), num_epochs=2), expected)
    assert global_state() == after
    if own_after is not None:
        assert torch.equal(loader.generator.get_state(), own_after)


@pytest.mark.parametrize("mix", ["append", "replace"])
def test_ratio_0_gives_the_very_batches(mix: str) -> None:
    batches = list_of_batches()
    made = list(stream(batches, ratio=0, mix=mix))
    assert same(made, batches)
    if mix == "append":
        assert all(a is b for a, b in zip(made, batches, strict=True))


def test_ratio_0_does_not_look_at_what_a_batch_holds() -> None:
    odd = [torch.zeros(2, 5, dtype=torch.uint8), torch.ones(2, 3)]
    assert same(list(stream([odd], ratio=0)), [odd])


# Ratio above 0


def global_noise(images: Tensor) -> Tensor:
    """An augmentation that knows only global randomness, of three libraries."""
    drawn = torch.rand(len(images), 1, 1, 1) * random.random() * np.random.rand()  # noqa: NPY002
    return images * drawn


@pytest.mark.parametrize("name", ["dataset", "loader", "iterable", "list"])
def test_mixing_leaves_the_global_generators_as_without_counterfactuals(name: str) -> None:
    def make(ratio: float) -> CounterfactualDataset:
        real, options = {
            "dataset": (Digits(19, noise=True), {"batch_size": 4}),
            "loader": (DataLoader(Digits(19), 4, shuffle=True), {}),
            "iterable": (DigitStream(19), {"batch_size": 4}),
            "list": (list_of_batches(), {}),
        }[name]
        return stream(real, ratio=ratio, transform=global_noise, mix="separate", **options)

    seed_globals(3)
    expected = [real for real, _ in collect(make(0), num_epochs=2)]
    after = global_state()
    seed_globals(3)
    batches = [real for real, _ in collect(make(1.5), num_epochs=2)]
    assert same(batches, expected)
    assert global_state() == after


def test_making_a_stream_its_length_and_its_state_draw_nothing(tiny_cgn: SmallCGN) -> None:
    before = global_state()
    train = stream([large()], BankSource(tiny_cgn, size=10))
    train.state_dict()
    train.set_epoch(3)
    repr(train)
    len(train)
    list(train)
    list(stream(DigitStream(19), batch_size=4))
    stream(seed_items=True, num_workers=1).load_state_dict(stream(seed_items=True).state_dict())
    assert global_state() == before


def test_workers_and_prefetching_make_no_difference() -> None:
    expected = list(stream(transform=global_noise, ratio=0.7))
    for num_workers, prefetch_factor in ((1, 4), (2, 1)):
        options = {"prefetch_factor": prefetch_factor}
        train = stream(transform=global_noise, ratio=0.7, num_workers=num_workers, **options)
        assert same(list(train), expected)


def test_counterfactuals_do_not_depend_on_global_randomness(tiny_cgn: SmallCGN) -> None:
    kornia_like = match_real(0.5, 0.5, crop_size=24, augment=nn.Dropout(0.2))
    images, labels = large()
    real = [(images[:, :, :24, :24], labels)]
    runs = []
    for seed in (1, 2):
        seed_globals(seed)
        runs.append(list(stream(real, tiny_cgn, transform=kornia_like, value_range=None)))
    assert same(*runs)


@pytest.mark.parametrize("kind", ["fresh", "bank"])
def test_a_step_is_a_function_of_seed_epoch_rank_and_number(kind: str, tiny_cgn: SmallCGN) -> None:
    real = [large()] * 3

    def make(**options: Any) -> CounterfactualDataset:
        bank = kind == "bank"
        source = BankSource(tiny_cgn, size=10, refresh=2) if bank else FreshSource(tiny_cgn)
        return stream(real, source, mix="separate", **options)

    def drawn(**options: Any) -> list[Tensor]:
        return [made[0] for _, made in collect(make(**options), num_epochs=2)]

    base = drawn()
    assert same(drawn(), base)
    # Every step of every epoch, rank and seed draws something else.
    every = [*base, *drawn(seed=1), *drawn(rank=1, world_size=2)]
    assert len({images.sum().item() for images in every}) == len(every) == 18
    # A step is the same without the steps before it.
    jumped = make()
    jumped.set_epoch(1)
    assert same([made[0] for _, made in jumped], base[3:])
    # The world size is no part of it: the first of two ranks draws what a single one does.
    assert same(drawn(rank=0, world_size=2), base)


def test_what_is_replaced_differs_from_step_to_step_and_is_the_same_again() -> None:
    def kept(seed: int) -> list[Tensor]:
        train = stream([list_of_batches(20, 20)[0]] * 3, mix="replace", count=10, seed=seed)
        return [images[:10, 0, 1, 1] for images, _ in train]

    first, second, third = kept(0)
    assert same(kept(0), [first, second, third])
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(kept(1)[0], first)


def test_the_order_of_the_real_images_follows_the_seed() -> None:
    first, other = (list(stream(ratio=0, seed=seed)) for seed in (0, 1))
    assert same(list(stream(ratio=0, seed=0)), first)
    assert not same(first, other)


def test_counterfactuals_are_the_same_whatever_the_real_data_is() -> None:
    of_dataset = [made for _, made in stream(Digits(20), batch_size=4, mix="separate")]
    of_list = [made for _, made in stream(list_of_batches(), mix="separate")]
    assert same([list(made) for made in of_list], of_dataset)


# seed_items


def noisy(num_workers: int, epoch: int = 0, **options: Any) -> list[Any]:
    train = stream(
        Digits(19, noise=True),
        batch_size=4,
        num_workers=num_workers,
        **{"seed_items": True, "ratio": 0.5, **options},
    )
    train.set_epoch(epoch)
    return list(train)


def test_seeded_items_do_not_depend_on_workers_or_on_global_randomness() -> None:
    seed_globals(1)
    before = global_state()
    expected = noisy(0)
    assert global_state() == before
    seed_globals(2)
    assert same(noisy(0), expected)
    assert same(noisy(2), expected)
    assert same(noisy(1, prefetch_factor=1), expected)


@pytest.mark.parametrize("seed_items", [False, True])
def test_a_dataset_that_reads_several_items_at_once_does_so_unless_each_is_seeded(
    seed_items: bool,
) -> None:
    asked: list[list[int]] = []

    class Grouped(EpochDigits):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            asked.append(indices)
            return [self[index] for index in indices]

    list(stream(Grouped(8), batch_size=4, shuffle=False, seed_items=seed_items))
    assert asked == ([] if seed_items else [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_seeded_items_differ_between_epochs_seeds_and_indices() -> None:
    def pixels(**options: Any) -> Tensor:
        batches = noisy(0, shuffle=False, ratio=0, **options)
        return torch.cat([images for images, _ in batches])[:, :, 2, 2]

    base, later, other = pixels(), pixels(epoch=1), pixels(seed=1)
    for column in range(3):  # torch, Python and NumPy
        numbers = torch.cat([base[:, column], later[:, column], other[:, column]])
        assert len(numbers.unique()) == len(numbers) == 3 * len(base)


def test_random_transforms_in_workers_follow_the_epoch_and_the_seed() -> None:
    def make(seed: int = 0) -> CounterfactualDataset:
        digits = Digits(8, noise=True)
        return stream(digits, batch_size=4, ratio=0, shuffle=False, num_workers=1, seed=seed)

    whole = make()
    first, second = list(whole), list(whole)
    jumped = make()
    jumped.set_epoch(1)
    assert same(list(jumped), second)
    assert not same(first, second)
    assert not same(list(make(seed=1)), first)


def test_without_seeded_items_a_transform_draws_from_the_global_generators() -> None:
    seed_globals(1)
    first = noisy(0, seed_items=False)
    assert not same(noisy(0, seed_items=False), first)
    seed_globals(1)
    assert same(noisy(0, seed_items=False), first)
