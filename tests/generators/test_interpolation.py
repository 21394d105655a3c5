"""Frames on the way from class to class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from generator_helpers import MAKERS

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import CGN, SmallCGN
from cgn_augment.generators.interpolation import interpolate_classes
from cgn_augment.shards.sampling import draw_numbered
from cgn_augment.types import FACTORS


@pytest.mark.parametrize("make", MAKERS.values())
@pytest.mark.parametrize("factor", [*FACTORS, "all"])
def test_only_what_changes_changes_and_classes_are_reached(
    factor: str, make: Callable[[], CGN]
) -> None:
    cgn = make().freeze()
    frames = interpolate_classes(cgn, [1, 4, 2], factor, steps=2, chunk=3)  # type: ignore[arg-type]
    assert len(frames) == 5
    drawn = {"shape": frames.mask, "texture": frames.foreground, "background": frames.background}
    for name, images in drawn.items():
        changed = (images[1:] - images[:-1]).abs().amax(dim=(1, 2, 3)) > 1e-6
        assert changed.all() if factor in (name, "all") else not changed.any()
    if factor == "all":
        for place, y in ((0, 1), (2, 4), (4, 2)):
            alone = draw_numbered(cgn, torch.full((3, 1), y))
            torch.testing.assert_close(frames.mask[place], alone.mask[0], rtol=1e-4, atol=1e-5)
            for got, expected in (
                (frames.foreground, alone.foreground),
                (frames.background, alone.background),
            ):
                # The published small CGN moves each texture; the place is drawn after the noise.
                same = got[place].flatten(1).sort().values, expected[0].flatten(1).sort().values
                torch.testing.assert_close(*same, rtol=1e-4, atol=1e-5)


def test_interpolation_follows_its_seed_and_keeps_the_others_to_a_class(
    tiny_cgn: SmallCGN,
) -> None:
    first, again, other = (
        interpolate_classes(tiny_cgn, [1, 4], "shape", steps=1, others={"texture": 7}, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.foreground, again.foreground)
    assert not torch.equal(first.mask, other.mask)
    default = interpolate_classes(tiny_cgn, [1, 4], "shape", steps=1)
    assert not torch.equal(first.foreground, default.foreground)
    assert torch.equal(first.background, default.background)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [3]}, r"between two classes or more, got \[3\]"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"factor": "mask"}, "one of shape, texture, background, all, got 'mask'"),
        ({"classes": [3, 10]}, "y must hold classes of 0 to 9, got 10 to 10"),
        (
            {"factor": "shape", "others": {"shape": 1}},
            "shape cannot be kept to one class: .* stays the same is background, texture",
        ),
        ({"others": {"texture": 1}}, "texture cannot be kept .* what stays the same is nothing"),
    ],
)
def test_ways_that_cannot_be_gone_are_errors(
    arguments: dict[str, object], message: str, tiny_cgn: SmallCGN
) -> None:
    with pytest.raises(ArgumentError, match=message):
        interpolate_classes(tiny_cgn, **{"classes": [3, 4], **arguments})  # type: ignore[arg-type]
