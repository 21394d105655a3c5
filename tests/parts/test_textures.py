"""Completing textures: where to copy from, what comes of it, and pools to draw it from."""

from __future__ import annotations

import pytest
import torch
from source_helpers import seeded
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.parts.offsets import best_offsets
from cgn_augment.parts.textures import ClassPool, _large, complete, whole_textures


def tiles(period: int, seed: int = 0, num: int = 1) -> Tensor:
    """Random textures that repeat themselves every `period` pixels in both directions."""
    tile = torch.rand(num, 3, period, period, generator=seeded(seed)) * 2 - 1
    repeats = -(-32 // period)
    return tile.repeat(1, 1, repeats, repeats)[:, :, :32, :32].contiguous()


def with_hole(num: int = 1, side: int = 8) -> Tensor:
    known = torch.ones(num, 1, 32, 32)
    for place, mask in enumerate(known):
        top = 8 + place
        mask[:, top : top + side, 10 : 10 + side] = 0
    return known


@pytest.mark.parametrize("period", [5, 8, 11])
def test_a_periodic_texture_is_completed_exactly(period: int) -> None:
    images, known = tiles(period, num=4), with_hole(4)
    offsets, found = best_offsets(images * known, known)
    assert found.all()
    assert (offsets % period == 0).all()
    whole, seen = complete(images, known)
    assert seen.all()
    torch.testing.assert_close(whole, images)


def test_what_is_known_stays_and_what_is_not_known_has_no_effect() -> None:
    images, known = torch.rand(3, 3, 32, 32, generator=seeded()), with_hole(3)
    whole, seen = complete(images, known)
    assert torch.equal(whole * known, images * known)
    assert seen.all()
    other = images.clone()
    other[(known == 0).expand_as(images)] = 9
    assert torch.equal(complete(other, known)[0], whole)


def test_every_filled_pixel_is_a_copy_of_a_known_one() -> None:
    images, known = torch.rand(1, 1, 32, 32, generator=seeded()), with_hole()
    whole, _ = complete(images, known)
    values = set(images[known == 1].tolist())
    assert set(whole.flatten().tolist()) == values


def test_a_strip_becomes_a_whole_image() -> None:
    stripes = torch.arange(32).div(3, rounding_mode="floor").remainder(2).float() * 2 - 1
    images = stripes.expand(1, 3, 32, 32).contiguous()
    known = torch.zeros(1, 1, 32, 32)
    known[:, :, 12:18] = 1
    whole, seen = complete(images, known)
    assert seen.all()
    assert torch.equal(whole, images)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_to_copy_from_and_nothing_to_fill(share: float) -> None:
    images = torch.rand(2, 3, 32, 32, generator=seeded())
    known = torch.full((2, 1, 32, 32), share)
    whole, seen = complete(images, known)
    assert torch.equal(seen, known)
    assert torch.equal(whole, images * share)


def test_images_do_not_depend_on_their_neighbours() -> None:
    images, known = torch.rand(5, 3, 32, 32, generator=seeded()), with_hole(5)
    known[2] = 0  # cannot be completed
    known[3] = 1  # needs nothing
    whole, seen = complete(images, known)
    for chunk in (1, 2):
        others = complete(images, known, chunk=chunk)
        torch.testing.assert_close(others[0], whole)
        assert torch.equal(others[1], seen)
    assert seen.flatten(1).all(dim=1).tolist() == [True, True, False, True, True]


def test_flat_colours_are_completed_alike_by_any_number_of_threads() -> None:
    known = torch.rand(12, 1, 32, 32, generator=seeded()) < 0.2
    known[:, :, 8:24, 12:20] = True
    shades = torch.rand(12, 3, 1, 1, generator=seeded(1)) * 2 - 1
    noise = torch.randint(2, (12, 3, 32, 32), generator=seeded(2)) / 64
    images = shades + noise  # nearly flat, so that many offsets fit as well as each other
    before = torch.get_num_threads()
    try:
        made = []
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            made.append(complete(images, known.float())[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])


def test_whole_textures_hold_no_pixel_of_the_other_part() -> None:
    labels = torch.arange(40) % 4
    found = torch.zeros(40, 1, 32, 32, dtype=torch.bool)
    for place, mask in enumerate(found):
        mask[:, 6 : 20 + place // 4, 10:22] = True
    tint = labels[:, None, None, None] / 10 + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    images = torch.where(found, -tint, tint)
    foregrounds, backgrounds = whole_textures(images, labels, found, 3)
    for y in range(4):
        expected = tint[y].expand(-1, 32, 32)
        for pool, sign in ((foregrounds, -1), (backgrounds, 1)):
            assert pool.counts.tolist() == [3] * 4
            for image in pool.images[pool.starts[y] :][:3]:
                torch.testing.assert_close(image, sign * expected)


def test_foregrounds_are_of_the_large_objects_but_for_the_largest() -> None:
    sizes = torch.randperm(100, generator=seeded()) + 1
    found = torch.arange(1024).expand(100, -1) < sizes[:, None]
    chosen = _large(torch.arange(100), found.view(100, 1, 32, 32), 3)[:6]
    looked_at = sorted(sizes[:75].tolist(), reverse=True)  # 25 for each of the three
    assert sizes[chosen].tolist() == looked_at[4:10]


def test_textures_that_cannot_be_completed_are_a_warning_and_get_the_mean_colour() -> None:
    images, labels = torch.full((4, 3, 32, 32), 0.25), torch.tensor([0, 0, 1, 1])
    found = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    found[:2, :, 8:20, 8:20] = True
    found[2, :, 0, 0] = True  # too little to fit anywhere
    with pytest.warns(UserWarning, match=r"no foreground of the classes \[1\] could be completed"):
        foregrounds, backgrounds = whole_textures(images, labels, found, 2)
    assert foregrounds.counts.tolist() == [2, 2]
    assert foregrounds.images.flatten(1).unique(dim=1).tolist() == [[0.25], [0.25], [0.25], [0.0]]
    torch.testing.assert_close(backgrounds.images, images)


def test_images_of_a_pool_are_of_the_class_and_all_of_them_come() -> None:
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    masks = torch.zeros(6, 1, 2, 4)
    for number in range(6):  # a mask is its number, in binary
        masks[number, 0, 0] = torch.tensor([float(number >> bit & 1) for bit in range(4)])
    y = torch.arange(3).repeat(200)
    drawn = ClassPool(masks, labels).draw(y, seeded())
    assert drawn.shape == (600, 1, 2, 4)
    assert drawn.dtype == torch.float32
    numbers = (drawn[:, 0, 0] * torch.tensor([1, 2, 4, 8])).sum(dim=1).long()
    assert torch.equal(labels[numbers], y)
    counts = numbers.bincount(minlength=6)
    # 200 of each class: deviations of 7 for halves and for thirds.
    expected = torch.tensor([200 / 3, 100, 200 / 3, 200, 100, 200 / 3])
    assert (counts - expected).abs().max() < 30
    assert torch.equal(ClassPool(masks, labels).draw(y, seeded()), drawn)


def test_images_that_cannot_be_drawn_are_an_error() -> None:
    masks, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 2])
    with pytest.raises(ArgumentError, match="no image of one of the classes: use more images"):
        ClassPool(masks, labels).draw(torch.tensor([0, 1]), seeded())
