"""Steps that are made ahead: the same bytes at any depth, and nothing is left behind."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_helpers import (
    ORDERS,
    Digits,
    DigitStream,
    StubSource,
    collect,
    global_state,
    large,
    list_of_batches,
    load,
    own,
    same,
    save,
    seed_globals,
    stream,
)
from torch import Generator
from torch.utils.data import DataLoader

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    Counterfactuals,
    FreshSource,
    Interventions,
    Placement,
    RealBatch,
    RealShapeSource,
    Step,
    match_real,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators import SmallCGN
from cgn_augment.stream.ahead import THREAD
from cgn_augment.stream.side_stream import SideStream, tensors_in

DEPTHS = (0, 1, 3)


class FreeSource(StubSource):
    """Draws without a look at real batches; knows in which threads, and can fail at a step."""

    needs_real = False

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.threads: list[str] = []

    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        self.threads.append(threading.current_thread().name)
        if step.number == self.fails_at:
            raise ZeroDivisionError(f"step {step.number}")
        made = super().sample(num, generator, step, real)
        made.images[:, :, 0, 1] = step.number / 10**4
        return made

    @property
    def is_in_a_thread(self) -> list[bool]:
        return [name.startswith(THREAD) for name in self.threads]


class ApartSource(FreeSource):
    """Looks at real batches, also in a thread."""

    needs_real = True
    draws_apart = True

    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        made = super().sample(num, generator, step, real)
        assert real is not None
        made.images[:, :, 0, 0] = real.images.double().mean().float()
        return made


class WithMasks(Digits):
    """Images of a CGN's size, whose dark half is the object, with their masks."""

    def __getitem__(self, index: int) -> Any:
        _, label = super().__getitem__(index)
        image = torch.full((3, 32, 32), 0.5)
        image[:, 4 : 8 + index % 16] = -0.5
        return image, label, find_dark(image[None])[0]


def find_dark(images: torch.Tensor) -> torch.Tensor:
    return (images[:, :1] < 0).float()


REAL: dict[str, Callable[[], dict[str, Any]]] = {
    "a dataset": lambda: {},
    "with noise": lambda: {"real": Digits(19, noise=True), "batch_size": 4},
    "with seeded noise": lambda: {
        "real": Digits(19, noise=True),
        "batch_size": 4,
        "seed_items": True,
    },
    "batches": lambda: {"real": list_of_batches(18)},
    "a loader": lambda: {"real": DataLoader(Digits(18), 4, shuffle=True)},
    "an iterable": lambda: {"real": DigitStream(18), "batch_size": 4},
    **{name: lambda make=make: {"num": 19, **make()} for name, make in ORDERS.items()},  # type: ignore[misc]
}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith(THREAD)]


class FakeStream:
    """Stands for a CUDA stream; what it is told happens at once on a CPU."""

    def wait_stream(self, other: Any) -> None:
        assert other is not self

    def wait_event(self, event: Any) -> None:
        assert event == "event"

    def record_event(self) -> str:
        return "event"


@pytest.fixture(params=["thread", "thread that gets real batches", "side stream"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to make steps ahead; that of a GPU runs on the CPU with streams that do nothing."""
    if request.param == "side stream":
        current, inside = FakeStream(), FakeStream()
        monkeypatch.setattr("torch.cuda.Stream", lambda device: inside)
        monkeypatch.setattr("torch.cuda.current_stream", lambda device: current)
        monkeypatch.setattr("torch.cuda.stream", lambda side: torch.no_grad())
        monkeypatch.setattr("torch.Tensor.pin_memory", lambda images: images.clone())
    return str(request.param)


def make(lane: str, depth: int, source: Any = None, **options: Any) -> CounterfactualDataset:
    default = ApartSource() if lane == "thread that gets real batches" else FreeSource()
    train = stream(source=source or default, prefetch=depth, **options)
    if lane == "side stream":
        train._side = SideStream(torch.device("cpu"))
    return train


# The same bytes


@pytest.mark.parametrize("kind", REAL)
def test_no_depth_changes_a_bit(lane: str, kind: str) -> None:
    runs = []
    for depth in DEPTHS:
        seed_globals(1)
        train = make(lane, depth, ratio=0.6, output="namedtuple", **REAL[kind]())
        seed_globals(2)
        seen = []
        for _ in range(2):
            for batch in train:
                # The side stream draws before the loop what the loop would draw too.
                drawn = None if lane == "side stream" else torch.rand(1)
                seen.append((batch, drawn, train.state_dict()))
        runs.append((seen, global_state()))
    assert len(runs[0][0]) >= 8
    assert same(*runs[:2])
    assert same(runs[0], runs[2])


OPTIONS = st.fixed_dictionaries(
    {
        "mix": st.sampled_from(["append", "replace", "separate"]),
        "ratio": st.sampled_from([0.0, 0.3, 1.0]),
        "label": st.sampled_from(["shape", "all"]),
        "seed": st.integers(0, 3),
    }
)
MOVES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=3)


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    options=OPTIONS,
    moves=MOVES,
    mapped=st.booleans(),
    kind=st.sampled_from(["a dataset", "batches"]),
)
def test_no_depth_changes_a_history(
    lane: str, options: dict[str, Any], moves: list[tuple[int, bool]], mapped: bool, kind: str
) -> None:
    """Epochs that are broken off, saved in the middle, and gone on with in a new stream."""
    if mapped:
        options = {**options, "class_map": {y: 9 - y for y in range(10)}}

    def run(depth: int) -> list[Any]:
        def again() -> CounterfactualDataset:
            real = {"num": 18} if kind == "a dataset" else REAL[kind]()
            return make(lane, depth, **options, **real)

        train, seen = again(), list[Any]()
        for num, resumes in moves:
            steps = iter(train)
            seen += islice(steps, num)
            seen.append(train.state_dict())
            if resumes:
                train = load(again, save(train))
            del steps
        return [*seen, *train]

    runs = [run(depth) for depth in DEPTHS]
    assert same(*runs[:2])
    assert same(runs[0], runs[2])


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_bank_that_is_refreshed_draws_the_same(lane: str, storage: Any) -> None:
    cgn = SmallCGN().freeze()

    def run(depth: int) -> list[Any]:
        source = BankSource(cgn, 20, 3, storage=storage)
        batches = [large(4)] * 3 + [large(3)]  # the last one is not as was expected
        train = make(lane, depth, source, real=batches, ratio=0.8, transform=match_real(0.5, 0.5))
        return [*islice(train, 2), *train, *train]

    runs = [run(depth) for depth in DEPTHS]
    assert same(*runs[:2])
    assert same(runs[0], runs[2])


@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
    ],
)
def test_how_the_loop_computes_changes_nothing(lane: str, mode: Callable[[], Any]) -> None:
    cgn = SmallCGN().freeze()
    plain, *others = (
        make(lane, depth, FreshSource(cgn), real=[large()] * 4, count=2) for depth in (0, 0, 2)
    )
    expected = collect(plain)
    for train in others:
        with mode():
            made = collect(train)
        assert same(made, expected)


def test_another_default_type_leaves_drawing_to_the_loop() -> None:
    source, expected = FreeSource(), collect(make("thread", 0))
    train = make("thread", 2, source)
    torch.set_default_dtype(torch.float64)
    try:
        made = collect(train)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert not any(source.is_in_a_thread)
    assert [len(labels) for _, labels in made] == [len(labels) for _, labels in expected]


# What is drawn where


@pytest.mark.parametrize("kind", [FreeSource, ApartSource])
def test_a_thread_makes_steps_from_the_third_on(kind: type[FreeSource]) -> None:
    source = kind()
    collect(make("thread", 2, source), 2)
    assert source.is_in_a_thread == [False, False, True, True, True] * 2
    assert [step.number for step in source.steps] == list(range(10))


def test_a_thread_draws_without_batches_that_cannot_be_read_early() -> None:
    source = FreeSource()
    collect(make("thread", 2, source, real=Digits(20, noise=True), batch_size=4), 2)
    assert source.is_in_a_thread == [False, False, False, True, True] * 2
    assert [step.number for step in source.steps] == list(range(10))


@pytest.mark.parametrize("kind", [FreeSource, ApartSource])
@pytest.mark.parametrize("inside", [True, False], ids=["in match_real", "alone"])
def test_a_transform_of_the_users_runs_in_the_loop(kind: type[FreeSource], inside: bool) -> None:
    threads: list[threading.Thread] = []

    class Noise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            threads.append(threading.current_thread())
            return images * torch.rand(len(images), 1, 1, 1)

    def run(depth: int) -> Any:
        transform = match_real(0.5, 0.5, augment=Noise()) if inside else Noise()
        seed_globals(1)
        return collect(make("thread", depth, kind(), transform=transform)), global_state()

    assert same(run(0), run(2))
    assert set(threads) == {threading.main_thread()}


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_drawn_ahead_than_was_asked_for(depth: int) -> None:
    source = FreeSource()
    steps = iter(make("thread", depth, source, num=80))
    for done in range(1, 8):
        next(steps)
        assert done <= len(source.steps) <= done + depth
    steps.close()  # type: ignore[attr-defined]
    assert len(source.steps) <= 7 + depth


def test_a_source_that_does_not_say_draws_in_time() -> None:
    train = make("thread", 2, StubSource())
    for _ in train:
        assert not [each for each in threading.enumerate() if each.name.startswith(THREAD)]


def test_data_without_a_length_is_read_ahead() -> None:
    source = FreeSource()
    collect(make("thread", 2, source, real=DigitStream(18), batch_size=4))
    assert source.is_in_a_thread == [False, False, True, True, True]


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_ahead_than_was_asked_for(depth: int) -> None:
    read: list[int] = []

    class Counted(Digits):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    steps = iter(make("thread", depth, ApartSource(), real=Counted(80), batch_size=4))
    for done in range(1, 12):
        next(steps)
        assert len(read) == 4 * (done + (depth if done > 1 else 0))
    steps.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("draw", [torch.rand, np.random.rand, lambda _: random.random()])
def test_data_that_draws_from_a_global_generator_is_not_read_ahead(draw: Any) -> None:
    class Noisy(Digits):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image * float(torch.as_tensor(draw(1))), label

    source = ApartSource()
    collect(make("thread", 3, source, real=Noisy(40), batch_size=4))
    assert not any(source.is_in_a_thread)
    assert len(source.threads) == 10


def test_data_that_begins_to_draw_late_is_read_in_time_from_then_on() -> None:
    class LateNoise(Digits):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return (image * float(torch.rand(1)) if index >= 20 else image), label

    source = ApartSource()
    train = make("thread", 1, source, real=LateNoise(40), batch_size=4, shuffle=False)
    assert len(collect(train)) == 10
    assert source.is_in_a_thread == [False] * 2 + [True] * 4 + [False] * 4


@pytest.mark.parametrize("kind", ["masker", "cached", "from the batch", "placed", "permute"])
def test_sources_that_need_the_real_batch_draw_the_same(lane: str, kind: str) -> None:
    cgn = SmallCGN().freeze()

    def source() -> Any:
        if kind == "permute":
            return FreshSource(cgn, Interventions("permute"))
        bank = BankSource(cgn, 20, 3)
        if kind == "from the batch":
            return RealShapeSource(None, bank, masks=2, gate=None)
        placement = Placement() if kind == "placed" else None
        return RealShapeSource(
            find_dark, bank, gate=None, cache_masks=kind == "cached", placement=placement
        )

    def run(depth: int) -> list[Any]:
        fill = None if kind == "from the batch" else {2: 0.0}
        real = {"real": WithMasks(26), "batch_size": 4, "ratio": 0.8, "fill": fill}
        train = make(lane, depth, source(), transform=match_real(0.5, 0.5), **real)
        drawn = []
        for batch in [*islice(train, 4), *train, *train]:
            drawn += [batch, None if lane == "side stream" else torch.rand(1)]
        return drawn

    runs = []
    for depth in DEPTHS:
        seed_globals(3)
        runs.append((run(depth), global_state()))
    assert same(*runs[:2])
    assert same(runs[0], runs[2])


def test_an_impossible_label_is_reported_at_its_own_step_as_ever() -> None:
    def run(depth: int) -> str:
        batches = [large(4)] * 5
        batches[4] = batches[4][0], torch.full((4,), 10)
        source = FreshSource(SmallCGN().freeze(), Interventions("permute"))
        steps = iter(make("thread", depth, source, real=batches))
        assert len([*islice(steps, 4)]) == 4
        with pytest.raises(ArgumentError) as caught:
            next(steps)
        return str(caught.value)

    assert run(0) == run(2)


def test_a_batch_of_another_size_is_drawn_anew() -> None:
    sizes = [4, 4, 2, 4, 3]
    batches = [large(num) for num in sizes]
    source = FreshSource(SmallCGN().freeze())
    expected = collect(make("thread", 0, source, real=batches))
    made = collect(make("thread", 2, source, real=batches))
    assert [len(labels) for _, labels in made] == [2 * num for num in sizes]
    assert same(made, expected)


# Errors, and what is left behind


def count_until(error: type[Exception], match: str, train: CounterfactualDataset) -> int:
    """The batches that a stream yields before an error."""
    steps = iter(train)
    seen: deque[Any] = deque()
    with pytest.raises(error, match=match):
        seen.extend(steps)
    assert list(steps) == []
    return len(seen)


def test_an_error_comes_at_its_own_step_as_it_is(lane: str) -> None:
    kind = ApartSource if lane == "thread that gets real batches" else FreeSource
    train = make(lane, 3, kind(fails_at=3))
    assert count_until(ZeroDivisionError, "step 3", train) == 3
    assert train.state_dict()["step"] == 3


def test_an_error_of_the_real_data_comes_at_its_own_step(lane: str) -> None:
    class Broken(Digits):
        def __getitem__(self, index: int) -> Any:
            if index == 9:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    train = make(lane, 3, real=Broken(), batch_size=4, shuffle=False)
    assert count_until(OSError, "the disk is gone", train) == 2


def test_an_error_of_the_ratio_comes_at_its_own_step(lane: str) -> None:
    train = make(lane, 2, ratio=lambda step: 1 / (3 - step))
    assert count_until(ZeroDivisionError, "division", train) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_a_loop_that_ends_early_leaves_nothing(
    lane: str, error: type[BaseException] | None
) -> None:
    train = make(lane, 3, num_workers=1)

    def loop() -> None:
        for _ in train:
            if error is not None:
                raise error
            break

    if error is None:
        loop()
    else:
        with pytest.raises(error):
            loop()
    assert not [each for each in threading.enumerate() if each.name.startswith(THREAD)]
    assert len(collect(train)) == 5


def test_two_streams_may_share_a_bank() -> None:
    cgn = SmallCGN().freeze()
    shared = BankSource(cgn, 20, 2)
    pairs = [
        [make("thread", depth, bank, real=[large()] * 6, seed=seed) for seed in (1, 2)]
        for depth, bank in ((0, BankSource(cgn, 20, 2)), (2, shared))
    ]
    expected, made = ([*zip(*pair, strict=True)] for pair in pairs)
    assert same(made, expected)


def test_a_copy_prefetches_too(lane: str) -> None:
    train = make(lane, 2)
    first = collect(train)
    for twin in (copy.deepcopy(make(lane, 2)), pickle.loads(pickle.dumps(make(lane, 2)))):
        assert twin.prefetch == 2
        assert same(collect(twin), first)
    assert train._side is None or pickle.loads(pickle.dumps(train._side))._stream is None


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_a_loader_with_a_state_of_its_own_goes_on_after_what_was_yielded(lane: str) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def again() -> CounterfactualDataset:
        loader = StatefulDataLoader(Digits(20), 4, shuffle=True, generator=own())
        return make(lane, 2, real=loader)

    train = again()
    steps = iter(train)
    next(steps)
    next(steps)
    saved = save(train)
    rest = list(steps)
    assert len(rest) == 3
    assert same(list(load(again, saved)), rest)


def test_a_state_says_nothing_of_the_depth(lane: str) -> None:
    train = make(lane, 3)
    steps = iter(train)
    next(steps)
    rest = make(lane, 0)
    rest.load_state_dict(train.state_dict())
    assert same(list(rest), list(steps))


# Arguments


@pytest.mark.parametrize(
    ("depth", "error"),
    [
        (-1, ArgumentError),
        (1.5, ArgumentTypeError),
        (True, ArgumentTypeError),
        (1025, ArgumentError),
        (10**7, ArgumentError),
    ],
)
def test_a_depth_is_a_count_of_at_most_1024(depth: Any, error: type[Exception]) -> None:
    assert stream(prefetch=1024).prefetch == 1024
    with pytest.raises(error, match="prefetch must be"):
        stream(prefetch=depth)


def test_other_devices_are_refused() -> None:
    source = FreeSource()
    source.device = torch.device("meta")  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match=r"prefetch.*'meta'"):
        stream(source=source, prefetch=1)


def test_tensors_are_found_however_deep_they_are() -> None:
    parts = [torch.full((1,), float(i)) for i in range(4)]
    batch = {"a": parts[0], "b": [parts[1], ("name", parts[2])], "c": SimpleNamespace(x=parts[3])}
    assert [int(part) for part in tensors_in(batch)] == [0, 1, 2]
