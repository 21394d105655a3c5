"""Taking an image apart: the object cut out, the background without it."""

from __future__ import annotations

import pytest
import torch
from source_helpers import seeded
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, DataError
from cgn_augment.masks.trust import MaskGate
from cgn_augment.parts.cut import take_apart, widen


def scene(height: int = 60, width: int = 90) -> tuple[Tensor, Tensor]:
    """A dark block before a bright plane."""
    image, mask = torch.full((3, height, width), 200, dtype=torch.uint8), torch.zeros(height, width)
    mask[15:35, 30:60] = 1
    image[:, mask > 0] = 20
    return image, mask[None]


def disc(size: int, radius: float) -> tuple[Tensor, Tensor]:
    """A dark disc before a bright plane, its edge soft over four pixels."""
    place = torch.arange(size) - size / 2
    far = torch.hypot(place[:, None], place)
    mask = ((radius + 2 - far) / 4).clamp(0, 1)[None]
    return (200 - 180 * mask).round().expand(3, -1, -1).to(torch.uint8), mask


@pytest.mark.parametrize("filler", ["copy", "telea", "none"])
def test_the_object_and_what_is_behind_it(filler: str) -> None:
    image, mask = scene()
    part = take_apart(image, mask, filler=filler, gate=MaskGate(), key="a", columns={"group": "b"})
    assert (part.key, part.verdict, part.columns) == ("a", "usable", {"group": "b"})
    assert part.size == (60, 90)
    assert part.box == (15, 30, 20, 30)
    assert part.area == pytest.approx(600 / 5400)
    assert part.object is not None
    assert part.object.shape == (4, 20, 30)
    assert part.object[:3].unique().tolist() == [20]
    assert part.foreground is None
    assert part.background is not None
    assert (part.background.float() - 200).abs().max() <= 8  # Telea rounds


def test_nothing_of_the_old_background_comes_along() -> None:
    image, mask = disc(120, 40)
    part = take_apart(image, mask, filler="copy", gate=MaskGate())
    assert part.object is not None
    colours, alpha = part.object[:3], part.object[3]
    assert int(colours.max()) <= 30  # in the image the edge is up to 110, half of the background
    top, left, height, width = part.box
    assert (alpha <= (mask[0, top : top + height, left : left + width] * 255).round()).all()
    assert int(alpha[height // 2, width // 2]) == 255
    assert 0 < int(alpha[height // 2].min()) < 140  # the edge is soft


def test_thin_parts_keep_their_own_colours() -> None:
    image, mask = scene(80, 120)
    image[:, 25:27, 60:110], mask[:, 25:27, 60:110] = 90, 1  # a handle of two pixels
    part = take_apart(image, mask, filler="none", gate=MaskGate())
    assert part.object is not None
    assert part.object[:3, 10:12, 60:].unique().tolist() == [90]
    assert int(part.object[3, 10:12, 60:].min()) > 100


def test_the_hole_grows_with_the_object() -> None:
    margins = []
    for radius in (10, 40):
        _, mask = disc(200, radius)
        widest = int(widen(mask[0].numpy())[100].sum())
        margins.append((widest - int((mask[0, 100] > 0.1).sum())) / 2)
    assert 3 <= margins[0] < 6
    assert 9 < margins[1] < 14


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.0, "empty"), (0.4, "empty"), (0.55, "unsure"), (1.0, "full")]
)
def test_of_a_mask_that_is_not_trusted_nothing_is_taken(share: float, verdict: str) -> None:
    image, mask = scene()[0], torch.full((1, 60, 90), share)
    if verdict == "unsure":
        mask[:, 30:] = 0.4
    part = take_apart(image, mask, filler="copy", gate=MaskGate(), textures=True)
    assert part.verdict == verdict
    assert (part.object, part.background, part.foreground) == (None, None, None)


def test_without_a_gate_all_but_empty_masks_are_trusted() -> None:
    image, mask = scene()
    assert take_apart(image, mask * 0, filler="copy", gate=None).verdict == "empty"
    mask[:, :50] = 0.6
    part = take_apart(image, mask, filler="none", gate=None)
    assert part.verdict == "usable"
    assert part.object is not None
    full = take_apart(image, torch.ones_like(mask), filler="copy", gate=None)
    assert (full.verdict, full.background) == ("usable", None)


def test_a_background_with_too_large_a_hole_is_not_used() -> None:
    image, mask = scene()
    part = take_apart(image, mask, filler="copy", gate=MaskGate(), max_hole=0.1)
    assert part.object is not None
    assert part.background is None


def test_a_sheet_is_made_where_it_is_asked_for() -> None:
    image, mask = scene()
    part = take_apart(image, mask, filler="none", gate=MaskGate(), textures=True)
    assert part.foreground is not None
    assert part.foreground.shape == image.shape
    assert part.foreground.unique().tolist() == [20]


def test_the_random_state_stays_and_threads_do_not_matter() -> None:
    image = torch.randint(256, (3, 90, 130), generator=seeded(), dtype=torch.uint8)
    _, mask = scene(90, 130)
    state, before = torch.random.get_rng_state(), torch.get_num_threads()
    made = []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            made.append(take_apart(image, mask, filler="copy", gate=MaskGate(), textures=True))
    finally:
        torch.set_num_threads(before)
    for name in ("object", "background", "foreground"):
        assert torch.equal(getattr(made[0], name), getattr(made[1], name))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": torch.zeros(3, 60, 90)}, ArgumentTypeError, "uint8 .* got torch.float32 and"),
        (
            {"mask": torch.zeros(1, 60, 90, dtype=torch.bool)},
            ArgumentTypeError,
            "got .* torch.bool",
        ),
        ({"mask": torch.zeros(1, 90, 60)}, DataError, r"got \(3, 60, 90\) and \(1, 90, 60\)"),
        (
            {"mask": torch.full((1, 60, 90), 255.0)},
            DataError,
            r"in \[0, 1\], and spans \[255, 255\]",
        ),
        ({"mask": torch.full((1, 60, 90), torch.nan)}, DataError, r"in \[0, 1\], and spans \[nan"),
        ({"filler": "lama"}, ArgumentError, "there is no filler 'lama'"),
        ({"max_hole": 1.5}, ArgumentError, "max_hole"),
        (
            {"image": torch.zeros(3, 0, 9, dtype=torch.uint8), "mask": torch.zeros(1, 0, 9)},
            DataError,
            "no pixels",
        ),
    ],
)
def test_what_cannot_be_taken_apart(
    change: dict[str, object], error: type[CGNError], message: str
) -> None:
    image, mask = scene()
    given = {"image": image, "mask": mask, "filler": "copy", "gate": MaskGate(), **change}
    with pytest.raises(error, match=message):
        take_apart(**given)  # type: ignore[arg-type]
