"""From where each pixel of a hole is copied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgn_augment.parts.copies import choose_copies, shrink


def a_scene(height: int, width: int) -> np.ndarray:
    """A sky over a ground of stripes."""
    image = np.random.default_rng(0).normal(0, 0.02, size=(3, height, width))
    image[0] += 0.5
    image[:, height // 2 :] -= 0.5 * (np.arange(width) // 5 % 2)
    return image.astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(97, 150), (40, 40), (300, 60), (7, 500)])
def test_every_pixel_of_the_hole_is_a_copy_of_one_outside(height: int, width: int) -> None:
    image = a_scene(height, width)
    hole = np.zeros((height, width), dtype=bool)
    hole[height // 4 : -height // 4, width // 3 : -width // 3] = True
    taken = choose_copies(image, hole)
    places = np.arange(hole.size).reshape(hole.shape)
    assert (taken[~hole] == places[~hole]).all()
    assert not hole.reshape(-1)[taken].any()


def test_sky_is_copied_from_sky_and_ground_from_ground() -> None:
    image = a_scene(120, 160)
    hole = np.zeros((120, 160), dtype=bool)
    hole[40:90, 60:100] = True
    rows = choose_copies(image * ~hole, hole)[hole] // 160
    own = np.nonzero(hole)[0]
    assert ((rows < 60) == (own < 60)).mean() > 0.97
    filled = image.reshape(3, -1)[:, choose_copies(image, hole)]
    assert np.abs(filled - image)[:, hole].mean() < 0.1  # the stripes go on


def test_what_is_in_the_hole_has_no_effect() -> None:
    image, hole = a_scene(60, 80), np.zeros((60, 80), dtype=bool)
    hole[20:40, 30:50] = True
    other = np.where(hole, 0.9, image).astype(np.float32)
    assert (choose_copies(image, hole) == choose_copies(other, hole)).all()


def test_nearly_nothing_is_seen() -> None:
    image, hole = a_scene(60, 80), np.ones((60, 80), dtype=bool)
    hole[3, 5] = False
    assert (choose_copies(image, hole) == 3 * 80 + 5)[hole].all()


def test_a_small_copy_tells_textures_from_plain_colours() -> None:
    image = np.zeros((3, 96, 96), dtype=np.float32)
    image[:, :, 48:] = np.arange(48) % 2 - 0.5
    small, unseen = shrink(image, np.zeros((96, 96), dtype=bool))
    assert small.shape == (4, 48, 48)
    assert not unseen.any()
    np.testing.assert_allclose(small[:3], 0, atol=1e-6)
    assert (small[3, :, :24] == 0).all()
    np.testing.assert_allclose(small[3, :, 24:], 1)


def test_any_number_of_threads_chooses_the_same() -> None:
    image = a_scene(224, 224)
    hole = np.zeros((224, 224), dtype=bool)
    hole[60:150, 70:160] = True
    before = torch.get_num_threads()
    made = []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            made.append(choose_copies(image, hole))
    finally:
        torch.set_num_threads(before)
    assert (made[0] == made[1]).all()
