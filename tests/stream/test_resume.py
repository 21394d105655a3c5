"""A stream goes on where its state was saved, bit for bit, whatever the real data is."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
import stream_helpers
import torch
from conftest import make_tiny_cgn
from stream_helpers import (
    ORDERS,
    Digits,
    DigitStream,
    EagerBatches,
    EpochDigits,
    Make,
    Run,
    check_resume,
    collect,
    indices,
    list_of_batches,
    load,
    own,
    same,
)
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from cgn_augment import BankSource, CounterfactualDataset, Interventions, OffAfter, Ramp
from cgn_augment.errors import CheckpointError

# torchdata 0.11 makes its loaders with a call that torch 2.14 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


stream = partial(stream_helpers.stream, num=19, ratio=0.5)
"""A stream of five steps an epoch."""


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Digits(19), **{"batch_size": 4, "shuffle": True, **options})


class ShuffledBatches:
    """An iterable of batches that is neither a loader nor has a state."""

    def __iter__(self) -> Iterator[Any]:
        batches = list_of_batches(19)
        return (batches[i] for i in torch.randperm(5))

    def __len__(self) -> int:
        return 5


CGN = make_tiny_cgn().freeze()


def tiny_source(**options: Any) -> BankSource:
    return BankSource(CGN, size=10, **options)


def large_batches() -> list[Any]:
    return [(x.repeat_interleave(4, -1).repeat_interleave(4, -2), y) for x, y in list_of_batches()]


CASES: dict[str, Make] = {
    "map-style": lambda: stream(),
    "map-style in order": lambda: stream(shuffle=False, drop_last=True),
    "seed_items": lambda: stream(Digits(19, noise=True), batch_size=4, seed_items=True),
    "dataset with epochs": lambda: stream(EpochDigits(19), batch_size=4),
    "replace": lambda: stream(mix="replace", fraction=0.3, ratio=None),
    "separate": lambda: stream(mix="separate", ratio=1 / 7),
    "fraction of an image a step": lambda: stream(ratio=None, count=0.4),
    "schedule": lambda: stream(ratio=Ramp(0, 1.3, num_steps=12)),
    "switched off in an epoch": lambda: stream(ratio=OffAfter(0.9, num_steps=7)),
    "transform of global randomness": lambda: stream(
        transform=lambda x: x * torch.rand(len(x), 1, 1, 1), value_range=(-1, 1)
    ),
    "loader": lambda: stream(loader(shuffle=False)),
    "loader with the global generator": lambda: stream(loader()),
    **{
        f"loader with {name}": lambda order=order: stream(DataLoader(Digits(19), **order()))
        for name, order in ORDERS.items()
    },
    **{
        f"map-style with {name}": lambda order=order: stream(Digits(19), **order())
        for name, order in ORDERS.items()
    },
    "map-style with a sampler of epochs": lambda: stream(
        sampler=DistributedSampler(range(19), num_replicas=1, rank=0, seed=2)
    ),
    "loader with a sampler of epochs": lambda: stream(
        loader(sampler=DistributedSampler(range(19), 1, 0, seed=2), shuffle=False)
    ),
    "map-style with the global generator and seed_items": lambda: stream(
        Digits(19, noise=True), batch_size=4, sampler=RandomSampler(range(19)), seed_items=True
    ),
    "map-style with epochs and its own generator": lambda: stream(
        EpochDigits(19), batch_size=4, generator=own()
    ),
    "StatefulDataLoader": lambda: stream(StatefulDataLoader(Digits(19), 4, shuffle=True)),
    "StatefulDataLoader in order": lambda: stream(StatefulDataLoader(Digits(19), 4)),
    "StatefulDataLoader of an iterable": lambda: stream(StatefulDataLoader(DigitStream(19), 4)),
    "iterable": lambda: stream(DigitStream(19), batch_size=4),
    "loader of an iterable": lambda: stream(DataLoader(DigitStream(19), 4)),
    "list of batches": lambda: stream(list_of_batches(19)),
    "batches in an order from the global generator": lambda: stream(ShuffledBatches()),
    "bank that refreshes": lambda: stream(large_batches(), tiny_source(refresh=3)),
    "permuted classes": lambda: stream(
        large_batches(), tiny_source(interventions=Interventions("permute"))
    ),
}
WITH_WORKERS: dict[str, Make] = {
    "map-style and seed_items": lambda: stream(
        Digits(19, noise=True), batch_size=4, seed_items=True, num_workers=1
    ),
    "map-style with its own generator and persistent workers": lambda: stream(
        num_workers=1, persistent_workers=True, generator=own()
    ),
    "map-style with a sampler": lambda: stream(num_workers=1, sampler=RandomSampler(range(19))),
    "loader with an eager sampler": lambda: stream(
        DataLoader(Digits(19), batch_sampler=EagerBatches(), num_workers=1)
    ),
    "loader with persistent workers": lambda: stream(
        loader(num_workers=1, persistent_workers=True)
    ),
    "StatefulDataLoader": lambda: stream(StatefulDataLoader(Digits(19), 4, num_workers=1)),
    "iterable": lambda: stream(DigitStream(19), batch_size=4, num_workers=1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(name: str) -> None:
    run = Run(CASES[name])
    assert not same(*run.epochs), "the check could not fail"
    num_steps = len(run.epochs[0])
    # Start, middle, before the last batch, after it, after the end of an epoch.
    points = [(0, 0), (0, 2), (0, num_steps - 1), (0, num_steps), (1, 0), (1, 3)]
    check_resume(CASES[name], run, points)


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_resumed_run_with_workers_is_the_uninterrupted_one(name: str) -> None:
    run = Run(WITH_WORKERS[name])
    check_resume(WITH_WORKERS[name], run, [(0, 2)] if "persistent" in name else [(1, 2)])


@pytest.mark.parametrize(
    "name",
    [
        "map-style",
        "loader with the global generator",
        "loader with its own generator",
        "loader of an iterable",
        "StatefulDataLoader",
    ],
)
def test_the_rest_of_an_epoch_needs_no_global_random_state_and_leaves_it_alone(name: str) -> None:
    run = Run(CASES[name])
    file, _ = run.saved[1, 2]
    rng = torch.manual_seed(99).get_state()
    assert same(list(load(CASES[name], (file, rng))), run.epochs[1][2:])
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_state_counts_batches_that_were_yielded_and_not_those_that_are_prefetched() -> None:
    train = stream(num_workers=1, prefetch_factor=4)
    batches = iter(train)
    for step in range(1, 4):
        next(batches)
        assert train.state_dict()["step"] == step
    later = list(batches)
    state = train.state_dict()
    assert (state["epoch"], state["step"], len(later)) == (1, 0, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda data: stream(data, batch_size=4),
        lambda data: stream(data, batch_size=4, generator=own()),
        lambda data: stream(DataLoader(data, 4, shuffle=True, generator=own())),
    ],
)
def test_resuming_map_style_data_reads_no_image_again(make: Any) -> None:
    train = make(Digits(19))
    first = list(islice(train, 3))
    data = Digits(19)
    assert len(list(restored(train.state_dict(), lambda: make(data)))) == 2
    read_before = {i for images, _ in first for i in indices(images[:4])}
    assert sorted(data.reads) == sorted(set(range(19)) - read_before)


def restored(state: dict[str, Any], make: Make = stream) -> CounterfactualDataset:
    train = make()
    train.load_state_dict(state)
    return train


def state_after(epochs: int, steps: int, make: Make = stream) -> dict[str, Any]:
    train = make()
    collect(train, epochs)
    list(islice(train, steps))
    return train.state_dict()


@pytest.mark.parametrize(
    "name", ["map-style", "loader with its own generator", "list of batches", "iterable"]
)
def test_a_state_survives_loading_and_epochs_after_a_resumed_one_are_whole(name: str) -> None:
    state = state_after(0, 3, CASES[name])
    resumed = restored(state, CASES[name])
    assert same(resumed.state_dict(), state)
    assert [len(list(resumed)) for _ in range(3)] == [2, 5, 5]
    if name == "map-style":
        assert len(list(resumed.batch_sampler)) == 5


def test_loading_counts_for_iterators_that_have_not_begun_and_for_the_next() -> None:
    whole = list(stream())
    late = stream()
    batches = iter(late)
    late.load_state_dict(state_after(0, 2))
    assert same(list(batches), whole[2:])
    running = stream()
    old = iter(running)
    next(old)
    running.load_state_dict(state_after(0, 3))
    next(old)
    assert running.state_dict()["step"] == 3
    assert same(list(running), whole[3:])


def test_an_older_iterator_does_not_move_the_state() -> None:
    train, whole = stream(), stream()
    epochs = [list(whole) for _ in range(2)]
    old, new = iter(train), iter(train)
    next(old)
    next(old)
    assert same(next(new), epochs[1][0])
    for _ in range(2):
        state = train.state_dict()
        assert (state["epoch"], state["step"]) == (1, 1)
        next(old)
    assert same(next(new), epochs[1][1])


def test_loading_twice_takes_the_later_state_and_iterating_twice_is_two_epochs() -> None:
    train = stream()
    epochs = [list(train) for _ in range(3)]
    resumed = restored(state_after(0, 4))
    resumed.load_state_dict(state_after(1, 2))
    assert same(next(iter(resumed)), epochs[1][2])
    assert same(list(resumed), epochs[2])


@pytest.mark.parametrize("name", ["map-style", "loader with its own generator"])
def test_set_epoch_after_loading_keeps_the_step_of_its_own_epoch(name: str) -> None:
    make = CASES[name]
    state, epochs = state_after(1, 2, make), Run(make).epochs
    for epoch, step in ((1, 2), (0, 0)):
        resumed = restored(state, make)
        resumed.set_epoch(epoch)
        assert same(list(resumed), epochs[epoch][step:])


def test_the_epoch_after_a_loaded_place_is_the_one_that_would_have_followed() -> None:
    """A client that ended the epoch by a break, saved, and says so when it resumes."""
    for make in (
        CASES["map-style"],
        CASES["loader with its own generator"],
        lambda: stream(ratio=0.3),
    ):
        train = make()
        list(islice(train, 2))
        state = train.state_dict()
        followed = list(train)
        resumed = restored(state, make)
        resumed.set_epoch(1)
        assert same(list(resumed), followed)


def test_leaving_a_loaded_place_for_an_earlier_epoch_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    resumed = restored(state_after(2, 3))
    resumed.set_epoch(0)
    assert (
        "set_epoch(0) leaves the place that was loaded, which is step 3 of epoch 2" in caplog.text
    )


def test_a_library_that_sets_the_samplers_epoch_after_loading_moves_the_stream() -> None:
    for epoch, num_left in ((1, 3), (2, 5)):
        resumed = restored(state_after(1, 2))
        resumed.sampler.set_epoch(epoch)
        assert len(list(resumed)) == num_left
        assert resumed.epoch == epoch + 1


def test_a_state_pickles_and_holds_no_weights() -> None:
    train = CASES["bank that refreshes"]()
    list(islice(train, 2))
    state = train.state_dict()
    content = pickle.dumps(state)
    assert same(pickle.loads(content), state)
    weights = sum(p.numel() * p.element_size() for p in train.source.cgn.parameters())
    assert len(content) < 10_000 < weights


@pytest.mark.parametrize(
    "name", ["map-style", "loader with its own generator", "StatefulDataLoader"]
)
def test_a_state_is_not_changed_by_what_the_stream_does_later(name: str) -> None:
    train = CASES[name]()
    batches = iter(train)
    next(batches)
    state = train.state_dict()
    before = pickle.loads(pickle.dumps(state))
    collect(batches)
    assert same(state, before)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("real", {"batch_size": 5}),
        ("real", {"shuffle": False}),
        ("real", {"drop_last": True}),
        ("real", {"seed_items": True}),
        ("real", {"generator": own()}),
        ("real", {"num": 18}),
        ("real", {"real": list_of_batches(19)}),
        ("proportion", {"ratio": 0.6}),
        ("proportion", {"ratio": OffAfter(0.5, 3)}),
        ("mix", {"mix": "separate"}),
        ("label", {"label": "texture"}),
        ("class_map", {"class_map": {y: 9 - y for y in range(10)}}),
        ("seed", {"seed": 1}),
        ("world_size", {"rank": 0, "world_size": 2}),
    ],
)
def test_a_state_of_another_configuration_is_refused(key: str, other: dict[str, Any]) -> None:
    train = stream(**other)
    before = train.state_dict()
    with pytest.raises(
        CheckpointError, match=rf"another configuration \(.*\b{key}: .* then, .* now"
    ):
        train.load_state_dict(stream().state_dict())
    assert same(train.state_dict(), before)


def test_a_state_of_another_source_is_refused() -> None:
    state = stream(large_batches(), tiny_source()).state_dict()
    for other in (tiny_source(refresh=3), tiny_source(seed=1)):
        with pytest.raises(CheckpointError, match=r"\(source: .bank\(.* then, .bank\(.* now\)"):
            stream(large_batches(), other).load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        *(
            (state, "not a state of this version.*expected version 2, got")
            for state in (None, [], {}, {"version": 0}, {"version": "2"})
        ),
        *(
            ({k: v for k, v in stream().state_dict().items() if k != key}, f"damaged: .*'{key}' is")
            for key in ("epoch", "step", "total", "carry", "real", "fingerprint")
        ),
    ],
)
def test_what_is_no_state_is_refused(state: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        stream().load_state_dict(state)


@pytest.mark.parametrize(
    "changed",
    [
        {"step": -4},
        {"step": 2.0},
        {"epoch": "1"},
        {"epoch": True},
        {"total": 10**400},
        {"carry": None},
        {"real": None},
        {"real": []},
        {"fingerprint": 3},
    ],
)
def test_a_place_that_cannot_be_is_refused_when_it_is_loaded(changed: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="the state is damaged: ") as told:
        stream().load_state_dict({**stream().state_dict(), **changed})
    assert len(str(told.value).splitlines()) == 1


def test_a_step_behind_the_end_of_an_epoch_is_no_empty_epoch() -> None:
    for step in (6, 10**9):
        resumed = stream(num=20, batch_size=4)
        resumed.load_state_dict({**resumed.state_dict(), "step": step})
        with pytest.raises(CheckpointError, match=f"of step {step} and an epoch has 5 here"):
            list(resumed)
    resumed = stream(num=20, batch_size=4)
    resumed.load_state_dict({**resumed.state_dict(), "step": 5})
    assert list(resumed) == []


@pytest.mark.parametrize(
    "real", [{}, {"random": None}, {"random": {"global": 3, "own": [], "seeded": False, "now": []}}]
)
def test_a_state_of_the_real_data_that_is_none_is_one_error(real: Any) -> None:
    resumed = stream(loader())
    resumed.load_state_dict({**resumed.state_dict(), "real": real, "step": 1})
    with pytest.raises(CheckpointError, match="what it says of the real data cannot be used"):
        list(resumed)


def test_a_loader_with_other_generators_than_the_state_is_an_error() -> None:
    resumed = restored(stream(loader(generator=own())).state_dict(), lambda: stream(loader()))
    with pytest.raises(
        CheckpointError, match="holds 1 generators of the loader, and this loader has 0"
    ):
        list(resumed)


def test_reading_and_dropping_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    make = CASES["list of batches"]
    next(iter(restored(state_after(0, 2, make), make)))
    assert "going on at step 2: reading and dropping the batches before it" in caplog.text


def test_an_epoch_that_is_named_while_it_runs_goes_on_being_counted() -> None:
    """Lightning does so where there is no length; an epoch that is named after it, begins anew."""
    epochs = [list(train) for train in [stream()] * 2]
    train = stream()
    batches = iter(train)
    next(batches)
    train.set_epoch(0)
    next(batches)
    state = train.state_dict()
    assert (state["epoch"], state["step"]) == (0, 2)
    resumed = stream()
    resumed.load_state_dict(state)
    assert same(list(resumed), epochs[0][2:])
    train.set_epoch(0)
    assert same(list(train), epochs[0])
    next(batches)  # an iterator that another one has followed
    assert same(list(train), epochs[1])


@pytest.mark.parametrize(
    "given", [{"ratio": 0.3}, {"ratio": Ramp(0, 1, 5)}, {"ratio": None, "count": 0.7}]
)
def test_the_epochs_before_a_loaded_place_are_not_counted_again(given: dict[str, Any]) -> None:
    whole = stream(**given)
    expected = [len(batch[1]) for _ in range(4) for batch in whole]
    part = stream(**given)
    before = [len(batch[1]) for _ in range(2) for batch in part]
    before.append(len(next(iter(part))[1]))
    state = part.state_dict()
    resumed = stream(**given)
    resumed.load_state_dict(state)
    resumed.set_epoch(state["epoch"])
    after = [len(batch[1]) for _ in range(2) for batch in resumed]
    assert [*before, *after] == expected
    far = stream(**given)
    far.load_state_dict({**state, "epoch": 2**61})
    for _ in range(2):
        next(iter(far))  # broken off: the next epoch begins
    assert far.state_dict()["epoch"] == 2**61 + 1
