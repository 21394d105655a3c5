"""The sheet of a `RealShapeSource`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from source_helpers import shown

from cgn_augment import BankSource, RealShapeSource
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.sources.real_shapes_sheet import draw_real_shapes


def test_real_images_are_drawn_above_their_masks_and_counterfactuals(tiny_cgn: SmallCGN) -> None:
    images = torch.full((3, 3, 32, 32), -1.0)
    for place in (0, 1):
        images[place, :, 4 * place : 4 * place + 12, 8:24] = 1.0
    bank = BankSource(tiny_cgn, size=20)
    source = RealShapeSource(lambda part: (part[:, :1] > 0).float(), bank, cache_masks=True)
    figure = draw_real_shapes(source, images, torch.tensor([7, 8, 9]), num=2)
    names = [axes.get_ylabel() for axes in figure.axes[::3]]
    assert names == ["real image", "its mask", "counterfactual 1", "counterfactual 2"]
    assert [axes.get_xlabel() for axes in figure.axes[3:6]] == ["usable", "usable", "empty"]
    for column in (0, 1):
        mask = shown(figure.axes[3 + column])[:, :, 0] > 0.5
        assert np.array_equal(mask, images[column, 0].numpy() > 0)
        first, second = (shown(figure.axes[row + column]) for row in (6, 9))
        assert not np.array_equal(first, second)
    with pytest.raises(ArgumentError, match="num must be 1 or more, got 0"):
        draw_real_shapes(source, images, torch.arange(3), num=0)
    assert source.counts["usable"] == 0  # a picture counts nothing
