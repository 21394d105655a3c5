"""Masks made better."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cgn_augment.errors import MissingPackageError
from cgn_augment.masks.refine import (
    Mask,
    Pixels,
    close_holes,
    find_by_grabcut,
    keep_largest,
    refine,
    refine_grabcut,
    refine_guided,
)
from cgn_augment.masks.settings import MaskSettings

HEIGHT, WIDTH = 60, 80


def scene(seed: int = 0) -> tuple[Pixels, NDArray[np.bool_]]:
    """A noisy image of a dark disc before a bright ground, and where the disc is."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = (rows - 28) ** 2 + (columns - 42) ** 2 < 15**2
    noise = np.random.default_rng(seed).normal(0, 6, (HEIGHT, WIDTH, 3))
    colours = np.where(inside[..., None], (60, 40, 120), (200, 210, 150))
    return (colours + noise).clip(0, 255).astype(np.uint8), inside


def overlap(mask: Mask, inside: NDArray[np.bool_]) -> float:
    found = mask > 0.5
    return float((found & inside).sum() / (found | inside).sum())


def shifted(inside: NDArray[np.bool_], pixels: int = 3) -> Mask:
    return np.roll(inside, (pixels, -pixels), (0, 1)).astype(np.float32)


def test_the_largest_part_stays_as_it_is_and_others_go_with_their_soft_edges() -> None:
    mask = np.zeros((10, 20), np.float32)
    mask[2:8, 2:8], mask[2:8, 8], mask[4:6, 15:17], mask[4:6, 14] = 1, 0.3, 0.9, 0.4
    kept = keep_largest(mask)
    assert np.array_equal(kept[:, :10], mask[:, :10])
    assert kept[:, 12:].max() == 0
    assert mask[4, 15] == np.float32(0.9)
    for single in (kept, np.zeros_like(mask), np.ones_like(mask)):
        assert np.array_equal(keep_largest(single), single)


def test_holes_are_closed_and_bays_are_not() -> None:
    mask = np.zeros((9, 9), np.float32)
    mask[1:8, 1:8] = 0.8
    mask[3:5, 3:5] = 0.2  # a hole
    mask[4:8, 6] = 0.1  # a bay
    closed = close_holes(mask)
    assert closed[3:5, 3:5].min() == 1
    changed = closed != mask
    assert int(changed.sum()) == 4


@pytest.mark.parametrize("method", [refine_guided, refine_grabcut])
def test_edges_come_nearer_to_those_of_the_image(method: Callable[[Pixels, Mask], Mask]) -> None:
    image, inside = scene()
    pixels = 3 if method is refine_grabcut else 1
    mask = shifted(inside, pixels)
    given = mask.copy()
    refined = method(image, mask)
    assert refined.dtype == np.float32
    assert 0 <= refined.min() <= refined.max() <= 1
    assert overlap(refined, inside) > (1 + overlap(mask, inside)) / 2
    assert np.array_equal(mask, given)
    assert np.array_equal(method(image, mask), refined)


@pytest.mark.parametrize("method", [refine_guided, refine_grabcut])
@pytest.mark.parametrize("value", [0, 1])
def test_a_mask_of_nothing_or_all_stays(
    method: Callable[[Pixels, Mask], Mask], value: float
) -> None:
    mask = np.full((HEIGHT, WIDTH), value, np.float32)
    assert np.allclose(method(scene()[0], mask), mask, atol=1e-3)


def test_grabcut_finds_an_object_without_a_mask() -> None:
    image, inside = scene()
    assert overlap(find_by_grabcut(image), inside) > 0.95
    assert find_by_grabcut(np.full((30, 40, 3), 90, np.uint8)).max() == 0
    assert find_by_grabcut(np.zeros((2, 1, 3), np.uint8)).shape == (2, 1)


def test_refinements_are_what_the_settings_ask_for() -> None:
    image, inside = scene()
    mask = inside.astype(np.float32)
    mask[28, 42] = 0
    mask[2, 2] = 1
    assert refine(image, mask, MaskSettings()) is mask
    both = refine(image, mask, MaskSettings(largest=True, close=True))
    assert np.array_equal(both > 0.5, inside)
    cut = refine(image, mask, MaskSettings(largest=True, edges="grabcut"))
    assert np.array_equal(cut, refine_grabcut(image, keep_largest(mask)))
    guided = refine(image, mask, MaskSettings(edges="guided"))
    assert np.array_equal(guided, refine_guided(image, mask))


def test_a_missing_opencv_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    image, inside = scene()
    with pytest.raises(MissingPackageError, match=r"GrabCut needs OpenCV: .*cgn-augment\[fill\]"):
        refine_grabcut(image, inside.astype(np.float32))
