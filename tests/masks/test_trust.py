"""Which masks are used."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from cgn_augment import MaskGate
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.masks.trust import VERDICTS, GateCounter


def square(side: int, value: float = 1.0) -> Tensor:
    """A mask (1, 10, 10) with a square of `side` pixels."""
    mask = torch.zeros(1, 10, 10)
    mask[:, :side, :side] = value
    return mask


def verdicts(gate: MaskGate, *masks: Tensor) -> list[str]:
    return [VERDICTS[number] for number in gate.judge(torch.stack(masks)).tolist()]


def test_masks_are_judged_by_area_and_then_by_confidence() -> None:
    gate = MaskGate(min_area=0.05, max_area=0.8, min_confidence=0.9)
    unsure = square(5) * 0.98 + 0.2 * (1 - square(5))  # outside |2m - 1| is 0.6
    masks = square(2), square(3), square(8), square(9), torch.full((1, 10, 10), 0.5), unsure
    assert verdicts(gate, *masks) == ["empty", "usable", "usable", "full", "empty", "unsure"]
    assert verdicts(MaskGate(0, 1, 0), *masks) == ["usable"] * 6


def test_a_gate_may_refuse_what_touches_the_border_and_several_objects() -> None:
    corner, inner = square(5), torch.zeros(1, 10, 10)
    inner[:, 1:9, 1:9] = 1
    bar, two, near = torch.zeros(1, 10, 10), inner.clone(), inner.clone()
    bar[:, :5] = 1  # left, top and right
    two[:, :, 4:6] = 0  # of 24 and of 24
    near[:, :, 2:4] = 0  # of 8 and of 40
    masks = corner, inner, bar, two, near
    assert verdicts(MaskGate(), *masks) == ["usable"] * 5
    found = verdicts(MaskGate(max_sides=2, max_second=0.5), *masks)
    assert found == ["usable", "usable", "border", "several", "usable"]
    assert verdicts(MaskGate(max_sides=1), corner) == ["border"]
    assert verdicts(MaskGate(max_second=0.2), near) == ["usable"]  # at its limit
    assert verdicts(MaskGate(max_second=0.19), near) == ["several"]
    strict = MaskGate(max_sides=0, max_second=0)
    assert verdicts(strict, square(1), square(10)) == ["empty", "full"]
    assert MaskGate(max_second=0.5).judge(torch.zeros(0, 1, 4, 4)).shape == (0,)


def test_a_gate_is_at_its_limits_still_open() -> None:
    gate = MaskGate(min_area=0.04, max_area=0.25, min_confidence=1.0)
    found = verdicts(gate, square(2), square(5), square(1), square(6))
    assert found == ["usable", "usable", "empty", "full"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area": -0.1}, "got -0.1 and 0.8"),
        ({"min_area": 0.9}, "got 0.9 and 0.8"),
        ({"max_area": 1.1}, "got 0.02 and 1.1"),
        ({"max_sides": 5}, "max_sides must be 0 to 4, got 5"),
        ({"max_second": 1.1}, r"max_second must be in \[0, 1\], got 1.1"),
        ({"min_confidence": 1.5}, r"min_confidence must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_gate_that_makes_no_sense_is_an_error(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MaskGate(**settings)


def test_verdicts_are_counted_and_many_bad_ones_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counter = GateCounter(MaskGate())
    good, bad, full = square(5), square(1), square(10)
    with caplog.at_level(logging.WARNING):
        usable = counter.usable(torch.stack([good] * 31 + [bad] * 32))
        assert usable.tolist() == [True] * 31 + [False] * 32
        assert caplog.messages == []  # too few to say
        GateCounter(MaskGate()).usable(torch.stack([good] * 32 + [bad] * 32))
        assert caplog.messages == []  # half may be left out
        counter.usable(torch.stack([full, square(6, 0.6), square(6, 0.6)]))
        counter.usable(torch.stack([bad] * 64))
    assert counter.counts == dict.fromkeys(VERDICTS, 0) | {
        "usable": 31,
        "empty": 96,
        "full": 1,
        "unsure": 2,
    }
    [message] = caplog.messages
    assert message.startswith("35 of 66 masks of real images are left out")


def test_without_a_gate_every_mask_is_usable() -> None:
    counter = GateCounter(None)
    assert counter.usable(torch.stack([square(0), square(10)])).all()
    assert counter.counts == dict.fromkeys(VERDICTS, 0) | {"usable": 2}
    with pytest.raises(ArgumentTypeError, match=r"gate must be MaskGate\(…\) or None, got 0.5"):
        GateCounter(0.5)  # type: ignore[arg-type]
