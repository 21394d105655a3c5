"""What is drawn does not depend on the modes that the caller computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from conftest import make_red_masker
from stream_helpers import collect, large, load, same, save, stream
from torch import nn

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    FreshSource,
    Interventions,
    RealShapeSource,
    Step,
    load_cgn,
    load_masker,
    match_real,
)
from cgn_augment.functional import standard_numbers
from cgn_augment.generators import SmallCGN


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


LARGE, MASKER = large(), make_red_masker()
SMALLER = LARGE[0][..., :24, :24], LARGE[1]

MODES: dict[str, Any] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": float64,
    "inference": torch.inference_mode,
}
SOURCES: dict[str, Any] = {
    "fresh": lambda cgn: FreshSource(cgn),
    "bank": lambda cgn: BankSource(cgn, size=10, refresh=3),
    "real shapes": lambda cgn: RealShapeSource(
        MASKER, BankSource(cgn, size=10, refresh=3), gate=None
    ),
}


def make(cgn: SmallCGN, kind: str) -> CounterfactualDataset:
    transform = match_real(0.5, 0.5, 24, resize=28)
    return stream([SMALLER] * 4, SOURCES[kind](cgn), transform=transform, value_range=None)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_the_same_bit_for_bit_in_any_mode(
    tiny_cgn: SmallCGN, mode: str, kind: str
) -> None:
    expected = collect(make(tiny_cgn, kind))
    with MODES[mode]():
        made = collect(make(tiny_cgn, kind))
    assert same(made, expected)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("mode", MODES)
def test_a_state_saved_in_a_mode_goes_on_outside(tiny_cgn: SmallCGN, mode: str, kind: str) -> None:
    expected = collect(make(tiny_cgn, kind))
    train = make(tiny_cgn, kind)
    with MODES[mode]():
        next(iter(train))
        saved = save(train)
    resumed = load(lambda: make(tiny_cgn, kind), saved)
    assert same(collect(resumed), expected[1:])


@pytest.mark.parametrize("kind", SOURCES)
def test_a_look_under_inference_mode_leaves_a_source_as_it_was(
    tiny_cgn: SmallCGN, kind: str
) -> None:
    expected = collect(make(tiny_cgn, kind), 2)
    train = make(tiny_cgn, kind)
    with torch.inference_mode():
        first = next(batches := iter(train))
    assert same(first, expected[0])
    assert same([*batches, *train], expected[1:])


@pytest.mark.parametrize("kind", ["fresh", "bank"])
def test_what_a_source_draws_in_a_mode_may_enter_a_training_graph(
    tiny_cgn: SmallCGN, kind: str
) -> None:
    source, layer = SOURCES[kind](tiny_cgn), nn.Conv2d(3, 2, 3)
    drawn = []
    for mode in (nullcontext, *MODES.values()):
        with mode():
            drawn.append(source.sample(4, torch.Generator().manual_seed(0), Step(0)))
    for made in drawn:
        assert torch.equal(made.images, drawn[0].images)
        assert made.images.dtype == torch.float32
        layer(made.images.mul_(1.0)).sum().backward()
    assert layer.weight.grad is not None


def test_a_cgn_that_is_permuted_and_augmented_draws_the_same_in_all_modes_at_once(
    tiny_cgn: SmallCGN,
) -> None:
    def made() -> Any:
        source = FreshSource(tiny_cgn, Interventions("permute"))
        return collect(stream([LARGE] * 2, source, class_map={y: y for y in range(10)}))

    expected = made()
    with ExitStack() as modes:
        for mode in MODES.values():
            modes.enter_context(mode())
        assert same(made(), expected)


def test_the_modes_of_the_caller_are_as_they_were() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), float64():
        with standard_numbers():
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_inference_mode_enabled()
            assert torch.get_default_dtype() == torch.float32
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64
    with pytest.raises(ZeroDivisionError), float64(), standard_numbers():
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_bundled_networks_are_float32_whatever_the_default_is() -> None:
    with float64():
        networks = load_cgn("double-colored-mnist"), load_masker("double-colored-mnist")
    found = {weight.dtype for network in networks for weight in network.parameters()}
    assert found == {torch.float32}
