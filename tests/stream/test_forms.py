"""What a user is told whose images or labels have another form: the mistake that was made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stream_helpers import StubSource, large, one_batch, rows
from torch import Tensor

from cgn_augment import Counterfactuals, match_real
from cgn_augment.errors import DataError

IMAGES, LABELS = rows()
INDEX = torch.arange(4)


def tall(num: int = 4) -> tuple[Tensor, Tensor]:
    """Real images that are no squares."""
    return torch.linspace(-1, 1, num * 3 * 12 * 16).view(num, 3, 12, 16), torch.arange(num)


class Grey(StubSource):
    def sample(self, num: int, *arguments: Any) -> Counterfactuals:
        made = super().sample(num, *arguments)
        return Counterfactuals(made.images[:, :1], made.shape, made.texture, made.background)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.permute(0, 2, 3, 1), r"\(4, 8, 8, 3\), channels last: move them to the front"),
        (IMAGES.permute(0, 2, 3, 1).mul(9).byte(), "channels last: .* with ToTensor"),
        (IMAGES[..., :1].permute(0, 2, 1, 3), r"channels last"),
        (IMAGES[:, :1], r"\(4, 1, 8, 8\), grey: end the dataset's transform with v2\.RGB\(\)"),
        (IMAGES[:, [0, 1, 2, 2]], r"RGBA or CMYK; open images with \.convert\('RGB'\)"),
        (IMAGES[:, [0, 1]], "counterfactuals are RGB and mix with RGB images alone"),
        (IMAGES[:, 0], r"\(4, 8, 8\): one image without a batch, or grey images without a ch"),
        (IMAGES[:, None].expand(-1, 2, -1, -1, -1), r"several crops, .*images\.flatten\(0, 1\)"),
        (IMAGES.flatten(1), r"got \(4, 192\): say where images and labels are with keys="),
        (IMAGES.mul(9).byte(), r"floating point, got torch\.uint8: scale them in the dataset"),
        (IMAGES[:0], "a batch of 0 images: let the loader's collate_fn, sampler or filter"),
    ],
)
def test_images_of_another_form(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_batch((images, LABELS[: len(images)]), count=2)


@pytest.mark.parametrize(
    ("batch", "options", "places"),
    [
        ((INDEX, IMAGES, LABELS), {}, r"\(1, 2\)"),
        ((LABELS, IMAGES), {}, r"\(1, 0\)"),
        ((["a"] * 4, IMAGES, LABELS), {"keys": (2, 1)}, r"\(1, 2\)"),
        ({"x": INDEX, "y": IMAGES, "z": LABELS}, {"keys": ("x", "z")}, r"\('y', 'x'\)"),
    ],
)
def test_images_that_are_elsewhere_in_the_batch(
    batch: Any, options: dict[str, Any], places: str
) -> None:
    with pytest.raises(DataError, match=f"images and labels elsewhere: pass keys={places}"):
        one_batch(batch, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:, None], r"got \(4, 1\) .*: a column of labels; .* labels\.squeeze\(1\)"),
        (LABELS.double()[:, None], r"a column of labels"),
        (LABELS.double(), r"\(4,\) torch\.float64: classes as floats; .* labels\.long\(\)"),
        (LABELS + 0.5, "measurements and no classes; the stream is for classification"),
        (torch.eye(4), "rows that sum to 1: .* the number of the class, and make soft labels"),
        (torch.full((4, 10), 0.1), "rows that sum to 1"),
        (torch.ones(4, 3).long(), "several labels for each image: .* must name one label"),
        (torch.tensor([[1.0, 1, 0]] * 4), "several labels for each image"),
        (torch.zeros(4, 8, 8).long(), "masks, boxes or several labels for each image"),
        (torch.tensor(3), r"got \(\) torch\.int64: masks, boxes or several"),
        (torch.arange(3), "images and labels differ in number; look at the collate_fn"),
        (LABELS > 1, r"torch\.bool: there is no room for more than two classes"),
        (LABELS * 1j, r"must be \(4,\) integers, got \(4,\) torch\.complex64"),
    ],
)
def test_labels_of_another_form(labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_batch((IMAGES, labels))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (IMAGES, ["cat", "dog", "cat", "cow"]),
            r"labels must be integers, .* a list of str: .*names of classes",
        ),
        ((IMAGES, [{"boxes": 1}] * 4), "got a list of dict: the stream is for classification"),
        (([object()] * 4, LABELS), r"images must be tensors, got a list of object: .* ToTensor"),
        (
            (IMAGES.numpy(), LABELS.numpy()),
            r"a ndarray: .* collate_fn .* \(torch\.from_numpy for arrays\)",
        ),
        ((IMAGES[0], 3), r"is one image \(3, 8, 8\) and its label, and no batch: pass batch_size"),
        (([IMAGES, IMAGES], LABELS), "there are 2 tensors of images: several views or crops"),
        ((IMAGES, (LABELS, LABELS)), "there are 2 tensors of labels: let the dataset return the"),
        ({"data": {"image": IMAGES}}, "or let the collate_fn put them there"),
        (IMAGES, "it is a Tensor, images alone, without labels: let"),
        ([IMAGES], r"a list of 1 \(Tensor\), images alone, without"),
        ({"image": IMAGES}, r"keys \['image'\].* keys=\(image, label\)"),
    ],
)
def test_a_batch_whose_parts_are_something_else(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_batch(batch)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (large(), {}, r"match_real\(mean, std, size=32\), or resize the real images"),
        (tall(), {}, r"match_real\(mean, std, size=\(12, 16\)\), or resize the real images"),
        (tall(), {"transform": match_real(0.5, 0.5)}, r"pass match_real size=\(12, 16\)"),
        (tall(), {"transform": match_real(0.5, 0.5, 12)}, r"\(3, 12, 12\) .* make images of \(12"),
        (tall(), {"transform": lambda made: made}, r"let transform make images of \(12, 16\)"),
        (rows(), {"source": Grey()}, r"\(1, 8, 8\) .* the transform must give \(N, 3, H, W\)"),
    ],
)
def test_counterfactuals_of_another_form(batch: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_batch(batch, **options)


def test_counterfactuals_arrive_at_the_height_and_width_of_the_real_images() -> None:
    images, labels = one_batch(tall(), transform=match_real(0.5, 0.5, size=(12, 16)))
    assert (images.shape, labels.shape) == ((8, 3, 12, 16), (8,))


def test_a_form_is_asked_of_steps_without_counterfactuals_where_rows_are_described() -> None:
    soft = IMAGES, torch.full((4, 10), 0.1)
    assert one_batch(soft, ratio=0)[1] is soft[1]
    with pytest.raises(DataError, match="rows that sum to 1"):
        one_batch(soft, ratio=0, output="dict")


def test_positions_count_from_the_end_too() -> None:
    images, index, labels = one_batch((IMAGES, INDEX, LABELS), keys=(-3, -1), count=2)
    assert (len(images), len(labels)) == (6, 6)
    assert index.tolist() == [0, 1, 2, 3, -1, -1]
    assert (labels >= 0).all()
