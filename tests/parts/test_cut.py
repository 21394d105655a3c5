"""Taking an image apart: the object cut out, the background without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn_augment.masks.trust import MaskGate
from cgn_augment.parts.cut import take_apart


def scene(height: int = 60, width: int = 90) -> tuple[Tensor, Tensor]:
    """A dark block before a bright plane."""
    image, mask = torch.full((3, height, width), 200, dtype=torch.uint8), torch.zeros(height, width)
    mask[15:35, 30:60] = 1
    image[:, mask > 0] = 20
    return image, mask[None]


@pytest.mark.parametrize("filler", ["copy", "telea", "none"])
def test_the_object_and_what_is_behind_it(filler: str) -> None:
    image, mask = scene()
    part = take_apart(image, mask, filler=filler, gate=MaskGate(), key="a", columns={"group": "b"})
    assert (part.key, part.verdict, part.columns) == ("a", "usable", {"group": "b"})
    assert part.size == (60, 90)
    assert part.box == (15, 30, 20, 30)
    assert part.area == pytest.approx(600 / 5400)
    assert part.object is not None
    assert part.object[:3].unique().tolist() == [20]
    assert part.background is not None
    assert (part.background.float() - 200).abs().max() <= 8  # Telea rounds


def test_of_a_mask_that_is_not_trusted_nothing_is_taken() -> None:
    image, _ = scene()
    part = take_apart(image, torch.zeros(1, 60, 90), filler="copy", gate=None)
    assert (part.verdict, part.object, part.background) == ("empty", None, None)


def test_a_background_with_too_large_a_hole_is_not_used() -> None:
    image, mask = scene()
    part = take_apart(image, mask, filler="copy", gate=MaskGate(), max_hole=0.1)
    assert part.object is not None
    assert part.background is None
