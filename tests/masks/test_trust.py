"""The gates: which masks are used, and which pairs of texture and background can be seen."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from cgn_augment import BankSource, Counterfactuals, Factors, FreshSource, MaskGate
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.masks.trust import (
    MAX_REDRAWS,
    VERDICTS,
    GateCounter,
    edge_contrast,
    redraw_unseen,
)


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


def test_a_gate_is_at_its_limits_still_open() -> None:
    gate = MaskGate(min_area=0.04, max_area=0.25, min_confidence=1.0)
    assert verdicts(gate, square(2), square(5), square(1), square(6)) == [
        "usable",
        "usable",
        "empty",
        "full",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area": -0.1}, "got -0.1 and 0.8"),
        ({"min_area": 0.9}, "got 0.9 and 0.8"),
        ({"max_area": 1.1}, "got 0.02 and 1.1"),
        ({"min_confidence": 1.5}, r"min_confidence must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_gate_that_makes_no_sense_is_an_error(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MaskGate(**settings)


def test_verdicts_are_counted_and_many_bad_ones_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counter = GateCounter()
    with caplog.at_level(logging.WARNING):
        counter.add(torch.tensor([0] * 31 + [1] * 32))
        assert caplog.messages == []  # too few to say
        counter.add(torch.tensor([2, 3, 3]))
        counter.add(torch.tensor([1] * 64))
    assert counter.counts == {"usable": 31, "empty": 96, "full": 1, "unsure": 2}
    [message] = caplog.messages
    assert message.startswith("35 of 66 masks of real images are left out")


def test_half_of_the_masks_may_be_left_out_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GateCounter().add(torch.tensor([0] * 32 + [1] * 32))
    assert caplog.messages == []


# Contrast


def test_contrast_is_the_difference_at_the_edge_alone() -> None:
    mask = torch.zeros(1, 1, 12, 12)
    mask[:, :, 3:9, 3:9] = 1
    foreground, background = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    foreground[:, :, 4:8, 4:8] = 1  # the inside, not at the edge
    background[:, :, :2], background[:, :, 10:] = -1, -1  # far outside
    assert edge_contrast(mask, foreground, background).item() == 0
    foreground[:, 0] = 0.6  # one channel of three, everywhere
    assert edge_contrast(mask, foreground, background).item() == pytest.approx(0.2)


def test_contrast_counts_the_pixels_on_both_sides() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    foreground, background = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    foreground[..., 4] = 1
    assert edge_contrast(mask, foreground, background).item() == pytest.approx(0.5)
    background[..., 3] = -1
    assert edge_contrast(mask, foreground, background).item() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_without_an_edge_there_is_nothing_to_tell_apart(value: float) -> None:
    images = torch.zeros(1, 3, 8, 8)
    assert edge_contrast(torch.full((1, 1, 8, 8), value), images, images).item() == math.inf


def flat(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None].expand(-1, 3, 8, 8).clone()


def make_factors(foreground: Tensor, background: Tensor) -> Factors:
    mask = torch.zeros(len(foreground), 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    return Factors(mask, flat(foreground), flat(background))


def test_only_what_cannot_be_seen_is_drawn_again() -> None:
    factors = make_factors(torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.1]))
    classes = torch.arange(9).view(3, 3)
    asked = []

    def again(places: Tensor) -> tuple[Factors, Tensor]:
        asked.append(places.tolist())
        new = torch.full((len(places),), 0.3 * len(asked))  # the second time it is enough
        return make_factors(new, -new), torch.full((3, len(places)), 90 + len(asked))

    assert redraw_unseen(factors, classes, 0.7, again) == 0
    assert asked == [[0, 1, 2], [0, 1, 2]]
    assert factors.foreground[:, 0, 0, 0].tolist() == pytest.approx([0.6] * 3)
    assert classes.tolist() == [[0, 1, 2], [92] * 3, [92] * 3]

    factors = make_factors(torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.1]))
    asked.clear()
    redraw_unseen(factors, classes, 0.3, again)
    assert asked == [[0, 2]]
    assert factors.background[:, 0, 0, 0].tolist() == pytest.approx([-0.3, 0.0, -0.3])


def test_what_can_never_be_seen_is_kept_and_counted() -> None:
    factors, calls = make_factors(torch.zeros(4), torch.zeros(4)), []

    def again(places: Tensor) -> tuple[Factors, Tensor]:
        calls.append(len(places))
        return make_factors(torch.zeros(4), torch.zeros(4)), torch.zeros(3, 4).long()

    assert redraw_unseen(factors, torch.zeros(3, 4).long(), 0.1, again) == 4
    assert calls == [4] * MAX_REDRAWS


def test_a_contrast_of_zero_draws_nothing_again() -> None:
    factors = make_factors(torch.zeros(2), torch.zeros(2))

    def never(places: Tensor) -> tuple[Factors, Tensor]:
        raise AssertionError

    assert redraw_unseen(factors, torch.zeros(3, 2).long(), 0.0, never) == 0


class Painter(SmallCGN):
    """Textures in the grey of their class, so that equal classes cannot be told apart."""

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        mask = torch.zeros(len(y), 1, 32, 32)
        mask[:, :, 8:24, 8:24] = 1
        return mask

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return (y / 5 - 1)[:, None, None, None].expand(-1, 3, 32, 32)

    background = texture


Kind = type[FreshSource] | type[BankSource]


@pytest.mark.parametrize("kind", [FreshSource, BankSource])
def test_sources_draw_unseen_pairs_again_where_asked(kind: Kind) -> None:
    def sample(**options: float) -> Counterfactuals:
        source = kind(Painter(width=4).freeze(), **options)  # type: ignore[arg-type]
        return source.sample(400, torch.Generator().manual_seed(0))

    plain, seen = sample(), sample(min_contrast=0.1)
    assert (plain.texture == plain.background).sum() > 20
    assert (seen.texture == seen.background).sum() == 0
    assert torch.equal(plain.shape, seen.shape)
    kept = plain.texture != plain.background
    assert torch.equal(seen.images[kept], plain.images[kept])
    middle, corner = seen.images[:, 0, 16, 16], seen.images[:, 0, 0, 0]
    torch.testing.assert_close(middle, seen.texture / 5 - 1)
    torch.testing.assert_close(corner, seen.background / 5 - 1)


@pytest.mark.parametrize("kind", [FreshSource, BankSource])
def test_a_contrast_nobody_reaches_is_said_once(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    source = kind(Painter(width=4).freeze(), min_contrast=1.9)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            source.sample(3, torch.Generator().manual_seed(0))
    [message] = caplog.messages
    assert "3 counterfactuals of a step have less contrast than min_contrast=1.9" in message


@pytest.mark.parametrize("kind", [FreshSource, BankSource])
def test_a_contrast_belongs_to_the_fingerprint_and_is_checked(kind: Kind) -> None:
    cgn = Painter(width=4).freeze()
    plain, seen = kind(cgn), kind(cgn, min_contrast=0.25)
    assert plain.fingerprint != seen.fingerprint
    assert "min_contrast=0.25" in seen.fingerprint
    for wrong in (-0.1, 2.0):
        with pytest.raises(ArgumentError, match=rf"min_contrast .* \[0, 2\), got {wrong}"):
            kind(cgn, min_contrast=wrong)
