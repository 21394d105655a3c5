"""Whole sheets of an object's texture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgn_augment.parts.quilt import make_sheet


def an_object(height: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """A disc of noise with a bright rim, before black."""
    rows, columns = np.mgrid[:height, :width]
    far = np.hypot(rows - height / 2, columns - width / 2)
    inside = far < 0.4 * min(height, width)
    noise = np.random.default_rng(0).integers(50, 100, size=(3, height, width))
    noise[:, inside & (far > 0.4 * min(height, width) - 1.5)] = 255
    return torch.from_numpy((noise * inside).astype(np.uint8)), inside


@pytest.mark.parametrize("size", [(60, 90), (120, 40), (33, 33)])
def test_a_sheet_is_full_of_what_is_inside_and_of_nothing_else(size: tuple[int, int]) -> None:
    image, inside = an_object(*size)
    sheet = make_sheet(image, inside)
    assert sheet.shape == image.shape
    assert sheet.dtype == torch.uint8
    assert 50 <= int(sheet.min()) <= int(sheet.max()) < 100  # neither black nor the rim


def test_stripes_go_on_across_patches() -> None:
    inside = np.zeros((80, 80), dtype=bool)
    inside[20:60, 20:60] = True
    stripes = torch.arange(80).div(4, rounding_mode="floor").remainder(2).mul(200).to(torch.uint8)
    sheet = make_sheet(stripes.expand(3, 80, -1).contiguous(), inside)
    lines = sheet[0].float()
    assert (lines == lines[:1]).float().mean() > 0.98
    assert lines[0].unique().tolist() == [0, 200]


def test_thin_objects_and_single_pixels_give_a_sheet() -> None:
    image, inside = torch.full((3, 40, 50), 9, dtype=torch.uint8), np.zeros((40, 50), dtype=bool)
    inside[3:38, 10:12] = True
    image[:, torch.from_numpy(inside)] = 77
    assert make_sheet(image, inside).unique().tolist() == [77]
    alone = np.zeros((40, 50), dtype=bool)
    alone[5, 10] = True
    assert make_sheet(image, alone).unique().tolist() == [77]


def test_the_same_image_gives_the_same_sheet() -> None:
    image, inside = an_object(60, 60)
    assert torch.equal(make_sheet(image, inside), make_sheet(image.clone(), inside.copy()))
