"""The sheet of a CGN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from source_helpers import shown

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.sheet import draw_cgn


def test_the_sheet_of_a_cgn_follows_its_seed_and_composes_its_rows(tiny_cgn: SmallCGN) -> None:
    first, again, other = (
        [shown(axes) for axes in draw_cgn(tiny_cgn, 3, seed=seed).axes] for seed in (0, 0, 1)
    )
    assert len(first) == 12
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    mask, foreground, background, counterfactual = (
        np.stack(first[i : i + 3]) for i in (0, 3, 6, 9)
    )
    composed = mask * foreground + (1 - mask) * background
    np.testing.assert_allclose(counterfactual, composed, atol=1e-5)


def test_the_sheet_of_a_cgn_shows_real_images_first(tiny_cgn: SmallCGN) -> None:
    figure = draw_cgn(tiny_cgn, 2, real=(torch.zeros(2, 3, 32, 32), torch.tensor([4, 9])))
    assert figure.axes[0].get_ylabel() == "real image"
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["class 4", "class 9"]
    with pytest.raises(ArgumentError, match="num must be 1 or more, got 0"):
        draw_cgn(tiny_cgn, 0)
