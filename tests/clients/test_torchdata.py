"""torchdata's StatefulDataLoader, inside a stream and around one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from client_helpers import check_epoch, stream
from stream_helpers import Digits, DigitStream, collect, picture, same
from torchdata.stateful_dataloader import StatefulDataLoader

from cgn_augment import CounterfactualDataset

# torchdata 0.11 makes its loaders with a call that torch 2.14 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


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


def test_a_stateful_loader_can_be_wrapped() -> None:
    train = stream(StatefulDataLoader(Digits(19), 4, shuffle=True))
    assert len(train) == 5
    first, second = list(train), list(train)
    check_epoch(first)
    check_epoch(second)
    assert not same(first, second)


@pytest.mark.parametrize("step", [1, 3])
def test_a_stateful_loader_around_a_stream_saves_and_restores_its_state(step: int) -> None:
    def make() -> StatefulDataLoader[Any]:
        return StatefulDataLoader(stream(num=19), batch_size=None)

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
