"""Accelerate: its loaders inside a stream, and a stream in its loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, debug_launcher, skip_first_batches
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from client_helpers import TinyNet, check_epoch, expected, seen, step_on, steps_of, stream
from stream_helpers import Digits, DigitStream, Run, check_resume, list_of_batches, same
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader, RandomSampler

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import UsageError

# torchdata 0.11 makes its loaders with a call that torch 2.14 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


@pytest.fixture
def accelerators() -> Iterator[Any]:
    """Makes accelerators for the CPU, whose global state is gone afterwards."""

    def make(stateful: bool = False, **options: Any) -> Accelerator:
        configuration = DataLoaderConfiguration(use_stateful_dataloader=stateful, **options)
        return Accelerator(cpu=True, dataloader_config=configuration)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert not PartialState._shared_state


# Its loaders inside a stream


@pytest.mark.parametrize("stateful", [False, True])
def test_a_prepared_loader_can_be_wrapped(accelerators: Any, stateful: bool) -> None:
    train = stream(accelerators(stateful).prepare(DataLoader(Digits(19), 4, shuffle=True)))
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


# A stream in its loop


@pytest.mark.parametrize("options", [{}, {"dispatch_batches": True}, {"split_batches": True}])
def test_its_own_loop_trains_on_the_stream(accelerators: Any, options: dict[str, bool]) -> None:
    accelerator, train = accelerators(**options), stream().as_loader()
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, train)
    assert loader is train
    assert len(loader) == 5
    steps = []
    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                step_on(model, optimizer, batch, accelerator.backward)
            steps.append(seen(batch[0]))
    assert steps == expected(2)


def test_a_prepared_plain_loader_of_a_stream_keeps_the_mixing(accelerators: Any) -> None:
    plain, train = stream(num=19), stream(num=19)
    prepared = accelerators().prepare(DataLoader(train, batch_size=None))
    assert len(prepared) == 5
    for _ in range(2):
        batches = list(prepared)
        check_epoch(batches)
        assert same([list(batch) for batch in batches], [list(batch) for batch in plain])


@pytest.mark.parametrize("num", [0, 1, 4, 5])
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_first_batches_are_skipped_exactly(accelerators: Any, num: int, epoch: int) -> None:
    accelerator, train = accelerators(), stream()
    loader = accelerator.prepare(train.as_loader())
    whole = expected(3)
    loader.set_epoch(epoch)
    skipping = accelerator.skip_first_batches(loader, num)
    assert steps_of(skipping) == whole[5 * epoch + num : 5 * epoch + 5]
    # Its tutorial goes on with the loader itself.
    assert steps_of(loader) == whole[5 * epoch + 5 : 5 * epoch + 10]


@pytest.mark.parametrize(
    "real", [Digits(), DigitStream(), list_of_batches(), DataLoader(Digits(), 4, shuffle=True)]
)
def test_a_loader_rebuilt_of_a_bare_stream_is_an_error(real: Any) -> None:
    options = {} if isinstance(real, (list, DataLoader)) else {"batch_size": 4}
    train = stream(real, **options)
    with pytest.raises(UsageError, match=r"as_loader\(\)"):
        list(skip_first_batches(train, 2))
    train.set_epoch(0)
    rest = list(skip_first_batches(train.as_loader(), 2))
    assert len(rest) == 3
    assert all(len(made) == 2 for _, made in steps_of(rest))


@pytest.mark.parametrize(("epoch", "num"), [(0, 2), (1, 4), (1, 5)])
@pytest.mark.parametrize("registered", [False, True])
def test_its_checkpoint_holds_the_streams_state(
    accelerators: Any, tmp_path: Path, registered: bool, epoch: int, num: int
) -> None:
    def start() -> tuple[Accelerator, Any, CounterfactualDataset]:
        accelerator, train = accelerators(), stream()
        if registered:  # a bare stream, in a loop of one's own
            accelerator.register_for_checkpointing(train)
        return accelerator, train if registered else accelerator.prepare(train.as_loader()), train

    accelerator, loader, _ = start()
    for _ in range(epoch):
        list(loader)
    list(islice(loader, num))
    accelerator.save_state(tmp_path)

    accelerator, loader, train = start()
    accelerator.load_state(tmp_path)
    assert steps_of(loader) == expected(2)[5 * epoch + num : 5 * epoch + 5]
    assert train.epoch == epoch + 1
    assert steps_of(loader) == expected(3)[5 * epoch + 5 : 5 * epoch + 10]


def test_a_loaded_place_is_not_skipped_once_more(accelerators: Any, tmp_path: Path) -> None:
    """Its tutorial loads the state and then skips, which is for loaders without a state."""
    accelerator = accelerators()
    loader = accelerator.prepare(stream().as_loader())
    list(loader)
    list(islice(loader, 3))
    accelerator.save_state(tmp_path)

    accelerator = accelerators()
    loader = accelerator.prepare(stream().as_loader())
    accelerator.load_state(tmp_path)
    with pytest.raises(UsageError, match=r"goes on at step 3 .* leave out 3 more"):
        list(accelerator.skip_first_batches(loader, 3))
    assert steps_of(loader) == expected(2)[8:]
    assert steps_of(loader) == expected(3)[10:]


def test_skipping_in_an_epoch_that_nobody_has_named_is_an_error(accelerators: Any) -> None:
    loader = accelerators().prepare(stream().as_loader())
    with pytest.raises(UsageError, match="set_epoch"):
        list(skip_first_batches(loader, 3))


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("num", [2, 3])
def test_accumulated_gradients_are_stepped_on_at_the_end_of_an_epoch(
    accelerators: Any, num: int, skip: int
) -> None:
    """As with a loader of its own: five batches by two are three steps of the optimizer."""

    def steps_with(train: Any) -> list[bool]:
        accelerator = accelerators()
        accelerator.gradient_accumulation_steps = num
        model = TinyNet()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model, optimizer, loader = accelerator.prepare(model, optimizer, train)
        loader.set_epoch(0)
        stepped = []
        for part in (accelerator.skip_first_batches(loader, skip), loader):
            for batch in part:
                with accelerator.accumulate(model):
                    step_on(model, optimizer, batch, accelerator.backward)
                    stepped.append(accelerator.sync_gradients)
        return stepped

    plain = steps_with(DataLoader(Digits(20), 4, shuffle=True))
    assert steps_with(stream().as_loader()) == plain
    assert plain[4 - skip] is True


def iterate_prepared() -> None:
    torch.set_num_threads(1)
    train = stream(num=24)
    list(Accelerator(cpu=True).prepare(DataLoader(train, batch_size=None)))


def test_a_plain_loader_that_two_ranks_would_slice_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with pytest.raises(ProcessRaisedException, match=r"as_loader\(\)"):
        debug_launcher(iterate_prepared, num_processes=2)
