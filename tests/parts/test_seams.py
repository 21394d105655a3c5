"""Seams between copies lie where they show least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cgn_augment.parts.seams import Seams


def test_a_label_takes_the_pixels_that_make_the_sum_least() -> None:
    """Against all labellings of a hole of eight pixels: with two labels the cut is exact."""
    draw = np.random.default_rng(1)
    image = draw.uniform(-1, 1, size=(3, 4, 14)).astype(np.float32)
    hole = np.zeros((4, 14), dtype=bool)
    hole[1:3, 5:9] = True
    image *= ~hole
    seams = Seams(image, hole, np.array([[0, 5], [0, -5]]))
    assert seams.seen.all()
    every = [seams.energy(np.array(labels)) for labels in itertools.product((0, 1), repeat=8)]
    chosen = seams.choose()
    assert set(chosen) <= {0, 1}
    np.testing.assert_allclose(seams.energy(chosen), min(every), rtol=0.06)


def test_the_copy_that_fits_fills_all_of_the_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgn_augment.parts.seams.LIKENESS", 0)
    tile = np.random.default_rng(0).uniform(-1, 1, size=(3, 5, 5)).astype(np.float32)
    hole = np.zeros((25, 25), dtype=bool)
    hole[6:12, 6:12] = True
    image = np.tile(tile, (1, 5, 5)) * ~hole
    seams = Seams(image, hole, np.array([[0, 7], [10, 0], [3, -8]]))
    assert (seams.choose() == 1).all()


def test_what_is_not_seen_is_not_copied() -> None:
    image = np.ones((3, 10, 30), dtype=np.float32)
    hole = np.zeros((10, 30), dtype=bool)
    hole[2:8, 10:20] = True
    seams = Seams(image * ~hole, hole, np.array([[0, 12], [0, -12]]))  # out on one side each
    labels = seams.choose()
    assert seams.seen[labels, np.arange(60)].all()
    assert set(labels) == {0, 1}


def test_what_is_not_like_its_surroundings_does_not_come_into_them() -> None:
    """A bright block in the middle of a copy, whose border fits."""
    image = np.zeros((3, 30, 40), dtype=np.float32)
    image[:, 20:24, 11:15] = 1
    hole = np.zeros((30, 40), dtype=bool)
    hole[4:12, 9:17] = True
    with_the_block, plain = [14, 0], [0, 15]
    labels = np.zeros(hole.shape, dtype=int)
    labels[hole] = Seams(image, hole, np.array([with_the_block, plain])).choose()
    assert (labels[6:10, 11:15] == 1).all()
