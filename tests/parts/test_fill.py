"""Filling the hole that an object leaves."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from source_helpers import seeded
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError, MissingPackageError
from cgn_augment.parts.blend import BAND
from cgn_augment.parts.fill import FILLERS, find_filler


def photograph(height: int = 60, width: int = 80) -> tuple[Tensor, Tensor]:
    image = torch.randint(90, 110, (3, height, width), generator=seeded(), dtype=torch.uint8)
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[20:40, 30:50] = True
    image[:, hole] = 255
    return image, hole


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("size", [(60, 80), (41, 200)])
def test_a_hole_is_filled_with_what_is_around_it(name: str, size: tuple[int, int]) -> None:
    image, hole = photograph(*size)
    given = image.clone(), hole.clone()
    filled = find_filler(name)(image, hole)
    assert filled.shape == image.shape
    assert filled.dtype == torch.uint8
    assert torch.equal(image, given[0])
    assert torch.equal(hole, given[1])
    assert 70 < int(filled.min()) <= int(filled.max()) < 130
    far = torch.ones_like(hole)
    far[20 - BAND : 40 + BAND, 30 - BAND : 50 + BAND] = False
    assert torch.equal(filled[:, far], image[:, far])
    assert torch.equal(find_filler(name)(image, hole), filled)


def test_copies_keep_the_texture_and_the_others_do_not() -> None:
    image, hole = photograph()
    outside = image[:, ~hole].float().std(dim=1).mean()
    shares = {
        name: float(fill(image, hole)[:, hole].float().std(dim=1).mean() / outside)
        for name, fill in FILLERS.items()
    }
    assert 0.8 < shares["copy"] < 1.2
    assert shares["telea"] < 0.7
    assert shares["none"] == 0


@pytest.mark.parametrize("name", FILLERS)
def test_holes_at_the_border_and_all_but_a_pixel(name: str) -> None:
    image, hole = photograph()
    for part in (hole[:, :1] | True, hole | (torch.arange(80) > 40), torch.ones_like(hole)):
        given = part.expand_as(hole).clone()
        given[5, 6] = False
        assert find_filler(name)(image, given).shape == image.shape


def test_names_functions_and_nothing_else() -> None:
    for name, fill in FILLERS.items():
        assert find_filler(name) is fill
        assert find_filler(fill) is fill
        assert pickle.loads(pickle.dumps(find_filler(name))) is fill
    with pytest.raises(
        ArgumentError, match="no filler 'lama': give one of copy, telea, none, or a"
    ):
        find_filler("lama")
    with pytest.raises(ArgumentTypeError, match="a filler is one of"):
        find_filler(3)  # type: ignore[arg-type]


def test_a_function_fills_the_hole_and_leaves_the_rest() -> None:
    image, hole = photograph()
    filled = find_filler(lambda image, hole: torch.full_like(image, 7))(image, hole)
    assert (filled[:, hole] == 7).all()
    assert torch.equal(filled[:, ~hole], image[:, ~hole])


def test_a_function_that_returns_something_else_is_an_error() -> None:
    image, hole = photograph()
    with pytest.raises(
        DataError, match=r"must return a uint8 tensor \(3, H, W\), got torch.float32"
    ):
        find_filler(lambda image, hole: image.float())(image, hole)
    with pytest.raises(DataError, match=r"of the shape \(3, 60, 80\) .* got \(3, 60, 79\)"):
        find_filler(lambda image, hole: image[:, :, 1:])(image, hole)
    with pytest.raises(DataError, match=r"must return a uint8 tensor .* got NoneType"):
        find_filler(lambda image, hole: None)(image, hole)  # type: ignore[arg-type,return-value]


def test_without_opencv_telea_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r'pip install "cgn-augment\[fill\]"'):
        find_filler("telea")
    assert find_filler("copy")
