"""How many counterfactuals a step gets."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cgn_augment import OffAfter, Ramp
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import UNIT
from cgn_augment.stream.mixing import Proportion


def counts_of(proportion: Proportion, batch_sizes: list[int]) -> list[int]:
    """The number of counterfactuals at each step."""
    carry, counts = 0, []
    for step, num_real in enumerate(batch_sizes):
        num, carry = proportion.split(step, num_real, carry)
        counts.append(num)
    return counts


# derived values


@pytest.mark.parametrize(("mix", "count"), [("append", 16), ("separate", 16), ("replace", 12)])
@pytest.mark.parametrize("name", ["ratio", "count", "fraction"])
def test_the_three_ways_say_the_same(name: str, mix: str, count: int) -> None:
    same = {"ratio": 1 / 3, "count": count, "fraction": 0.25}
    proportion = Proportion(**{name: same[name]}, mix=mix, batch_size=48)
    assert proportion.ratio == pytest.approx(1 / 3)
    assert proportion.count == pytest.approx(count)
    assert proportion.fraction == pytest.approx(0.25)
    assert counts_of(proportion, [48] * 100) == [count] * 100


@pytest.mark.parametrize(
    ("given", "sizes", "counts"),
    [
        ({}, [3, 64, 1], [3, 64, 1]),
        ({"ratio": 2}, [5], [10]),
        ({"ratio": np.float32(0.5)}, [4, 3, 3], [2, 1, 2]),
        ({"ratio": Fraction(1, 2)}, [4, 3, 3], [2, 1, 2]),
        ({"ratio": 0.0}, [64] * 20, [0] * 20),
        ({"count": 7}, [5], [7]),
        ({"count": 2.5}, [4, 100, 1, 9], [2, 3, 2, 3]),
        ({"count": 0}, [64] * 20, [0] * 20),
        ({"fraction": 0.0}, [64] * 20, [0] * 20),
        ({"fraction": 1, "mix": "replace"}, [5], [5]),
        ({"fraction": 1, "mix": "replace", "batch_size": 8}, [8, 8], [8, 8]),
        ({"count": 8, "mix": "replace", "batch_size": 8}, [8, 5], [8, 5]),
        # A smaller last batch gets its share.
        ({"count": 12, "mix": "replace", "batch_size": 16}, [16, 16, 4, 16], [12, 12, 3, 12]),
        ({"count": 5, "batch_size": 4}, [3], [5]),
        ({"ratio": OffAfter(0.5, num_steps=3)}, [4] * 5, [2, 2, 2, 0, 0]),
        ({"ratio": Ramp(0.0, 1.0, 4)}, [8] * 6, [0, 2, 4, 6, 8, 8]),
        ({"ratio": Ramp(2.0, 1.0, 2)}, [2] * 4, [4, 3, 2, 2]),
        ({"ratio": Ramp(0.0, 1.0, 0)}, [2], [2]),
        ({"ratio": float, "mix": "replace"}, [12] * 4, [0, 6, 8, 9]),
    ],
)
def test_numbers_of_any_kind_say_how_many(
    given: dict[str, Any], sizes: list[int], counts: list[int]
) -> None:
    assert counts_of(Proportion(**given), sizes) == counts


def test_replacing_everything_leaves_no_real_image() -> None:
    for given in ({"fraction": 1.0}, {"count": 8}):
        assert Proportion(**given, mix="replace", batch_size=8).ratio == math.inf


def test_a_proportion_shows_what_it_knows() -> None:
    assert repr(Proportion(ratio=0.5)) == "Proportion(ratio=0.5, fraction=0.3333)"
    assert repr(Proportion(fraction=0.5)) == "Proportion(ratio=1, fraction=0.5)"
    assert repr(Proportion(count=5)) == "Proportion(count=5)"
    assert repr(Proportion(OffAfter(1.0, 5))) == (
        "Proportion(ratio=OffAfter(ratio=1.0, num_steps=5))"
    )


# exactness


@pytest.mark.parametrize(
    ("given", "mix", "share"),
    [
        ({"ratio": 0.1}, "append", Fraction(1, 10)),
        ({"ratio": 0.7}, "append", Fraction(7, 10)),
        ({"ratio": 0.7}, "replace", Fraction(7, 17)),
        ({"fraction": 0.1}, "append", Fraction(1, 9)),
        ({"fraction": 0.1}, "replace", Fraction(1, 10)),
    ],
)
@pytest.mark.parametrize("num_real", [1, 7, 64])
def test_the_sum_of_the_counts_is_the_exact_share(
    given: dict[str, float], mix: str, share: Fraction, num_real: int
) -> None:
    num_steps = 1530
    counts = counts_of(Proportion(**given, mix=mix), [num_real] * num_steps)
    assert sum(counts) == share * num_real * num_steps // 1
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_decimal_is_read_as_it_is_written(tenths: int) -> None:
    assert Proportion(ratio=tenths / 10).split(0, 10, 0) == (tenths, 0)
    assert Proportion(count=tenths / 10).split(0, 3, UNIT // 10 * (10 - tenths)) == (1, 0)


@pytest.mark.parametrize(
    "proportion",
    [
        Proportion(ratio=0.3),
        Proportion(ratio=0.3, mix="replace"),
        Proportion(fraction=0.3),
        Proportion(count=2.7),
        Proportion(Ramp(0.0, 0.9, 50)),
    ],
)
def test_the_carry_after_steps_is_the_carry_of_taking_them(proportion: Proportion) -> None:
    sizes = [5, 5, 5, 2, 5, 5, 5, 2]
    carry = 0
    for step, num_real in enumerate(sizes):
        assert proportion.carry_after(sizes[:step]) == carry
        carry = proportion.split(step, num_real, carry)[1]


def test_the_key_tells_proportions_apart() -> None:
    def warm_up(step: int) -> float:
        return 0.5

    different = [
        Proportion(ratio=0.5),
        Proportion(ratio=0.6),
        Proportion(count=0.5),
        Proportion(ratio=0.5, mix="replace"),
        Proportion(Ramp(0, 1, 5)),
        Proportion(Ramp(0, 1, 6)),
        Proportion(OffAfter(0.5, 5)),
        Proportion(warm_up),
    ]
    assert len({proportion.key for proportion in different}) == len(different)
    assert Proportion(ratio=1.0).key == Proportion(fraction=0.5).key
    assert "warm_up" in Proportion(warm_up).key
    assert "0x" not in Proportion(warm_up).key


# arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 5, "fraction": 0.5}, "got count and fraction: the others follow"),
        ({"ratio": 0.0, "fraction": 0.0}, "got ratio and fraction: the others follow"),
        ({"ratio": Ramp(0, 1, 5), "count": 5}, "give one of .* got ratio and count: the"),
        ({"ratio": 1.0, "count": 5, "fraction": 0.5}, "got ratio and count and fraction: the"),
        *(
            ({name: value}, f"{name} must be finite and 0 or more, got {value}")
            for name in ("ratio", "count", "fraction")
            for value in (math.nan, math.inf, -0.001)
        ),
        *(
            ({"fraction": value, "mix": mix}, f"must be below 1 with .* at most 1 .* got {value}")
            for value, mix in [(1.0, "append"), (1, "separate"), (1.5, "replace"), (2, "append")]
        ),
        ({"count": 5, "mix": "replace", "batch_size": 4}, "cannot put 5 .* a batch of 4: lower"),
        ({"count": 4.5, "mix": "replace", "batch_size": 4}, "cannot put 5 .* into a batch of 4"),
        ({"count": 5, "mix": "replace"}, r"mix='replace' cannot put 5 .* into a batch of 3"),
        ({"ratio": lambda _: math.nan}, "schedule at step 2 must be finite and 0 or more, got nan"),
        ({"ratio": lambda _: -0.5}, "schedule at step 2 must be finite and 0 or more, got -0.5"),
    ],
)
def test_a_share_that_cannot_be_is_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Proportion(**given).split(2, 3, 0)


@pytest.mark.parametrize("name", ["ratio", "count", "fraction"])
@pytest.mark.parametrize("value", [True, "0.5", [0.5], Decimal("0.5")])
def test_a_share_that_is_no_number_is_an_error(name: str, value: object) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{name} must be a number, got "):
        Proportion(**{name: value})


def test_a_schedule_that_returns_no_number_is_an_error() -> None:
    with pytest.raises(ArgumentTypeError, match="schedule at step 3 must be a number, got None"):
        Proportion(lambda step: None).split(3, 8, 0)
