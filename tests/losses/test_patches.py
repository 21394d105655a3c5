"""Sheets of patches, against a loop that cuts out every patch of every image."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError
from train_generator.losses.patches import PatchConfig, draw_picks, make_sheets, read_patches, tile

SMALL = PatchConfig(resolution=20, size=3, num_best=7, num_drawn=9)


def slow_sheet(image: Tensor, mask: Tensor, picks: list[int], config: PatchConfig) -> Tensor:
    """The sheet of one image: all windows are cut out, sorted by their mean mask, and pasted."""
    size, last = config.size, config.resolution - config.size

    def resize(x: Tensor, *shape: int) -> Tensor:
        return F.interpolate(x[None], shape, mode="bicubic", align_corners=False)[0]

    large = [resize(x, config.resolution, config.resolution) for x in (image, mask)]
    windows = []
    for row in range(last + 1):
        for column in range(last + 1):
            place = slice(row, row + size), slice(column, column + size)
            window, covered = (x[:, place[0], place[1]] for x in large)
            windows.append((covered.mean().item(), window))
    windows.sort(key=lambda window: -window[0])
    side = math.isqrt(config.num_drawn)
    sheet = torch.zeros(3, side * size, side * size, dtype=image.dtype)
    for number, pick in enumerate(picks):
        top, left = size * (number // side), size * (number % side)
        sheet[:, top : top + size, left : left + size] = windows[pick][1]
    return resize(sheet, *image.shape[1:])


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (SMALL, (16, 16)),
        (SMALL, (24, 30)),
        (PatchConfig(40, 5, 50, 4), (32, 32)),
        (PatchConfig(), (64, 64)),
    ],
)
def test_all_images_at_once_are_the_sheets_of_a_loop(
    config: PatchConfig, shape: tuple[int, int], generator: torch.Generator
) -> None:
    num = 1 if config == PatchConfig() else 3  # whose loop takes long
    images = torch.rand(num, 3, *shape, generator=generator, dtype=torch.float64) * 2 - 1
    mask = torch.rand(num, 1, *shape, generator=generator, dtype=torch.float64)
    picks = draw_picks(num, config, generator)
    expected = [
        slow_sheet(*each, config) for each in zip(images, mask, picks.tolist(), strict=True)
    ]
    assert torch.equal(make_sheets(images, mask, picks, config), torch.stack(expected))


def test_patches_come_from_where_the_mask_is(generator: torch.Generator) -> None:
    images, mask = torch.full((2, 3, 32, 32), -1.0), torch.zeros(2, 1, 32, 32)
    images[0, :, :16], mask[0, :, :16] = 0.5, 1.0  # object above
    images[1, :, :, 20:], mask[1, :, :, 20:] = 0.25, 1.0  # object at the right
    sheets = make_sheets(images, mask, draw_picks(2, PatchConfig(), generator))
    assert sheets.shape == images.shape
    torch.testing.assert_close(sheets.mean((1, 2, 3)), torch.tensor([0.5, 0.25]), rtol=0, atol=0.05)


def test_sheets_have_no_gradients(generator: torch.Generator) -> None:
    images = torch.zeros(1, 3, 16, 16, requires_grad=True)
    mask = torch.rand(1, 1, 16, 16, requires_grad=True)
    assert not make_sheets(images, mask, draw_picks(1, SMALL, generator), SMALL).requires_grad


def test_picks_follow_from_the_generator_and_are_drawn_with_replacement() -> None:
    first, again, other = (
        draw_picks(4, PatchConfig(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() < 100
    assert any(len(set(picks)) < 36 for picks in first.tolist())


def test_patches_are_tiled_row_by_row() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    rows, columns = torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 2, 0, 2]])
    assert torch.equal(tile(read_patches(image, rows, columns, size=2)), image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 129}, r"size must be 1 to resolution \(128\) pixels, got 129"),
        ({"size": 0}, "size must be 1 to resolution"),
        ({"num_best": 0}, "num_best must be 1 to 12996"),
        ({"resolution": 16}, "num_best must be 1 to 4, .* 15 pixels has in 16, got 100"),
        ({"num_drawn": 35}, "num_drawn must be a square number, got 35"),
        ({"num_drawn": 0}, "num_drawn must be a square number, got 0"),
    ],
)
def test_settings_that_cannot_be_are_errors(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        PatchConfig(**settings)


def test_shapes_that_do_not_fit_are_errors(generator: torch.Generator) -> None:
    images, mask = torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    picks = draw_picks(2, SMALL, generator)
    with pytest.raises(
        ArgumentError, match=r"images and mask must have the shapes .*\(2, 1, 8, 8\)"
    ):
        make_sheets(images, mask[..., :8, :8], picks, SMALL)
    with pytest.raises(ArgumentError, match=r"picks must have the shape \(2, 9\), got \(1, 9\)"):
        make_sheets(images, mask, picks[:1], SMALL)
