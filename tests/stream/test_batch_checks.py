"""Values of batches: labels that have a class, images on the scale that was declared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stream_helpers import SIZE, StubSource, collect, one_batch, rows, stream
from torch import Tensor

from cgn_augment import Counterfactuals, RealBatch, Step, match_real
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.stream.batch_checks import BatchChecker
from cgn_augment.stream.batches import Layout

IMAGES, LABELS = rows()
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Wide(StubSource):
    """A source of 300 classes, or of so many that nobody says."""

    def __init__(self, num_classes: int | None = 300) -> None:
        super().__init__()
        self.num_classes, self.drawn = num_classes, num_classes or 300  # type: ignore[assignment]

    def sample(
        self,
        num: int,
        generator: torch.Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
    ) -> Counterfactuals:
        y = torch.randint(self.drawn, (3, num), generator=generator)
        return Counterfactuals(torch.zeros(num, 3, SIZE, SIZE), *y)


# Labels of few bits


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("num_classes", [300, None])
def test_a_label_that_its_type_cannot_hold_is_an_error(
    dtype: torch.dtype, num_classes: int | None
) -> None:
    with pytest.raises(DataError, match=rf"label \d+, and the real labels are {dtype}, which end"):
        one_batch((IMAGES, LABELS.to(dtype)), Wide(num_classes), count=64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("class_map", [None, {y: 9 - y for y in range(10)}])
def test_labels_that_fit_keep_their_type(dtype: torch.dtype, class_map: Any) -> None:
    narrow, wide = (
        one_batch((IMAGES, LABELS.to(kind)), count=64, class_map=class_map)[1]
        for kind in (dtype, torch.int64)
    )
    assert narrow.dtype == dtype
    assert torch.equal(narrow.long(), wide)


def test_a_factor_without_a_label_is_minus_one_whatever_the_type_of_labels() -> None:
    class Half(StubSource):
        def sample(self, num: int, *arguments: Any) -> Counterfactuals:
            made = super().sample(num, *arguments)
            return Counterfactuals(made.images, made.shape % 5, made.texture, made.background)

    class_map = {y: y for y in range(5)}
    batch = IMAGES, LABELS.to(torch.uint8)
    made = one_batch(batch, Half(), class_map=class_map, output="namedtuple", count=64)
    assert made.label.dtype == torch.uint8
    assert made.texture.dtype == torch.int64
    assert set(made.texture[4:].tolist()) == {-1, 0, 1, 2, 3, 4}


# Labels and images at any batch


def damaged(images: Tensor = IMAGES, labels: Tensor = LABELS) -> list[tuple[Tensor, Tensor]]:
    return [rows()] * 3 + [(images, labels)]


NAN = torch.where(torch.arange(4)[:, None, None, None] == 2, math.nan, IMAGES)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        (damaged(labels=torch.tensor([0, 1, 12, 3])), {}, ArgumentError, "label 12 and the CGN"),
        (damaged(labels=torch.tensor([1, 10, 2, 3])), {}, ArgumentError, "count from 1 want a"),
        (damaged(labels=torch.tensor([0, -1, 1, 1])), {}, DataError, "label -1: labels must be"),
        (
            damaged(labels=torch.tensor([0, -100, 1, 1])),
            {"class_map": {y: y for y in range(10)}},
            DataError,
            "label -100: labels must be 0 or more",
        ),
        (damaged(NAN), {}, DataError, r"1 of 4 real images hold NaN or infinity \(row 2 is"),
        (damaged(NAN), {"value_range": None}, DataError, "1 of 4 real images hold NaN"),
        (damaged(IMAGES.div(0)), {"transform": lambda made: made}, DataError, "infinity"),
    ],
)
def test_values_are_looked_at_in_every_batch(
    batches: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    steps = iter(stream(batches, **options))
    for _ in range(3):
        next(steps)
    with pytest.raises(error, match=message):
        next(steps)


def test_labels_beyond_the_classes_have_a_place_in_a_class_map() -> None:
    batches = damaged(labels=torch.tensor([0, 1, 300, 3]))
    collect(stream(batches, class_map={300: 0, **{y: y for y in range(1, 10)}}))


class OnGPU(Tensor):
    """A tensor that says that it lies on a GPU, and counts how often the host looks at a value."""

    looks = 0

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device("cuda")
        cls.looks += function in (Tensor.tolist, Tensor.item, Tensor.__bool__)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_on_a_gpu_only_the_first_batches_make_the_host_wait() -> None:
    checker, layout, looks = BatchChecker((-1, 1), 10), Layout(0, 1), []
    for _ in range(5):
        OnGPU.looks = 0
        checker.check((IMAGES.as_subclass(OnGPU), LABELS.as_subclass(OnGPU)), layout)
        looks.append(OnGPU.looks)
    assert min(looks[:2]) > 0
    assert looks[2:] == [0, 0, 0]  # eight images have been seen


# Ranges


def spanning(low: float, high: float, num: int, dtype: torch.dtype = torch.float32) -> Any:
    images = torch.linspace(low, high, num * 3 * SIZE**2).view(num, 3, SIZE, SIZE)
    return images.to(dtype), torch.arange(num) % 10


@pytest.mark.parametrize("num", [1, 2, 4, 8])
def test_batches_of_any_size_are_held_against_the_range(num: int) -> None:
    with pytest.raises(
        DataError, match=r"Either they are in \[0, 1\]: then pass transform=match_r"
    ):
        collect(stream([spanning(0, 1, num)] * 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision_may_round_beyond_the_range(dtype: torch.dtype) -> None:
    mean, std = (torch.tensor(values, dtype=dtype)[:, None, None] for values in IMAGENET)
    normal = (spanning(0, 1, 8, dtype)[0] - mean) / std
    batch = normal, torch.arange(8)
    made, _ = one_batch(batch, transform=match_real(*IMAGENET))
    assert made.dtype == dtype
    with pytest.raises(DataError, match="real images span"):
        one_batch((normal * 1.1, torch.arange(8)), transform=match_real(*IMAGENET))


@pytest.mark.parametrize(
    ("low", "high", "transform"),
    [
        (-1.0, -0.4, None),
        (-1.0, -0.9, None),
        (-0.5, 0.3, None),
        (0.0, 0.2, match_real()),
        (0.7, 1.0, match_real()),
        (-2.0, -1.0, match_real(*IMAGENET)),
        (-1.2, 0.9, match_real(*IMAGENET)),
        (-0.42, 1.0, match_real(0.1307, 0.3081)),
    ],
)
def test_dark_and_pale_images_on_the_right_scale_pass(
    low: float, high: float, transform: Any
) -> None:
    collect(stream([spanning(low, high, 8)] * 2, transform=transform))


@pytest.mark.parametrize(
    ("low", "high", "options", "message"),
    [
        (0, 1, {}, r"span \[0, 1\] .* in \[-1, 1\]"),
        (0, 0.3, {}, r"span \[0, 0\.3\] .* Or there is nothing darker .* then pass value_range=N"),
        (-0.02, 0.98, {}, r"Either they are in \[0, 1\]: .* as for plain ToTensor, or Normalize"),
        (0, 1, {"transform": match_real(*IMAGENET)}, r"Either they are in \[0, 1\]"),
        (-1, 1, {"transform": match_real(*IMAGENET)}, r"in \[-1, 1\]: then pass .*\(0\.5, 0\.5\)"),
        (0, 1, {"value_range": (0, 255), "transform": lambda made: made * 127 + 127}, "Either"),
        # Outside, where there is no doubt.
        (0, 255, {}, "look like bytes of 0 to 255; divide by 255 in the dataset"),
        (-2, 2.6, {}, r"pass transform=match_real\(mean, std\) with the mean and std of your Norm"),
        (-1, 1, {"transform": match_real()}, r"0\.5 and 0\.5 for \[-1, 1\]\), or value_range=None"),
    ],
)
def test_images_on_another_scale_are_an_error(
    low: float, high: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_batch(spanning(low, high, 8), **options)


class Bright(StubSource):
    def sample(self, num: int, *arguments: Any) -> Counterfactuals:
        made = super().sample(num, *arguments)
        return Counterfactuals(made.images * 2, made.shape, made.texture, made.background)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": Bright()}, r"a source must give images in \[-1, 1\]$"),
        ({"value_range": (0, 1)}, r"pass transform=match_real\(mean, std\)"),
        ({"transform": lambda made: made * 9, "value_range": (0, 1)}, "look at both, or pass the"),
        ({"transform": match_real(), "source": Bright()}, "look at both, or pass the value_range"),
    ],
)
def test_counterfactuals_out_of_the_range_are_an_error(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"counterfactuals span .*{message}"):
        one_batch(spanning(0, 1, 4), count=8, **options)
