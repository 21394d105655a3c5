"""Numbers of arguments and settings: what counts as one, and from when on it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from stream_helpers import stream

from cgn_augment import BankSource
from cgn_augment.checks import require_count, require_counts
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig

INTEGERS = [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]


@pytest.mark.parametrize("value", INTEGERS)
def test_what_behaves_as_an_integer_is_one(value: Any) -> None:
    assert type(require_count("num", value)) is int
    config = ShardConfig(num=value, seed=value)
    assert config == ShardConfig(num=3, seed=3)
    assert type(config.num) is type(config.seed) is int
    assert stream(batch_size=value, seed=value).batch_sampler.batch_size == 3


@pytest.mark.parametrize("value", [True, np.bool_(True), 2.0, "2", None, np.array([1, 2]), 1j])
def test_what_does_not_is_none(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="num must be an integer, got"):
        require_count("num", value)


def test_a_number_that_no_generator_takes_is_known_when_things_are_made(
    tiny_cgn: SmallCGN,
) -> None:
    for make in (
        lambda: stream(seed=2**64),
        lambda: BankSource(tiny_cgn, seed=2**64),
        lambda: ShardConfig(num=1, seed=2**64),
    ):
        with pytest.raises(ArgumentError, match="seed must be below 2"):
            make()
    next(iter(stream(seed=2**64 - 1)))


def test_settings_become_plain_integers() -> None:
    @dataclass(frozen=True)
    class Config:
        num: Any

    config = Config(np.int32(4))
    require_counts(config, "num")
    assert type(config.num) is int
