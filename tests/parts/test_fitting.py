"""Parts of images of any size in a square."""

from __future__ import annotations

import pytest
import torch

from cgn_augment.parts.fitting import fit_background, fit_object, resize_bytes


def cut_of(height: int, width: int) -> torch.Tensor:
    cut = torch.randint(256, (4, height, width), generator=torch.Generator().manual_seed(0))
    cut[3] = 255
    return cut.byte()


def test_at_its_own_size_an_object_is_where_it_was_to_the_pixel() -> None:
    cut = cut_of(7, 10)
    square = fit_object(cut, (3, 20, 7, 10), (32, 32), 32)
    assert torch.equal(square[:, 3:10, 20:30], cut)
    square[:, 3:10, 20:30] = 0
    assert not square.any()


@pytest.mark.parametrize("image", [(64, 64), (40, 90), (300, 200)])
@pytest.mark.parametrize("size", [16, 32, 96])
def test_an_object_keeps_its_share_aspect_and_place(image: tuple[int, int], size: int) -> None:
    height, width = image
    box = (height // 4, width // 4, height // 4, width // 4)
    square = fit_object(cut_of(*box[2:]), box, image, size)
    rows, columns = ((square[3] > 0).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    area = len(rows) * len(columns) / size**2
    assert area == pytest.approx(1 / 16, abs=2.5 / size)
    assert len(columns) / len(rows) == pytest.approx(width / height, rel=6 / size)
    for inside in (rows, columns):
        assert inside[0] / (size - len(inside)) == pytest.approx(1 / 3, abs=1.5 / size)


def test_what_is_too_long_or_at_the_border_is_inside_whole() -> None:
    whole = fit_object(cut_of(20, 100), (10, 0, 20, 100), (40, 100), 30)
    assert (whole[3] > 0).any(0).all()
    assert int((whole[3] > 0).any(1).sum()) == 6
    corner = fit_object(cut_of(10, 10), (30, 90, 10, 10), (40, 100), 40)
    assert corner[3, -1, -1] == 255
    assert int((corner[3] > 0).sum()) == 36
    tiny = fit_object(cut_of(1, 1), (5, 5, 1, 1), (400, 400), 20)
    assert int((tiny[3] > 0).sum()) == 1


@pytest.mark.parametrize(("image", "size"), [((4, 8), 4), ((8, 4), 4)])
def test_a_background_is_cropped_at_a_place_of_its_longer_side(
    image: tuple[int, int], size: int
) -> None:
    picture = torch.arange(32, dtype=torch.uint8).view(image).expand(3, -1, -1)
    for place in range(5):
        square = fit_background(picture, place / 4, size)
        top, left = (place, 0) if image[0] > image[1] else (0, place)
        assert torch.equal(square, picture[:, top : top + 4, left : left + 4])
    assert fit_background(picture, 0.5, 3).shape == (3, 3, 3)


def test_bytes_are_resized_like_floats() -> None:
    pixels = cut_of(37, 61)
    resized = resize_bytes(pixels, (16, 24))
    exact = torch.nn.functional.interpolate(
        pixels[None].float(), (16, 24), mode="bilinear", antialias=True
    )[0]
    assert resized.dtype is torch.uint8
    assert (resized.float() - exact).abs().max() <= 1
