"""Pixels of image files: upright, in eight bits, and masks in [0, 1]."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from PIL import Image

from cgn_augment.images.finding import read_image
from cgn_augment.images.reading import (
    alpha_of,
    bounded,
    open_image,
    resize_mask,
    to_mask,
    to_rgb,
    upright_size,
)

SLOPE = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4

# Of the eight orientations of EXIF: how the file's pixels lie when the image is seen as SLOPE.
STORED = {
    1: SLOPE,
    2: SLOPE[:, ::-1],
    3: SLOPE[::-1, ::-1],
    4: SLOPE[::-1],
    5: SLOPE.T,
    6: SLOPE.T[::-1],
    7: SLOPE.T[::-1, ::-1],
    8: SLOPE.T[:, ::-1],
}


def stored(pixels: np.ndarray, orientation: int, kind: str = "PNG") -> Image.Image:
    """An image of a file with these pixels and this orientation."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", STORED)
def test_images_masks_and_alpha_are_turned_alike(orientation: int) -> None:
    pixels = STORED[orientation]
    assert upright_size(stored(pixels, orientation)) == (6, 9)
    assert np.array_equal(np.asarray(to_rgb(stored(pixels, orientation)))[..., 1], SLOPE)
    assert np.array_equal((to_mask(stored(pixels, orientation)) * 255).round(), SLOPE)
    transparent = np.stack([pixels, pixels], axis=-1)
    found = alpha_of(stored(np.concatenate([transparent, transparent], axis=-1), orientation))
    assert np.array_equal((found * 255).round(), SLOPE)


def test_the_readers_of_folders_turn_images_too(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(STORED[6])).save(tmp_path / "1.png", exif=turned)
    assert read_image(tmp_path / "1.png").size == (9, 6)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 200, (200, 200, 200)),
        ("LA", (200, 0), (200, 200, 200)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 257 * 200, (200, 200, 200)),
        ("I", 257 * 200, (200, 200, 200)),
    ],
)
def test_every_kind_of_pixels_becomes_eight_bit_rgb(
    mode: str, value: object, expected: tuple[int, int, int]
) -> None:
    read = to_rgb(Image.new(mode, (3, 2), value))
    assert (read.mode, read.size, read.getpixel((1, 1))) == ("RGB", (3, 2), expected)


def test_palettes_with_transparency_warn_of_nothing(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (10, 200, 30, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.quantize(4).save(tmp_path / "1.png", transparency=bytes([255, 0]))
    with Image.open(tmp_path / "1.png") as found:
        assert to_rgb(found).getpixel((2, 2)) == (10, 200, 30)


def test_pixels_whose_range_is_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point numbers, whose range is not known"):
        to_rgb(Image.new("F", (2, 2), 0.5))
    with pytest.raises(ValueError, match="more than 16 bits"):
        to_mask(Image.fromarray(np.full((2, 2), 70_000, np.int32)))
    with pytest.raises(ValueError, match=r"no alpha channel \(its mode is RGB\)"):
        alpha_of(Image.new("RGB", (2, 2)))


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(np.arange(len(colours), dtype=np.uint8)[None])
    image.putpalette([part for colour in colours for part in colour])
    return image


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.fromarray(np.uint8([[0, 255, 51]])), [0, 1, 0.2]),
        (Image.fromarray(np.uint8([[0, 1, 1]])), [0, 1, 1]),  # as labels are often stored
        (Image.fromarray(np.bool_([[0, 1, 0]])), [0, 1, 0]),
        (Image.fromarray(np.uint16([[0, 65535, 13107]])), [0, 1, 0.2]),
        (palette((0, 0, 0), (64, 0, 0), (0, 0, 128)), [0, 1, 1]),  # classes by colour
        (palette((255, 255, 255), (0, 0, 0), (51, 51, 51)), [1, 0, 0.2]),  # shades of grey
        (Image.fromarray(np.uint8([[[0] * 3, [255] * 3, [51] * 3]])), [0, 1, 0.2]),
        (Image.fromarray(np.uint8([[[0, 0], [255, 255], [255, 0]]])), [0, 1, 0]),
    ],
)
def test_masks_of_every_kind_are_shares(mask: Image.Image, expected: list[float]) -> None:
    found = to_mask(mask)
    assert found.dtype == np.float32
    assert np.allclose(found, [expected])


def test_sizes_are_bounded_and_never_grow() -> None:
    assert bounded((300, 400), 200) == (150, 200)
    assert bounded((30, 40), 200) == (30, 40)
    assert bounded((1, 4000), 100) == (1, 100)
    mask = resize_mask(np.eye(64, dtype=np.float32), (20, 31))
    assert mask.shape == (20, 31)
    assert 0 <= torch.from_numpy(mask).min() <= torch.from_numpy(mask).max() <= 1


def test_files_come_by_path_by_url_and_as_bytes(tmp_path: Path) -> None:
    Image.fromarray(SLOPE).save(tmp_path / "1.png")
    for place in (
        str(tmp_path / "1.png"),
        (tmp_path / "1.png").as_uri(),
        (tmp_path / "1.png").read_bytes(),
    ):
        with open_image(place) as image:
            assert np.array_equal(np.asarray(image), SLOPE)


@pytest.mark.parametrize("package", ["cgn_augment", "train_generator"])
def test_pillow_is_told_which_formats_to_expect_wherever_a_file_is_opened(package: str) -> None:
    calls = [
        (path, [word.arg for word in node.keywords])
        for path in (REPO / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    ]
    assert [path for path, words in calls if "formats" not in words] == []
    assert bool(calls) == (package == "cgn_augment")  # the other one opens files by it
