"""CUDA streams take turns with the tensors of a bank; here with streams that only keep a log."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from cgn_augment.sources.turns import Turns

GPU = torch.device("cuda")


class Logged:
    """Stands for a stream and for its event, or for a tensor that streams use."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def wait_event(self, event: Any) -> None:
        self.log.append(event)

    def record_event(self, event: Any) -> Any:
        return event or object()

    def record_stream(self, stream: Any) -> None:
        self.log.append(stream)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Logged]:
    """Two streams, of which the first is the current one until they are turned round."""
    pair = [Logged(), Logged()]
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: pair[0])
    return pair


def test_a_stream_waits_for_another_one_and_not_for_itself(streams: list[Logged]) -> None:
    turns, kept, (one, two) = Turns(), Logged(), list(streams)
    for _ in range(2):
        with turns.take(GPU, [kept]):  # type: ignore[list-item]
            pass
    assert one.log == kept.log == []
    assert turns._last is not None
    event = turns._last[1]
    streams.reverse()
    with turns.take(GPU, [kept]):  # type: ignore[list-item]
        assert two.log == [event]
    assert kept.log == [two]
    streams.reverse()
    with turns.take(GPU, [kept]):  # type: ignore[list-item]
        assert len(one.log) == 1


def test_the_next_one_waits_also_where_this_one_failed(streams: list[Logged]) -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.take(GPU, []):
        raise ZeroDivisionError
    streams.reverse()
    with turns.take(GPU, []):
        assert len(streams[0].log) == 1


def test_a_copy_begins_anew(streams: list[Logged]) -> None:
    turns = Turns()
    with turns.take(GPU, []):
        pass
    for twin in (copy.deepcopy(turns), pickle.loads(pickle.dumps(turns))):
        assert twin._last is None
