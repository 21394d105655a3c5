"""The model of cost: bytes and FLOPs that can be counted by hand, and plans that follow."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import make_tiny_cgn
from torch import nn

from cgn_augment import BankSource
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.lean import project
from cgn_augment.sources.cost import (
    BYTES,
    Rates,
    Work,
    bytes_of_factors,
    bytes_of_made,
    count_flops,
    count_flops_of,
    make_plan,
)

CARD = Rates("a card", 1000, made_over_floor=2.0, resized_over_floor=3.0, tflops=100)


@pytest.mark.parametrize("storage", BYTES)
def test_bytes_of_factors_are_those_of_a_bank(storage: Any, tiny_cgn: SmallCGN) -> None:
    bank = BankSource(tiny_cgn, 20, storage=storage)
    assert bytes_of_factors(32, storage) * 20 == bank.num_bytes


def test_the_made_half_reads_factors_and_writes_images() -> None:
    # Two images of two by two pixels from factors of four by four.
    assert bytes_of_made(2, 4, 2) == 2 * (7 * 16 + 12 * 4)
    assert bytes_of_made(2, 4, 2, "float32") == 2 * (28 * 16 + 12 * 4)
    assert bytes_of_made(0, 4, 2) == 0


class OneProduct:
    """Mechanisms that are one product of a matrix with a vector each."""

    num_classes, image_size, shared_noise, fingerprint = 1, 1, True, "product"
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.layer = nn.Linear(8, 16, bias=False)

    def draw_noise(self, num: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(num, 8, generator=generator)

    def shape(self, noise: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(noise)

    texture = background = shape

    def shuffle(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images


def test_a_multiplication_and_an_addition_are_two_operations() -> None:
    assert count_flops(OneProduct()) == dict.fromkeys(("shape", "texture", "background"), 256)


def test_products_by_onednn_count_as_any_other() -> None:
    images = torch.rand(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    kernel, bias = torch.rand(6, 8, 1, 1), torch.rand(6)
    known = 2 * 8 * 6 * 4 * 4
    assert count_flops_of(lambda: torch.nn.functional.conv2d(images, kernel, bias)) == known
    assert count_flops_of(lambda: project(images, kernel, bias)) == known
    options = (0, 0), (1, 1), (1, 1), 1
    by_name = partial(torch.mkldnn_convolution, images, kernel, None, *options)
    assert count_flops_of(by_name) == known


def test_wider_networks_take_more_operations() -> None:
    narrow, wide = (count_flops(make_tiny_cgn(width=width).freeze()) for width in (4, 8))
    for factor, num in narrow.items():
        assert wide[factor] > 1.5 * num


def test_a_plan_holds_what_it_allows() -> None:
    work = Work(pixels=224, batch=256, step_ms=200, source_pixels=256, flops=1e11)
    plan = make_plan(work, CARD, overhead=0.05, bank_gb=1)
    assert plan.num == 256
    assert plan.made_ms == 3 * plan.floor_ms  # they are resized
    same = make_plan(replace(work, source_pixels=224), CARD, overhead=0.05, bank_gb=1)
    assert same.made_ms == 2 * same.floor_ms
    assert plan.floor_ms == pytest.approx(plan.made_mb / 1000)
    assert plan.fresh_ms == pytest.approx(1.0)
    # What is taken in all stays within the allowed 10 ms, and one more would not.
    assert plan.made_ms + plan.refresh * plan.fresh_ms <= 10
    assert plan.made_ms + (plan.refresh + 1) * plan.fresh_ms > 10
    assert plan.bank * bytes_of_factors(256) <= 1e9 < (plan.bank + 1) * bytes_of_factors(256)
    assert plan.fresh_overhead == pytest.approx((plan.made_ms + 256) / 200)


def test_a_step_without_room_replaces_nothing() -> None:
    plan = make_plan(Work(step_ms=1, flops=1e9), CARD, overhead=0.01, bank_gb=1)
    assert plan.room_ms < 0
    assert plan.refresh == 0


def test_a_bank_is_never_replaced_more_than_once_a_step() -> None:
    plan = make_plan(Work(flops=1.0), CARD, overhead=0.5, bank_gb=1e-2)
    assert plan.refresh == plan.bank > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": 0}, "pixels must be 1 or more"),
        ({"batch": 2.5}, "batch must be an integer"),
        ({"ratio": -1}, "ratio must be 0 or more"),
        ({"ratio": float("nan")}, "ratio must be 0 or more"),
        ({"step_ms": 0}, "step_ms must be above 0"),
        ({"storage": "int4"}, "storage must be one of float32, float16, uint8"),
    ],
)
def test_work_that_cannot_be_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        Work(**change)
    assert type(caught.value).__module__ == "cgn_augment.errors"


@pytest.mark.parametrize("name", ["overhead", "bank_gb"])
def test_less_than_nothing_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be 0 or more"):
        make_plan(Work(), CARD, **{"overhead": 0.1, "bank_gb": 1.0, name: -0.1})


@pytest.mark.parametrize("name", ["ratio", "step_ms"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_work_that_no_step_does_is_refused(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=name):
        Work(**{name: value})


@pytest.mark.parametrize("name", ["overhead", "bank_gb"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_what_no_plan_can_allow_is_refused(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=name):
        make_plan(Work(), CARD, **{"overhead": 0.1, "bank_gb": 1.0, name: value})
