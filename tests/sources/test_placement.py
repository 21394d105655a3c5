"""Where objects are put, and what their edges look like there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import ReadableCGN, seeded
from torch import Tensor

from cgn_augment import BankSource, FreshSource, Interventions, Placement, Source
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from cgn_augment.sources.placement import Moves, find_boxes, soften

SIZE = 24


def block(top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A mask and colours that say which row and column they were in; noise outside of the mask."""
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., top : top + height, left : left + width] = 1
    rows = torch.linspace(-1, 1, SIZE)[:, None].expand(SIZE, SIZE)
    colours = torch.stack([rows, rows.T, torch.zeros(SIZE, SIZE)])[None]
    noise = torch.rand(1, 3, SIZE, SIZE, generator=seeded()) * 2 - 1
    return mask, torch.where(mask > 0, colours, noise)


def moves(**given: float) -> Moves:
    values = {"scale": 1.0, "down": 0.0, "right": 0.0, "angle": 0.0, "mirror": 1.0, **given}
    return Moves(*(torch.tensor([values[name]]) for name in Moves._fields))


def move(mask: Tensor, colours: Tensor, **given: float) -> tuple[Tensor, Tensor]:
    return Placement(flip=0.5).move(mask, colours, moves(**given))


def box_of(mask: Tensor) -> list[int]:
    """Top, left, height and width."""
    rows, columns = ((mask[0, 0] > 0.5).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return [rows[0], columns[0], len(rows), len(columns)]


def test_what_is_not_moved_stays_as_it_is() -> None:
    mask, colours = block(3, 5, 8, 6)
    moved, shown = move(mask, colours)
    torch.testing.assert_close(moved, mask)
    torch.testing.assert_close(shown * mask, colours * mask)
    same = Placement().move(mask, colours, moves())
    assert same[0] is mask
    assert same[1] is colours


@pytest.mark.parametrize(
    ("given", "box"),
    [
        ({"down": 3 / SIZE, "right": -2 / SIZE}, [6, 3, 8, 6]),
        ({"scale": 2.0}, [0, 2, 16, 12]),  # about its middle, and inside of the image
        ({"scale": 0.5}, [5, 7, 4, 3]),
        ({"angle": math.pi / 2}, [4, 4, 6, 8]),
        ({"down": -1.0, "right": 1.0}, [0, SIZE - 6, 8, 6]),  # as far as it is inside
        ({"scale": 6.0}, [0, 0, SIZE, SIZE]),
    ],
)
def test_objects_are_moved_about_their_middle(given: dict[str, float], box: list[int]) -> None:
    mask, colours = block(3, 5, 8, 6)
    moved, shown = move(mask, colours, **given)
    found = box_of(moved)
    assert all(abs(a - b) <= 1 for a, b in zip(found, box, strict=True)), found
    # No colour from outside of the object gets in.
    inside = shown.movedim(1, 3)[moved[:, 0] > 0.5]
    own = colours.movedim(1, 3)[mask[:, 0] > 0.5]
    assert inside.amin(0).ge(own.amin(0) - 1e-4).all()
    assert inside.amax(0).le(own.amax(0) + 1e-4).all()


def test_mirrored_and_turned_objects_are_those() -> None:
    mask, colours = block(3, 5, 8, 8)
    here = (slice(None), slice(None), slice(3, 11), slice(5, 13))
    _, mirrored = move(mask, colours, mirror=-1.0)
    torch.testing.assert_close(mirrored[here], colours[here].flip(3))
    _, turned = move(mask, colours, angle=math.pi / 2)
    torch.testing.assert_close(turned[here], colours[here].rot90(1, (2, 3)), atol=1e-4, rtol=0)
    _, both = move(mask, colours, angle=math.pi / 2, mirror=-1.0)
    expected = colours[here].flip(3).rot90(1, (2, 3))
    torch.testing.assert_close(both[here], expected, atol=1e-4, rtol=0)


def test_each_object_of_a_batch_is_moved_by_itself() -> None:
    first, second = block(3, 5, 8, 6), block(12, 10, 5, 9)
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    drawn = Placement((0.7, 1.4), 0.3, 40, 0.5).draw(2, seeded())
    moved = Placement(flip=1).move(*both, drawn)
    for number, given in enumerate((first, second)):
        own = Moves(*(each[number : number + 1] for each in drawn))
        alone = Placement(flip=1).move(*given, own)
        for a, b in zip(moved, alone, strict=True):
            torch.testing.assert_close(a[number : number + 1], b, atol=1e-5, rtol=0)


def test_draws_are_in_their_ranges_and_shared_by_neighbours() -> None:
    placement = Placement((0.5, 1.5), 0.2, 30, 0.25)
    drawn = placement.draw(4000, seeded())
    for values, low, high in (
        (drawn.scale, 0.5, 1.5),
        (drawn.down, -0.2, 0.2),
        (drawn.right, -0.2, 0.2),
        (drawn.angle, -math.pi / 6, math.pi / 6),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    assert (drawn.mirror < 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    shared = torch.stack(list(placement.draw(10, seeded(), num_per_shape=4)))
    assert [len(group.unique(dim=1).T) for group in shared.split(4, dim=1)] == [1, 1, 1]
    assert len(shared.unique(dim=1).T) == 3


def test_boxes_of_soft_empty_and_full_masks() -> None:
    masks = torch.zeros(3, 1, 8, 8)
    masks[0, :, 6:, 7:] = 0.7
    masks[1] = 0.3
    masks[2] = 1
    assert find_boxes(masks).tolist() == [[0.75, 0.875, 0.25, 0.125], *[[0.0, 0.0, 1.0, 1.0]] * 2]


def test_a_soft_edge_shows_the_objects_own_colours() -> None:
    mask, colours = block(6, 6, 10, 10)
    colours = torch.where(mask > 0, 0.8, -1.0).expand(1, 3, -1, -1)
    soft, shown = soften(mask, colours, 3.0)
    inside, line = mask > 0, soft[0, 0, 11]
    assert torch.equal(shown[inside.expand_as(shown)], colours[inside.expand_as(shown)])
    assert 0.05 < line[5] < 0.5 < line[6] < 0.95
    assert line[11] == pytest.approx(1, abs=0.01)
    assert (line[5:12].diff() > -1e-6).all()
    around = (soft > 0.02).expand_as(shown)
    torch.testing.assert_close(shown[around], torch.full_like(shown[around], 0.8))
    placed = Placement(edge=3.0).move(mask, colours, moves())
    assert torch.equal(placed[0], soft)


MAKERS: dict[str, Callable[..., Source]] = {
    "fresh CGN": lambda cgn, **options: FreshSource(cgn, **options),
    "bank of a CGN": lambda cgn, **options: BankSource(cgn, 20, 3, **options),
    "fresh parts": lambda _, **options: FreshSource(make_parts(32), **options),
    "bank of parts": lambda _, **options: BankSource(make_parts(32), 20, 3, **options),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_sources_place_what_they_would_draw(make: Callable[..., Any], tiny_cgn: SmallCGN) -> None:
    placement = Placement((0.8, 1.2), 0.2, 20, 0.5, edge=1.0)
    plain, placed = make(tiny_cgn), make(tiny_cgn, placement=placement)
    generator = seeded()
    (mask, foreground, behind), classes = plain.sample_factors(12, generator)
    moved = placement.move(mask, foreground, placement.draw(12, generator))
    made = placed.sample(12, seeded())
    assert torch.equal(made.shape.cpu(), classes[0])
    torch.testing.assert_close(made.images, compose(*moved, behind))
    assert made.images.abs().max() <= 1 + 1e-5
    assert not torch.equal(made.images, plain.sample(12, seeded()).images)
    nowhere = make(tiny_cgn, placement=Placement()).sample(12, seeded())
    torch.testing.assert_close(nowhere.images, plain.sample(12, seeded()).images)
    assert len({plain.fingerprint, placed.fingerprint}) == 2
    again = make(tiny_cgn, placement=placement).sample(12, seeded())
    assert torch.equal(again.images, made.images)


def test_neighbours_of_one_shape_are_at_one_place() -> None:
    source = FreshSource(
        make_parts(32),
        Interventions(texture="shape", num_per_shape=3),
        placement=Placement(shift=1),
    )
    (mask, foreground, _), _ = source.sample_factors(9, seeded())
    for group in (*mask.split(3), *foreground.split(3)):
        assert (group == group[:1]).all()
    assert len({tuple(find_boxes(each[:1])[0].tolist()) for each in mask.split(3)}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale must be 0 < least <= greatest, got \(0.0, 1.0\)"),
        ({"scale": (1.2, 0.8)}, "scale must be 0 < least"),
        ({"scale": (1.0, math.inf)}, "scale must be 0 < least"),
        ({"scale": 1.5}, "scale must be the least and the greatest factor, got 1.5"),
        ({"shift": -0.1}, "shift must be 0 or more, got -0.1"),
        ({"rotate": math.nan}, "rotate must be 0 or more, got nan"),
        ({"flip": 1.1}, r"flip must be in \[0, 1\], got 1.1"),
        ({"flip": True}, "flip must be a number, got True"),
        ({"edge": -1}, "edge must be 0 or more"),
        ({"shift": "far"}, "shift must be a number, got 'far'"),
    ],
)
def test_a_placement_that_cannot_be_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        Placement(**options)


def test_a_source_takes_a_placement_and_nothing_else() -> None:
    with pytest.raises(ArgumentTypeError, match=r"placement must be Placement\(…\) or None, got 0"):
        FreshSource(ReadableCGN(), placement=0.5)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_objects_are_placed_alike_on_a_gpu() -> None:
    placement = Placement((0.7, 1.4), 0.3, 40, 0.5, edge=2.0)
    mask, colours = block(3, 5, 8, 6)
    drawn = placement.draw(1, seeded())
    here = placement.move(mask, colours, drawn)
    there = placement.move(mask.cuda(), colours.cuda(), drawn)
    torch.testing.assert_close(there[0].cpu(), here[0], atol=1e-3, rtol=0)
