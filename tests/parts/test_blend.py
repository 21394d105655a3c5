"""Blending: copies meet their surroundings without a seam."""

from __future__ import annotations

import numpy as np
import pytest

from cgn_augment.parts.blend import BAND, Bools, Floats, Places, blend, membrane, mismatch


def a_hole(height: int = 40, width: int = 56) -> Bools:
    hole = np.zeros((height, width), dtype=bool)
    hole[10:24, 20:41] = True
    return hole


def own_places(hole: Bools) -> Places:
    return np.arange(hole.size).reshape(hole.shape)


def laplace(values: Floats) -> Floats:
    """The sum of the differences from the neighbours in the image."""
    around = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    neighbours = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2]
    return 4 * values - neighbours - around[:, 1:-1, 2:]


@pytest.mark.parametrize("at_the_border", [False, True])
def test_a_membrane_solves_the_equation(
    at_the_border: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgn_augment.parts.blend.CYCLES", 20)
    hole = a_hole()
    if at_the_border:
        hole[:12, 30:] = True
    draw = np.random.default_rng(0)
    right = draw.normal(size=(2, *hole.shape)).astype(np.float32) * hole
    made = membrane(right, hole)
    assert (made[:, ~hole] == 0).all()
    np.testing.assert_allclose(laplace(made)[:, hole], right[:, hole], atol=1e-4)


def test_few_cycles_are_enough() -> None:
    hole = a_hole(120, 150)
    hole[20:100, 30:130] = True
    image = np.random.default_rng(0).uniform(-1, 1, size=(3, *hole.shape)).astype(np.float32)
    taken = own_places(hole)
    taken[20:100, 30:130] -= 30
    right = mismatch(image, hole, taken)
    made = membrane(right, hole)
    assert np.abs(laplace(made) - right)[:, hole].mean() < 0.02 * np.abs(right)[right != 0].mean()


def test_a_copy_of_another_brightness_is_brought_to_that_of_its_surroundings() -> None:
    hole = a_hole()
    image = np.full((1, *hole.shape), 0.2, dtype=np.float32)
    image[:, 25:] = 0.7
    taken = own_places(hole) + 16 * 56 * hole
    np.testing.assert_allclose(blend(image, hole, taken)[:, :24], 0.2, atol=0.01)


def test_a_ramp_goes_on_across_a_seam_within_the_hole() -> None:
    hole = a_hole()
    image = np.linspace(-1, 1, 56, dtype=np.float32) * np.ones((1, 40, 1), dtype=np.float32)
    taken = own_places(hole) + (14 * 56 - 5) * hole
    taken[:, 30:] -= 3 * hole[:, 30:]
    np.testing.assert_allclose(blend(image, hole, taken), image, atol=0.02)


def test_what_is_away_from_the_hole_stays() -> None:
    hole = a_hole()
    image = np.random.default_rng(0).uniform(-1, 1, size=(3, *hole.shape)).astype(np.float32)
    made = blend(image, hole, np.where(hole, 0, own_places(hole)))
    far = np.ones_like(hole)
    far[10 - BAND : 24 + BAND, 20 - BAND : 41 + BAND] = False
    assert (made[:, far] == image[:, far]).all()
    assert not np.allclose(made, image)
