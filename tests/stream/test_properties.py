"""What holds of every stream: hypothesis looks for settings and histories of which it does not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from inspect import signature
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stream_helpers import (
    ORDERS,
    Digits,
    DigitStream,
    SizedDigitStream,
    StubSource,
    list_of_batches,
    load,
    own,
    same,
    save,
    seed_globals,
    stream,
)
from torch.utils.data import DataLoader, DistributedSampler

from cgn_augment import CounterfactualDataset, Counterfactuals, RealBatch, Step
from cgn_augment.stream.preview import look_at

NUM_SLOW = 20
"""How many times as many examples the slow tests try."""


def profile(num: int) -> settings:
    return settings(
        derandomize=True,  # the suite is the same every time
        database=None,
        deadline=None,
        max_examples=num,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def tried(num: int, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a test of a property: on so many examples, and on more where slow tests run."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        quick, slow = (
            profile(count)(given(**strategies)(check)) for count in (num, NUM_SLOW * num)
        )
        both = [
            pytest.param(quick, id="quick"),
            pytest.param(slow, id="thorough", marks=pytest.mark.slow),
        ]
        if "kind" not in signature(quick).parameters:

            def test(attempt: Callable[[], None]) -> None:
                attempt()

        else:

            @pytest.mark.parametrize("kind", ONE_RANK)
            def test(attempt: Callable[[str], None], kind: str) -> None:
                attempt(kind)

        test.__doc__ = check.__doc__
        made: Callable[..., None] = pytest.mark.parametrize("attempt", both)(test)
        return made

    return decorate


class NumberedSource(StubSource):
    """Counterfactuals that also show the number of the step they were drawn for."""

    def sample(
        self,
        num: int,
        generator: torch.Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
    ) -> Counterfactuals:
        made = super().sample(num, generator, step, real)
        made.images[:, :, 0, 1] = step.number / 10**4
        return made


@dataclass(frozen=True)
class Case:
    """Settings of a stream of map-style data."""

    num: int
    batch_size: int
    drop_last: bool
    shuffle: bool
    world_size: int
    mix: str
    share: tuple[str, Fraction]
    seed: int

    def stream(self, rank: int = 0, **options: Any) -> CounterfactualDataset:
        return self.stream_of(Digits(self.num), rank=rank, **options)

    def stream_of(self, real: Any, rank: int = 0, **options: Any) -> CounterfactualDataset:
        name, value = self.share
        given: dict[str, Any] = {
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shuffle": self.shuffle,
            "rank": rank,
            "world_size": self.world_size,
            "mix": self.mix,
            "seed": self.seed,
            "output": "namedtuple",
            name: float(value),
            **options,
        }
        return stream(real, NumberedSource(), **given)

    def ranks(self) -> range:
        return range(self.world_size)


SHARES = st.one_of(
    st.tuples(st.just("ratio"), st.fractions(0, 3, max_denominator=12)),
    st.tuples(st.just("fraction"), st.fractions(0, Fraction(11, 12), max_denominator=12)),
    st.tuples(st.just("count"), st.fractions(0, 5, max_denominator=12)),
)


@st.composite
def cases(draw: st.DrawFn, least: int = 1) -> Case:
    num, world_size = draw(st.integers(least, 30)), draw(st.integers(1, 4))
    batch_size = draw(st.integers(1, 8))
    mix, (name, share) = draw(st.sampled_from(["append", "replace", "separate"])), draw(SHARES)
    if mix == "replace" and name == "count":
        share = min(share, Fraction(batch_size))
    return Case(
        num=num,
        batch_size=batch_size,
        drop_last=draw(st.booleans()) and num // world_size >= batch_size,
        shuffle=draw(st.booleans()),
        world_size=world_size,
        mix=mix,
        share=(name, share),
        seed=draw(st.integers(0, 2**40)),
    )


def parts(batch: Any) -> tuple[Any, ...]:
    """The batches of a step: two with mix="separate"."""
    return (batch,) if hasattr(batch, "image") else batch


def num_made(batch: Any) -> int:
    return sum(int(part.is_counterfactual.sum()) for part in parts(batch))


def sizes_of_a_rank(case: Case) -> list[int]:
    """How many real images each step of an epoch reads."""
    rounded = case.num if case.drop_last else case.num + case.world_size - 1
    full, rest = divmod(rounded // case.world_size, case.batch_size)
    return [case.batch_size] * full + [rest] * (rest > 0 and not case.drop_last)


@tried(50, case=cases(), epoch=st.integers(0, 3))
def test_the_ranks_read_the_epoch_together(case: Case, epoch: int) -> None:
    read = []
    for rank in case.ranks():
        made = case.stream(rank)
        made.set_epoch(epoch)
        num_steps = len(list(made))
        assert num_steps == len(made) == len(sizes_of_a_rank(case))
        sampler: Any = DistributedSampler(
            range(case.num),
            case.world_size,
            rank,
            shuffle=case.shuffle,
            seed=case.seed,
            drop_last=case.drop_last,
        )
        sampler.set_epoch(epoch)
        plain = DataLoader(
            range(case.num), case.batch_size, sampler=sampler, drop_last=case.drop_last
        )  # type: ignore[arg-type]
        assert made.dataset.reads == [int(index) for batch in plain for index in batch]
        read += made.dataset.reads
    if case.drop_last:
        assert max(Counter(read).values()) == 1
        assert len(read) == case.world_size * sum(sizes_of_a_rank(case))
    else:
        assert set(read) == set(range(case.num))
        assert len(read) == -(-case.num // case.world_size) * case.world_size


@tried(50, case=cases(), num_epochs=st.integers(1, 3))
def test_counterfactuals_are_as_many_as_was_said_whatever_the_batches(
    case: Case, num_epochs: int
) -> None:
    made = case.stream()
    batches = [batch for _ in range(num_epochs) for batch in made]
    name, share = case.share
    if name == "ratio" and case.mix == "replace":
        share /= 1 + share
    elif name == "fraction" and case.mix != "replace":
        share /= 1 - share
    elif name == "count" and case.mix == "replace":
        share /= case.batch_size
    sizes = sizes_of_a_rank(case) * num_epochs
    steps = zip(batches, sizes, strict=True)
    done, given_out = Fraction(0), 0
    for batch, size in steps:
        done += share if name == "count" and case.mix != "replace" else share * size
        num = num_made(batch)
        given_out += num
        assert given_out == int(done)
        total = sum(len(part.image) for part in parts(batch))
        assert total == (size if case.mix == "replace" else size + num)


@tried(30, case=cases(least=2), num_epochs=st.integers(1, 3))
def test_no_two_counterfactuals_of_any_rank_epoch_or_step_are_the_same(
    case: Case, num_epochs: int
) -> None:
    drawn: list[Any] = []
    for rank in case.ranks():
        made = case.stream(rank)
        for batch in (batch for _ in range(num_epochs) for batch in made):
            for part in parts(batch):
                drawn += map(tuple, part.image[part.is_counterfactual][:, :, 0, 0].tolist())
    assert len(set(drawn)) == len(drawn)


@tried(3, case=cases(least=8), epoch=st.integers(0, 2), num_workers=st.integers(1, 2))
def test_workers_change_nothing(case: Case, epoch: int, num_workers: int) -> None:
    seen = []
    for number in (0, num_workers):
        name, value = case.share
        made = stream(
            Digits(case.num, noise=True),
            NumberedSource(),
            batch_size=case.batch_size,
            num_workers=number or None,
            seed_items=True,
            mix=case.mix,
            **{name: float(value)},
        )
        made.set_epoch(epoch)
        seen.append(list(made))
    assert same(*seen)


Make = Callable[[], CounterfactualDataset]


def alone(case: Case, real: Any, **options: Any) -> CounterfactualDataset:
    """A stream of one rank; what says how a dataset is read is left out."""
    nothing = dict.fromkeys(("batch_size", "drop_last", "shuffle"))
    return case.stream_of(real, rank=0, world_size=1, **{**nothing, **options})


def loader(case: Case, **options: Any) -> DataLoader[Any]:
    return DataLoader(Digits(case.num), case.batch_size, shuffle=True, **options)


ONE_RANK: dict[str, Callable[[Case], CounterfactualDataset]] = {
    "seeded": lambda case: case.stream(),
    "a loader": lambda case: alone(case, loader(case)),
    "a loader with a generator": lambda case: alone(case, loader(case, generator=own())),
    "a list of batches": lambda case: alone(case, list_of_batches(case.num, case.batch_size)),
    "an iterable": lambda case: case.stream_of(
        SizedDigitStream(case.num), shuffle=None, shard_iterable=True
    ),
    "an iterable without a length": lambda case: case.stream_of(
        DigitStream(case.num), shuffle=None, shard_iterable=True
    ),
    **{
        name: lambda case, options=options: alone(case, Digits(19), **options())
        for name, options in ORDERS.items()
    },
}


def make_of(case: Case, kind: str) -> Make:
    """Makes a stream of some kind of real data, with the same numbers of torch each time."""
    assume("iterable" not in kind or case.num // case.world_size >= case.batch_size)
    assume(kind == "seeded" or (case.mix, case.share[0]) != ("replace", "count"))

    def make() -> CounterfactualDataset:
        seed_globals(5)
        made = ONE_RANK[kind](case)
        torch.manual_seed(6)
        return made

    return make


STOPS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def take(batches: Iterator[Any], num: int) -> list[Any]:
    """Up to so many batches; without a look at whether there are more."""
    return list(islice(batches, num))


@tried(5, case=cases(), stops=STOPS)
def test_a_run_that_is_interrupted_anywhere_any_number_of_times_is_the_same(
    case: Case, stops: list[int], kind: str
) -> None:
    make = make_of(case, kind)
    whole = make()
    expected = [batch for _ in range(3) for batch in whole]
    made, got = make(), []
    for stop in stops:
        if made.epoch == 3:
            break
        got += take(iter(made), stop)
        made = load(make, save(made))
    while made.epoch < 3:
        got += list(made)
    assert same(got, expected)


@tried(5, case=cases(), stops=STOPS)
def test_epochs_that_were_left_and_saved_go_on_as_those_that_were_left(
    case: Case, stops: list[int], kind: str
) -> None:
    make = make_of(case, kind)
    plain, left = make(), []
    for stop in stops:
        left.append(take(iter(plain), stop))
    left.append(list(plain))
    made, again = make(), []
    for stop in stops:
        again.append(take(iter(made), stop))
        step = made.state_dict()["step"]
        made = load(make, save(made))
        if step:
            made.set_epoch(made.epoch + 1)
    again.append(list(made))
    assert same(again, left)


@tried(10, case=cases(), stops=STOPS, epoch=st.integers(0, 4))
def test_what_a_step_draws_depends_on_no_history_where_the_length_is_unknown(
    case: Case, stops: list[int], epoch: int
) -> None:
    def make() -> CounterfactualDataset:
        return stream(DigitStream(case.num), batch_size=case.batch_size, ratio=1, seed=case.seed)

    made, fresh = make(), make()
    for stop in stops:
        take(iter(made), stop)
    for each in (made, fresh):
        each.set_epoch(epoch)
    assert same(list(made), list(fresh))


KNOWN = ("seeded", "a distributed sampler", "a list of batches", "an iterable")
"""Real data whose epoch has an order that is a function of the epoch alone."""


def make_known(case: Case, kind: str) -> CounterfactualDataset:
    if kind == "a distributed sampler":
        sampler: Any = DistributedSampler(range(case.num), case.world_size, case.world_size - 1)
        return case.stream(case.world_size - 1, shuffle=None, sampler=sampler)
    return ONE_RANK[kind](case)


@dataclass
class Running:
    """What the model knows of an iterator: the place of its next batch, once it has begun."""

    batches: Iterator[Any]
    epoch: int = 0
    step: int = 0
    begun: bool = False


class Histories(RuleBasedStateMachine):
    """A stream that is iterated, left, sent to epochs, saved and loaded, against simple rules.

    The place is (epoch, step). An `iter` goes to the next epoch if the place is inside or behind
    one, but for a place that was just loaded. Each batch is the one that a new stream, sent to the
    epoch by `set_epoch`, yields there. An iterator whose own epoch is named while it runs, and that
    goes on, says again where the stream is.
    """

    saved = Bundle("saved")

    @initialize(case=cases(), kind=st.sampled_from(KNOWN), count=st.integers(0, 3))
    def begin(self, case: Case, kind: str, count: int) -> None:
        if kind in ("a list of batches", "an iterable"):  # whose carry is not known beforehand
            case = replace(case, share=("count", Fraction(count)), mix="append")
        if kind == "an iterable":
            case = replace(case, world_size=1)
        self.case, self.kind = case, kind
        self.epochs: dict[int, list[Any]] = {}
        self.carries: dict[tuple[int, int], int] = {}
        self.running: list[Running] = []
        self.latest: Running | None = None
        self.named: Running | None = None
        self.place, self.loaded = (0, 0), False
        self.stream, self.random = make_known(case, kind), torch.get_rng_state()

    def expected(self, epoch: int) -> list[Any]:
        """The batches of an epoch of a new stream, which also tells what is left over at each."""
        if epoch not in self.epochs:
            other = make_known(self.case, self.kind)
            other.set_epoch(epoch)
            self.carries[epoch, 0] = other.state_dict()["carry"]
            self.epochs[epoch] = []
            for step, batch in enumerate(other, 1):
                self.epochs[epoch].append(batch)
                self.carries[epoch, step] = other.state_dict()["carry"]
        return self.epochs[epoch]

    def next_place(self) -> tuple[int, int]:
        epoch, step = self.place
        return (epoch + 1, 0) if step and not self.loaded else self.place

    @rule(num=st.integers(0, 9), twice=st.booleans(), older=st.integers(0, 3))
    def iterate(self, num: int, twice: bool, older: int) -> None:
        if self.kind == "an iterable":  # two iterators would share the dataset's epoch
            self.running, twice = [], False
        for _ in range(1 + twice):
            self.running = [*self.running[-1:], Running(iter(self.stream))]
            if self.next_place() != self.place:
                self.place, self.latest, self.named = self.next_place(), None, None
        self.take(self.running[-1], num)
        if self.running:
            self.take(self.running[0], older)

    @precondition(lambda self: self.running)
    @rule(num=st.integers(1, 6), oldest=st.booleans())
    def go_on(self, num: int, oldest: bool) -> None:
        self.take(self.running[0 if oldest else -1], num)

    def take(self, running: Running, num: int) -> None:
        for _ in range(num):
            if not running.begun:
                running.epoch, running.step = self.place = self.next_place()
                running.begun, self.loaded = True, False
                self.latest, self.named = running, None
            expected = self.expected(running.epoch)
            batch = next(running.batches, None)
            if running.step == len(expected):
                assert batch is None
                self.running.remove(running)
                if self.latest is running:
                    self.place, self.latest, self.named = (running.epoch + 1, 0), None, None
                return
            assert same(batch, expected[running.step])
            running.step += 1
            if self.named is running:
                self.latest, self.named = running, None
            if self.latest is running:
                self.place = (running.epoch, running.step)

    @rule()
    def leave(self) -> None:
        self.running = []

    @rule(ahead=st.integers(-2, 2), by_the_sampler=st.booleans())
    def set_epoch(self, ahead: int, by_the_sampler: bool) -> None:
        epoch = max(0, self.place[0] + ahead)
        (self.stream.sampler if by_the_sampler else self.stream).set_epoch(epoch)
        if not self.loaded or epoch != self.place[0]:
            self.named = (self.latest or self.named) if epoch == self.place[0] else None
            self.place, self.loaded, self.latest = (epoch, 0), False, None

    @rule(target=saved)
    def save(self) -> tuple[Any, tuple[int, int]]:
        return copy.deepcopy(self.stream.state_dict()), self.place

    @rule(saved=saved, anew=st.booleans(), both=st.booleans())
    def load(self, saved: tuple[Any, tuple[int, int]], anew: bool, both: bool) -> None:
        if anew:
            self.stream, self.running = make_known(self.case, self.kind), []
        state, self.place = saved
        self.stream.load_state_dict(copy.deepcopy(state))
        self.loaded, self.latest, self.named = True, None, None
        if both:  # as clients do
            self.stream.set_epoch(self.place[0])

    @rule(anew=st.booleans(), both=st.booleans())
    def interrupt(self, anew: bool, both: bool) -> None:
        self.load((copy.deepcopy(self.stream.state_dict()), self.place), anew, both)

    @rule()
    def look(self) -> None:
        epoch, step = self.next_place()
        if step == len(self.expected(epoch)):
            epoch, step = epoch + 1, 0
        seen = look_at(self.stream)
        assert (seen.epoch, seen.step) == (epoch, step)
        expected = self.expected(epoch)[step]
        if num_made(expected):
            (made,) = (part for part in parts(expected) if part.is_counterfactual.any())
            assert torch.equal(seen.made.image, made.image[made.is_counterfactual])

    @invariant()
    def the_place_is_told(self) -> None:
        state, (epoch, step) = self.stream.state_dict(), self.place
        assert (self.stream.epoch, state["epoch"], state["step"]) == (epoch, epoch, step)
        assert state["total"] == epoch * len(self.stream) + step
        self.expected(epoch)
        assert state["carry"] == self.carries[self.place]

    @invariant()
    def the_global_generator_stays(self) -> None:
        # Of what is not seeded a plain loader draws its workers' seed.
        assert self.kind != "seeded" or torch.equal(torch.get_rng_state(), self.random)


@pytest.mark.parametrize(
    "num", [pytest.param(80), pytest.param(NUM_SLOW * 80, marks=pytest.mark.slow)]
)
def test_a_stream_keeps_to_its_rules_whatever_is_done_to_it(num: int) -> None:
    run_state_machine_as_test(Histories, settings=settings(profile(num), stateful_step_count=25))
