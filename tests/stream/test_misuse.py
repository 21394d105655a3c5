"""What a wrong call says: the argument, what was expected, what came, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stream_helpers import SIZE, Digits, DigitStream, StubSource, list_of_batches, picture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cgn_augment import (
    CounterfactualDataset,
    Counterfactuals,
    FreshSource,
    Interventions,
    SmallCGN,
    match_real,
)
from cgn_augment.errors import (
    ArgumentError,
    ArgumentTypeError,
    CGNError,
    CheckpointError,
    DataError,
    UsageError,
)


def stream(real: Any = None, source: Any = None, **options: Any) -> CounterfactualDataset:
    if real is None:
        real, options = Digits(20), {"batch_size": 4, **options}
    return CounterfactualDataset(real, source or StubSource(), **options)


def rows(num: int = 4) -> tuple[Tensor, Tensor]:
    return torch.stack([picture(i) for i in range(num)]), torch.arange(num) % 10


def large(num: int = 4) -> tuple[Tensor, Tensor]:
    """Real images of the size of a CGN's."""
    return torch.linspace(-1, 1, num * 3 * 32 * 32).view(num, 3, 32, 32), torch.arange(num) % 10


def iterate(batch: Any, source: Any = None, **options: Any) -> list[Any]:
    return list(stream([batch], source, **options))


class Empty(Dataset[Any]):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)


class OnMeta(StubSource):
    """A source whose generator is on the device "meta"."""

    device = torch.device("meta")


# Numbers and names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": -0.5}, ArgumentError, r"ratio must be finite and 0 or more, got -0\.5"),
        ({"ratio": math.nan}, ArgumentError, "ratio must be finite and 0 or more, got nan"),
        ({"ratio": math.inf}, ArgumentError, "ratio must be finite and 0 or more, got inf"),
        ({"ratio": "1"}, ArgumentTypeError, "ratio must be a number, got '1'"),
        ({"ratio": True}, ArgumentTypeError, "ratio must be a number, got True"),
        ({"count": -1}, ArgumentError, "count must be finite and 0 or more, got -1"),
        ({"fraction": 1.5}, ArgumentError, r"fraction must be below 1 .* got 1\.5"),
        ({"fraction": 1}, ArgumentError, "below 1 with mix='append', which keeps every real"),
        (
            {"ratio": 1, "count": 2},
            ArgumentError,
            "give one of ratio, count and fraction, got ratio and count: the others follow",
        ),
        ({"ratio": 1, "fraction": 0.5}, ArgumentError, "got ratio and fraction"),
        ({"count": 1, "fraction": 0.5}, ArgumentError, "got count and fraction"),
        ({"count": 5, "mix": "replace"}, ArgumentError, "cannot put 5 .* into a batch of 4"),
        ({"mix": "mixup"}, ArgumentError, "mix must be one of append, replace, separate, got 'mi"),
        ({"label": "colour"}, ArgumentError, "label must be one of shape, texture, background, al"),
        ({"output": "tuple"}, ArgumentError, "output must be one of same, dict, namedtuple, got"),
        ({"seed": -1}, ArgumentError, "seed must be 0 or more, got -1"),
        ({"seed": 1.0}, ArgumentTypeError, r"seed must be an integer, got 1\.0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be 1 or more, got 0"),
        ({"batch_size": 2.5}, ArgumentTypeError, r"batch_size must be an integer, got 2\.5"),
        ({"batch_size": True}, ArgumentTypeError, "batch_size must be an integer, got True"),
        ({"value_range": (1, -1)}, ArgumentError, r"value_range must be \(low, high\), got \(1,"),
        ({"batch_size": 21, "drop_last": True}, ArgumentError, "drop_last leaves nothing: 20 im"),
        ({"class_map": {}}, ArgumentError, "class_map is empty: give at least one label a class"),
        ({"class_map": {0: 3, 1: 3}}, ArgumentError, "gives class 3 to label 0 and to label 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_when_the_stream_is_made(
    options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(**options)


def test_a_negative_epoch_is_refused() -> None:
    with pytest.raises(ArgumentError, match="epoch must be 0 or more, got -1"):
        stream().set_epoch(-1)


@pytest.mark.parametrize(
    ("ratio", "error", "message"),
    [
        (math.nan, ArgumentError, "the ratio's schedule at step 1 must be finite .* got nan"),
        (-1.0, ArgumentError, "the ratio's schedule at step 1 must be finite .* got -1"),
        ("x", ArgumentTypeError, "the ratio's schedule at step 1 must be a number, got 'x'"),
    ],
)
def test_a_schedule_that_gives_no_ratio_is_an_error_at_its_step(
    ratio: Any, error: type[CGNError], message: str
) -> None:
    batches = iter(stream(ratio=lambda step: 1.0 if step == 0 else ratio))
    next(batches)
    with pytest.raises(error, match=message):
        next(batches)


def test_errors_are_of_this_library_and_built_in() -> None:
    for options, builtin in (({"ratio": -1}, ValueError), ({"ratio": "1"}, TypeError)):
        with pytest.raises(builtin) as caught:
            stream(**options)
        assert isinstance(caught.value, CGNError)


# Real data


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: Digits(20), {}, ArgumentError, r"\(Digits\) and has no batches yet: pass batch_"),
        (
            lambda: DataLoader(Digits(20), 4),
            {"batch_size": 4},
            ArgumentError,
            "batch_size: for a dataset alone; this DataLoader makes its own batches, or pass its",
        ),
        (
            lambda: DataLoader(Digits(20), 4),
            {"num_workers": 2, "seed_items": True},
            ArgumentError,
            "num_workers and seed_items: for a dataset alone",
        ),
        (
            lambda: DataLoader(Digits(20), 4),
            {"pin_memory": True},
            ArgumentError,
            "pin_memory: for a dataset alone",
        ),
        (list_of_batches, {"drop_last": True}, ArgumentError, "drop_last: for a dataset alone"),
        (
            lambda: iter(list_of_batches()),
            {},
            ArgumentTypeError,
            r"an iterator \(list_iterator\), which can be read once only: pass something that",
        ),
        (lambda: (b for b in list_of_batches()), {}, ArgumentTypeError, r"iterator \(generator\)"),
        (Empty, {"batch_size": 4}, ArgumentError, "the real dataset is empty"),
        (lambda: 7, {}, ArgumentTypeError, "must be a dataset, a DataLoader or an iterable .* int"),
        (lambda: 7, {"batch_size": 4}, ArgumentTypeError, "got int; batch_size is for datasets al"),
        (
            lambda: DigitStream(20),
            {"batch_size": 4, "seed_items": True},
            ArgumentError,
            "seed_items needs a map-style dataset",
        ),
    ],
)
def test_real_data_that_cannot_be_used_is_refused_when_the_stream_is_made(
    make: Any, options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        CounterfactualDataset(make(), StubSource(), **options)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(4, 3, SIZE, SIZE), "structure of the batch is unknown: it is a Tensor"),
        ((torch.zeros(4, 3, SIZE, SIZE),), r"unknown: it is a tuple of 1 \(Tensor\)\. Expected"),
        ({"image": 1, "class": 2}, r"a dict with the keys \['image', 'class'\].*with keys=\(image"),
        (([1, 2], [0, 1]), r"must be tensors, got a tuple of 2 \(list, list\): let the dataset"),
        ("batch", "unknown: it is a str"),
    ],
)
def test_a_batch_of_an_unknown_structure_is_an_error(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        iterate(batch)


@pytest.mark.parametrize(
    ("batch", "keys"), [(rows(), (0, 2)), (rows(), ("image", "label")), ({"x": 1}, ("x", "y"))]
)
def test_keys_that_a_batch_lacks_are_an_error(batch: Any, keys: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=f"the batch has nothing at {keys[0]!r} and {keys[1]!r}"):
        iterate(batch, keys=keys)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            (rows()[0] * 100).byte(),
            rows()[1],
            r"real images must be floating point, got torch\.uint8: scale them in",
        ),
        (
            rows()[0][:, :1],
            rows()[1],
            r"real images must be \(B, 3, H, W\), got \(4, 1, 8, 8\): give the data",
        ),
        (rows()[0][0], rows()[1], r"real images must be \(B, 3, H, W\), got \(3, 8, 8\)"),
        (
            rows()[0],
            rows()[1].float(),
            r"real labels must be \(4,\) integers, got \(4,\) torch\.float32: mix soft",
        ),
        (
            rows()[0],
            torch.eye(4),
            r"real labels must be \(4,\) integers, got \(4, 4\) torch\.float32",
        ),
        (
            rows()[0],
            torch.arange(3),
            r"real labels must be \(4,\) integers, got \(3,\) torch\.int64",
        ),
    ],
)
def test_images_and_labels_of_another_form_are_an_error(
    images: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        iterate((images, labels))


def test_images_of_another_size_than_the_counterfactuals_are_an_error() -> None:
    images, labels = large()
    message = (
        r"counterfactuals arrive as \(3, 8, 8\) and real images as \(3, 32, 32\): pass "
        r"transform=match_real\(mean, std, crop_size=32\), or resize the real images"
    )
    with pytest.raises(DataError, match=message):
        iterate((images, labels))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        # Plain ToTensor beside counterfactuals in [-1, 1].
        (
            torch.linspace(0, 1, 8 * 192),
            {},
            r"span \[0, 1\] but .* in \[-1, 1\]: pass transf",
        ),
        (torch.linspace(0, 255, 8 * 192), {}, r"span \[0, 255\] but counterfactuals are declared"),
        (torch.full((8 * 192,), math.nan), {}, r"span \[nan, nan\]"),
        (
            torch.linspace(-1, 1, 8 * 192),
            {"value_range": (0, 1)},
            r"span \[-1, 1\] but .* arrive in \[0, 1\].* or value_range=None if this is right",
        ),
        (
            torch.linspace(-1, 1, 8 * 192),
            {"transform": match_real()},
            r"span \[-1, 1\] but .* arrive in \[0, 1\]",
        ),
    ],
)
def test_images_of_another_range_than_declared_are_an_error(
    images: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        iterate((images.view(8, 3, SIZE, SIZE), torch.arange(8)), **options)


def test_counterfactuals_of_another_range_than_declared_are_an_error(tiny_cgn: SmallCGN) -> None:
    batch = (torch.linspace(0, 1, 8 * 3072).view(8, 3, 32, 32), torch.arange(8))
    message = r"counterfactuals span \[-.*\] but images are declared to be in \[0, 1\]: pass transf"
    with pytest.raises(DataError, match=message):
        next(iter(CounterfactualDataset([batch], tiny_cgn, value_range=(0, 1))))
    matched = CounterfactualDataset([batch], tiny_cgn, transform=match_real())
    assert next(iter(matched))[0].min() >= 0


def test_the_first_mixed_batch_is_checked_where_none_was_mixed_before() -> None:
    wrong = (torch.linspace(0, 255, 8 * 192).view(8, 3, SIZE, SIZE), torch.arange(8))
    batches = iter(stream([wrong] * 3, ratio=lambda step: float(step == 2)))
    next(batches)
    next(batches)
    with pytest.raises(DataError, match=r"span \[0, 255\]"):
        next(batches)


# Labels and classes


def test_a_label_that_the_cgn_has_no_class_for_is_an_error() -> None:
    images, _ = rows()
    message = r"has label 12 and the CGN only the classes 0 to 9: pass class_map=\{label: class"
    with pytest.raises(ArgumentError, match=message):
        iterate((images, torch.tensor([0, 1, 12, 3])))


def test_a_counterfactual_outside_the_class_map_is_an_error() -> None:
    message = "drew class . for the shape, which is outside the class map and can have no label"
    with pytest.raises(ArgumentError, match=message):
        iterate(rows(), class_map={0: 0, 1: 1}, count=50)


def test_a_class_outside_the_map_is_an_error_at_later_steps_too() -> None:
    class Later(StubSource):
        def sample(self, num: int, *arguments: Any) -> Counterfactuals:
            made = super().sample(num, *arguments)
            y = torch.full((num,), 0 if len(self.asked) == 1 else 7)
            return Counterfactuals(made.images, y, y, y)

    batches = iter(stream([rows()] * 2, Later(), class_map={0: 0, 1: 1}))
    next(batches)
    with pytest.raises(ArgumentError, match="drew class 7 for the shape"):
        next(batches)


def test_a_class_map_onto_classes_that_the_cgn_lacks_is_an_error(tiny_cgn: SmallCGN) -> None:
    message = r"names the classes \[10, 130\] but the CGN has only the classes 0 to 9"
    for source in (tiny_cgn, StubSource()):
        with pytest.raises(ArgumentError, match=message):
            stream(source=source, class_map={0: 1, 1: [130, 10]})


@pytest.mark.parametrize("factor", ["shape", "texture"])
def test_a_listed_class_without_a_label_is_an_error_where_it_would_be_the_label(
    factor: str, tiny_cgn: SmallCGN
) -> None:
    source = FreshSource(tiny_cgn, Interventions(**{factor: [1, 5]}))
    with pytest.raises(ArgumentError, match=rf"{factor} lists the classes \[5\] that are outside"):
        stream(source=source, class_map={0: 0, 1: 1}, label=factor)


def test_permuting_without_a_label_in_the_map_is_an_error(tiny_cgn: SmallCGN) -> None:
    source = FreshSource(tiny_cgn, Interventions("permute"))
    images, labels = large()
    with pytest.raises(ArgumentError, match="no label of the real batch has a class of the CGN"):
        iterate((images, labels + 5), source, class_map={0: 0, 1: 1})


# Sources


def test_a_thing_that_is_no_source_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be a Source .* or a frozen CGN, got object"):
        stream(source=object())


def test_a_cgn_that_is_still_in_training_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"still in training: call cgn\.freeze\(\)"):
        stream(source=SmallCGN(width=4))


def test_a_source_that_gives_another_number_is_an_error() -> None:
    class Lazy(StubSource):
        def sample(self, num: int, *arguments: Any) -> Counterfactuals:
            return super().sample(num - 1, *arguments)

    with pytest.raises(DataError, match="asked for 4 counterfactuals and gave 3"):
        iterate(rows(), Lazy())


# Devices


def test_a_generator_on_another_device_than_asked_is_refused() -> None:
    message = r"generator is on 'meta' and device='cpu' was asked for: load it there with load_cgn"
    with pytest.raises(UsageError, match=message):
        stream(source=OnMeta(), device="cpu")
    assert stream(source=OnMeta()).device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="cuda"):
        stream(device="cuda")


def test_iterating_in_a_fork_of_the_process_with_a_generator_on_a_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = stream()
    train.device = torch.device("cuda")
    iter(train)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    with pytest.raises(UsageError, match=r"forked .* make the CounterfactualDataset in this proc"):
        iter(train)
    train.device = torch.device("cpu")
    assert len(list(train)) == 5


# Where it is iterated


def test_iterating_in_a_worker_is_refused() -> None:
    outer = DataLoader(stream(), batch_size=None, num_workers=1)
    message = "inside a DataLoader worker.*pass num_workers to CounterfactualDataset, and use num_"
    with pytest.raises(UsageError, match=message):
        next(iter(outer))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_loader_that_would_batch_the_batches_is_refused(batch_size: int) -> None:
    message = r"add a dimension: use DataLoader\(stream, batch_size=None\), or iterate the stream"
    with pytest.raises(UsageError, match=message):
        next(iter(DataLoader(stream(), batch_size=batch_size)))


def test_a_dataset_around_a_stream_is_no_loader_that_batches_it() -> None:
    class Doubled(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for images, labels in stream():
                yield images * 2, labels

    assert len(list(DataLoader(Doubled(), batch_size=None))) == 5


def test_a_state_of_another_configuration_is_refused_with_both() -> None:
    state = stream(seed=1, ratio=0.5).state_dict()
    message = r"another configuration \(proportion: .*; seed: '1' then, '0' now\): make the stream"
    with pytest.raises(CheckpointError, match=message):
        stream().load_state_dict(state)
