"""What a batch holds besides images and labels, and what its counterfactuals get there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kornia import augmentation as K
from source_helpers import Blocks, ReadableCGN, find_bright
from stream_helpers import SIZE, StubSource, large, one_batch, rows, same, stream
from torch import Tensor, nn
from torchvision.transforms import v2

from cgn_augment import (
    BankSource,
    Counterfactuals,
    FreshSource,
    RealShapeSource,
    match_real,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, DataError

IMAGES, LABELS = rows()
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])


# A value that nobody knows


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ((IMAGES, LABELS, WEIGHT), r"batch\[2\] is \(4,\) torch\.float32, .* fill=\{2: value\}"),
        ((IMAGES, LABELS, IMAGES.clone()), r"batch\[2\] is \(4, 3, 8, 8\)"),
        ((IMAGES, LABELS, LABELS > 1), r"batch\[2\] is \(4,\) torch\.bool"),
        ((IMAGES, LABELS, LABELS.byte()), r"batch\[2\] is \(4,\) torch\.uint8"),
        ((IMAGES, LABELS, torch.zeros(4, 8, 8).long()), r"batch\[2\] is \(4, 8, 8\) torch\.int64"),
        (
            {"x": IMAGES, "y": LABELS, "meta": {"weight": WEIGHT, "id": LABELS}},
            r"batch\['meta'\]\['weight'\] is .* pass fill=\{'meta': \{'weight': value\}\}",
        ),
        ((IMAGES, LABELS, [LABELS, WEIGHT]), r"batch\[2\]\[1\] .* fill=\{2: \{1: value\}\}"),
    ],
)
@pytest.mark.parametrize("mix", ["append", "replace", "separate"])
def test_a_column_whose_value_nobody_knows_is_an_error(batch: Any, named: str, mix: str) -> None:
    with pytest.raises(DataError, match=named):
        one_batch(batch, mix=mix, count=2)


def test_it_is_none_where_no_counterfactuals_come_or_others_columns_do() -> None:
    batch = {"image": IMAGES, "label": LABELS, "weight": WEIGHT}
    assert same(one_batch(batch, ratio=0), batch)
    assert len(one_batch(batch, output="dict")["image"]) == 8


@pytest.mark.parametrize(
    ("column", "fill", "expected"),
    [
        (WEIGHT, 1.0, [1.0, 1.0]),
        (WEIGHT, 0, [0.0, 0.0]),
        (WEIGHT.half(), 0.1, [0.1, 0.1]),
        (WEIGHT, math.nan, [math.nan] * 2),
        (LABELS > 1, True, [True, True]),
        (LABELS.byte(), 7, [7, 7]),
        (LABELS, 3, [3, 3]),
        (torch.zeros(4, 2), [0.5, 1.5], [[0.5, 1.5]] * 2),
        (torch.zeros(4, 2), torch.tensor(2.0), [[2.0, 2.0]] * 2),
        (["a", "b", "c", "d"], "made", ["made", "made"]),
    ],
)
def test_fill_says_what_counterfactuals_get(column: Any, fill: Any, expected: Any) -> None:
    made = one_batch({"x": IMAGES, "y": LABELS, "column": column}, fill={"column": fill}, count=2)
    rest = made["column"][4:]
    assert same(made["column"][:4], column)
    if isinstance(rest, Tensor):
        wanted = torch.tensor(expected).to(rest.dtype)
        torch.testing.assert_close(rest, wanted, equal_nan=True)
    else:
        assert rest == expected


def test_fill_goes_by_position_and_into_what_is_nested() -> None:
    batch = IMAGES, LABELS, {"weight": WEIGHT, "pair": (LABELS, WEIGHT)}
    for key in (2, -1):
        fill = {key: {"weight": 1.0, "pair": {1: 0.5}}}
        made = one_batch(batch, fill=fill, count=1)[2]
        assert made["weight"].tolist() == [1, 2, 3, 4, 1]
        assert [column.tolist() for column in made["pair"]] == [[0, 1, 2, 3, -1], [1, 2, 3, 4, 0.5]]


@pytest.mark.parametrize(
    ("column", "fill", "error", "message"),
    [
        (LABELS, {2: 0.5}, ArgumentError, r"fill=\{2: 0\.5\}: batch\[2\] is torch\.int64 and can"),
        (LABELS.byte(), {2: 300}, ArgumentError, r"torch\.uint8 and cannot hold that"),
        (WEIGHT, {2: [1.0, 2.0]}, ArgumentError, r"no row of batch\[2\], which has rows of \(\)"),
        (WEIGHT, {2: "heavy"}, ArgumentError, 'gets a number, a tensor or "mask"'),
        (WEIGHT, {2: "mask"}, DataError, "to hold the masks .*, and the source gives none"),
        ([LABELS, WEIGHT], {2: 1.0}, ArgumentTypeError, r"batch\[2\] has several parts; say what"),
        (WEIGHT, {"weight": 1.0}, ArgumentError, r"names 'weight', and the batch has \[0, 1, 2\]"),
        (WEIGHT, {-1: 1.0, 3: 1.0}, ArgumentError, "fill names 3, and the batch has"),
        (WEIGHT, {0: 1.0}, ArgumentError, "fill names 0, where images or labels are"),
        (WEIGHT, 1.0, ArgumentTypeError, r"fill must be \{key or position: value\}, .* got 1\.0"),
        (WEIGHT, {1.5: 1.0}, ArgumentTypeError, "fill must be"),
    ],
)
def test_a_fill_that_cannot_be_is_an_error(
    column: Any, fill: Any, error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        one_batch((IMAGES, LABELS, column), fill=fill)


# Masks


class Masked(StubSource):
    """Counterfactuals whose mask is where their first channel rises; both are numbered."""

    def sample(self, num: int, *arguments: Any) -> Counterfactuals:
        made = super().sample(num, *arguments)
        generator = arguments[0]
        mask = (torch.rand(num, 1, SIZE, SIZE, generator=generator) > 0.5).float()
        images = (mask * 2 - 1).expand(-1, 3, -1, -1).clone()
        return Counterfactuals(images, made.shape, made.texture, made.background, mask=mask)


@pytest.mark.parametrize(
    "column",
    [
        torch.ones(4, 1, SIZE, SIZE),
        torch.ones(4, SIZE, SIZE),
        torch.ones(4, 1, SIZE, SIZE, dtype=torch.bool),
        torch.ones(4, SIZE, SIZE, dtype=torch.float16),
    ],
)
@pytest.mark.parametrize("shuffle_rows", [False, True])
def test_a_column_of_masks_gets_those_of_the_counterfactuals(
    column: Tensor, shuffle_rows: bool
) -> None:
    batch = {"image": IMAGES, "label": LABELS, "mask": column, "at": LABELS}
    options = {"fill": {"mask": "mask"}, "shuffle_rows": shuffle_rows}
    made = one_batch(batch, Masked(), count=3, **options)
    assert made["mask"].dtype == column.dtype
    assert made["mask"].shape == (7, *column.shape[1:])
    new = made["at"] < 0
    shown = (made["image"][new, :1] > 0).view(made["mask"][new].shape)
    assert torch.equal(made["mask"][new].float(), shown.float())
    assert made["mask"][~new].all()


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (match_real(0.5, 0.5, augment=K.RandomHorizontalFlip(p=0.5)), 8),
        (match_real(0.5, 0.5, augment=K.RandomRotation90((1, 3), p=1.0)), 8),
        (match_real(0.5, 0.5, augment=v2.RandomVerticalFlip(0.5)), 8),
        (match_real(0.5, 0.5, 16), 16),
        (match_real(0.5, 0.5, 6, resize=8), 6),
        (
            match_real(
                0.5,
                0.5,
                (6, 7),
                nn.Sequential(
                    K.RandomHorizontalFlip(), v2.RandomHorizontalFlip(), K.RandomInvert(p=0.0)
                ),
                resize=8,
            ),
            (6, 7),
        ),
        (K.RandomHorizontalFlip(), 8),
        (v2.Compose([K.RandomHorizontalFlip(), v2.RandomCrop(6)]), 6),
    ],
)
def test_masks_go_where_the_transform_moves_the_images(transform: Any, size: Any) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.linspace(-1, 1, 4 * 3 * height * width).view(4, 3, height, width)
    batch = images, LABELS, torch.ones(4, 1, height, width)
    fill = {2: "mask"}
    made, _, masks = one_batch(batch, Masked(), transform=transform, fill=fill, count=20)
    torch.testing.assert_close(made[4:, :1] / 2 + 0.5, masks[4:], rtol=0, atol=1e-5)


def test_the_images_are_the_same_whether_masks_go_along_or_not() -> None:
    augment = nn.Sequential(
        K.RandomHorizontalFlip(),
        v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)]),
        K.RandomRotation(30.0, p=1.0),
    )
    transform = match_real(0.5, 0.5, 6, augment, resize=8)
    images = torch.linspace(-1, 1, 4 * 3 * 36).view(4, 3, 6, 6)
    batch = images, LABELS, torch.ones(4, 6, 6)
    with_masks, without = (
        one_batch(batch, Masked(), transform=transform, fill={2: fill})[0] for fill in ("mask", 0.0)
    )
    assert torch.equal(with_masks, without)


@pytest.mark.parametrize(
    ("column", "options", "error", "message"),
    [
        (torch.ones(4, 3, 8, 8), {}, DataError, r"rows of \(3, 8, 8\), and is to hold masks: they"),
        (torch.ones(4), {}, DataError, r"rows of \(\), and is to hold masks: they must be"),
        (torch.ones(4, 8, 8).short(), {}, DataError, "int16: make .* bool, uint8 of 0 to 255, or"),
        (
            torch.ones(4, 8, 8),
            {"transform": lambda made: made},
            ArgumentError,
            "transform has <lambda>, and nobody knows how it moves the mask",
        ),
        (
            torch.ones(4, 8, 8),
            {"transform": match_real(0.5, 0.5, augment=nn.Sequential(nn.Identity()))},
            ArgumentError,
            "augment has Identity, and nobody knows",
        ),
    ],
)
def test_masks_that_do_not_fit_are_an_error(
    column: Tensor, options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        one_batch((IMAGES, LABELS, column), Masked(), fill={2: "mask"}, **options)


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (4, 4)])
def test_masks_arrive_in_the_size_and_type_of_the_column(size: tuple[int, int]) -> None:
    def masks_in(column: Tensor) -> Tensor:
        batch = IMAGES, LABELS, column
        masks: Tensor = one_batch(batch, Masked(), fill={2: "mask"}, count=20)[2][4:]
        assert masks.dtype == column.dtype
        return masks

    exact = masks_in(torch.ones(4, 1, *size))
    assert 0 <= exact.min() < exact.max() <= 1
    bytes_ = masks_in(torch.full((4, *size), 255, dtype=torch.uint8))
    assert torch.equal(bytes_, (exact[:, 0] * 255).round().byte())
    assert torch.equal(masks_in(torch.ones(4, *size).bool()), exact[:, 0] > 0.5)


@pytest.mark.parametrize("kind", [FreshSource, BankSource])
def test_sources_that_draw_know_their_masks(kind: Any) -> None:
    options = {"size": 20} if kind is BankSource else {}
    source = kind(ReadableCGN(), **options)
    drawn = source.sample(5, torch.Generator().manual_seed(0))
    (mask, foreground, background), _ = source.sample_factors(5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.mask, mask)
    composed = mask * foreground + (1 - mask) * background
    torch.testing.assert_close(drawn.images, composed)


@pytest.mark.parametrize("place", [2, -1])
def test_masks_of_the_dataset_that_shapes_are_taken_by_are_followed_by_those_of_the_shapes(
    place: int,
) -> None:
    source = RealShapeSource(textures=BankSource(ReadableCGN(), 20), masks=place, gate=None)
    train = stream(Blocks(mask=True), source, batch_size=6, value_range=None)
    for images, labels, masks in train:
        assert images.shape[0] == labels.shape[0] == masks.shape[0] == 12
        assert torch.equal(masks[:6], find_bright(images[:6]))
        places = [[torch.equal(a, b) for b in masks[:6]].index(True) for a in masks[6:]]
        assert torch.equal(labels[6:], labels[places])


def test_the_large_masks_of_a_cgn_come_at_the_size_of_the_images(tiny_cgn: Any) -> None:
    images, labels = large()
    batch = images[..., ::2, ::2], labels, torch.ones(4, 16, 16)
    made = one_batch(batch, tiny_cgn, transform=match_real(0.5, 0.5, 16), fill={2: "mask"})
    assert made[2].shape == (8, 16, 16)
    assert made[2].min() >= 0
    assert made[2].max() <= 1
