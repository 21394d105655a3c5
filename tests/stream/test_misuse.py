"""What a wrong call says: the argument, what was expected, what came, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stream_helpers import (
    SIZE,
    Digits,
    DigitStream,
    StubSource,
    large,
    list_of_batches,
    one_batch,
    own,
    rows,
    stream,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cgn_augment import (
    Counterfactuals,
    FreshSource,
    Interventions,
    match_real,
)
from cgn_augment.errors import (
    ArgumentError,
    ArgumentTypeError,
    CGNError,
    DataError,
    UsageError,
)
from cgn_augment.generators import SmallCGN


class OnMeta(StubSource):
    """A source whose generator is on the device "meta"."""

    device = torch.device("meta")


# Numbers and names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": -0.5}, ArgumentError, r"ratio must be finite and 0 or more, got -0\.5"),
        ({"count": 5, "mix": "replace"}, ArgumentError, "cannot put 5 .* into a batch of 4"),
        ({"mix": "mixup"}, ArgumentError, "mix must be one of append, replace, separate, got 'mi"),
        ({"label": "colour"}, ArgumentError, "label must be one of shape, texture, background, al"),
        ({"output": "tuple"}, ArgumentError, "output must be one of same, dict, namedtuple, got"),
        ({"seed": -1}, ArgumentError, "seed must be 0 or more, got -1"),
        ({"seed": 1.0}, ArgumentTypeError, r"seed must be an integer, got 1\.0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be 1 or more, got 0"),
        ({"value_range": (1, -1)}, ArgumentError, r"value_range must be \(low, high\), got \(1,"),
        ({"source": object()}, ArgumentTypeError, r"a Source .* or a frozen CGN, got object"),
        ({"source": SmallCGN(width=1)}, ArgumentError, r"training: call cgn\.freeze\(\)"),
        ({"class_map": {0: 1, 1: 10}}, ArgumentError, r"\[10\] but the CGN has only the classes"),
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


def test_errors_are_of_this_library_and_built_in() -> None:
    for options, builtin in (({"ratio": -1}, ValueError), ({"ratio": "1"}, TypeError)):
        with pytest.raises(builtin) as caught:
            stream(**options)
        assert isinstance(caught.value, CGNError)


# Real data


ORDERS: dict[str, Any] = {
    "shuffle": False,
    "sampler": range(20),
    "batch_sampler": [[0, 1], [2, 3]],
}
READING: dict[str, Any] = {
    "batch_size": 4,
    **ORDERS,
    "num_workers": 0,
    "collate_fn": list,
    "pin_memory": False,
    "drop_last": False,
    "timeout": 0,
    "worker_init_fn": print,
    "multiprocessing_context": "fork",
    "generator": own(),
    "prefetch_factor": 1,
    "persistent_workers": False,
    "seed_items": True,
    "shard_iterable": False,
}


@pytest.mark.parametrize("name", READING)
def test_how_a_loader_reads_is_said_to_the_loader(name: str) -> None:
    loader = DataLoader(Digits(20), 4)
    # With these a list is a dataset.
    reals = [loader] if name in ("batch_size", "batch_sampler") else [loader, list_of_batches()]
    message = rf"{name}: for a dataset alone, and this .* its own batches; set it there, or pass"
    for real in reals:
        with pytest.raises(ArgumentError, match=message):
            stream(real, **{name: READING[name]})


@pytest.mark.parametrize("name", [*ORDERS, "seed_items"])
def test_an_iterable_dataset_has_its_own_order(name: str) -> None:
    options = {} if name == "batch_sampler" else {"batch_size": 4}
    with pytest.raises(ArgumentError, match=f"{name}: for a map-style dataset alone"):
        stream(DigitStream(20), **options, **{name: READING[name]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": range(20), "shuffle": True}, "sampler option is mutually exclusive with shu"),
        ({"batch_sampler": [[0]], "batch_size": 4}, "mutually exclusive with batch_size, shuffle"),
        ({"batch_sampler": [[0]], "shuffle": True}, "mutually exclusive"),
        ({"batch_sampler": [[0]], "sampler": [0]}, "mutually exclusive"),
        ({"batch_sampler": [[0]], "drop_last": True}, "mutually exclusive"),
        ({"timeout": 3}, "pass num_workers, or leave timeout out"),
        ({"prefetch_factor": 2}, "num_workers > 0 to enable multiprocessing"),
        ({"persistent_workers": True}, "needs num_workers > 0"),
        ({"multiprocessing_context": "spawn"}, "multi-process loading"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"shard_iterable": True}, "shard_iterable: for an iterable dataset alone"),
        ({"batch_size": 21, "drop_last": True}, "no batch: lower batch_size, leave drop_last out"),
        ({"sampler": []}, "no batch: .* give a sampler that draws more"),
    ],
)
def test_keywords_that_do_not_go_together_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        stream(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, r"batch_size must be an integer, got 2\.5"),
        ({"batch_size": True}, "batch_size must be an integer, got True"),
        ({"num_workers": "2"}, "num_workers must be an integer, got '2'"),
        ({"generator": 3}, r"generator must be a torch\.Generator, got 3"),
        ({"sampler": 3}, "sampler must be a sampler or a list, got int"),
        ({"sampler": iter([0])}, "sampler is an iterator .* read once only: pass something that"),
        ({"batch_sampler": iter([[0]])}, "batch_sampler is an iterator"),
    ],
)
def test_keywords_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        stream(**options)


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: Digits(20), {}, ArgumentError, r"\(Digits\) and has no batches yet: pass batch_"),
        (lambda: Digits(20), {"num_workers": 2}, ArgumentError, "has no batches yet: pass batch_"),
        (lambda: Digits(0), {"batch_size": 4}, ArgumentError, "the real dataset is empty"),
        (lambda: iter(list_of_batches()), {}, ArgumentTypeError, r"iterator \(list_iterator\)"),
        (lambda: 7, {}, ArgumentTypeError, "must be a dataset, a DataLoader or an iterable .* int"),
        (lambda: 7, {"batch_size": 4}, ArgumentTypeError, "got int; batch_size is for datasets al"),
    ],
)
def test_real_data_that_cannot_be_used_is_refused_when_the_stream_is_made(
    make: Any, options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(make(), **options)


IMAGES, LABELS = rows()


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ("batch", {}, "structure of the batch is unknown: it is a str"),
        ((IMAGES,), {}, r"unknown: it is a tuple of 1 \(Tensor\)\. Expected"),
        ({"image": 1, "class": 2}, {}, r"keys \['image', 'class'\].*with keys=\(image, label\)"),
        (([1, 2], [0, 1]), {}, r"must be tensors, got a tuple of 2 \(list, list\): let the data"),
        ((IMAGES, LABELS), {"keys": (0, 2)}, "the batch has nothing at 0 and 2"),
        ((IMAGES, LABELS), {"keys": ("image", "label")}, "nothing at 'image' and 'label'"),
        ({"x": 1}, {"keys": ("x", "y")}, "nothing at 'x' and 'y'"),
        (((IMAGES * 9).byte(), LABELS), {}, r"floating point, got torch\.uint8: scale them in"),
        ((IMAGES[:, :1], LABELS), {}, r"\(B, 3, H, W\), got \(4, 1, 8, 8\): give the dataset"),
        ((IMAGES[0], LABELS), {}, r"\(B, 3, H, W\), got \(3, 8, 8\)"),
        ((IMAGES, LABELS.float()), {}, r"must be \(4,\) integers, got \(4,\) .*32: mix soft"),
        ((IMAGES, torch.eye(4)), {}, r"must be \(4,\) integers, got \(4, 4\)"),
        ((IMAGES, torch.arange(3)), {}, r"must be \(4,\) integers, got \(3,\)"),
        (large(), {}, r"pass transform=match_real\(mean, std, crop_size=32\), or resize the real"),
    ],
)
def test_a_batch_of_another_form_is_an_error(
    batch: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_batch(batch, **options)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        # Plain ToTensor beside counterfactuals in [-1, 1].
        (torch.linspace(0, 1, 8 * 192), {}, r"span \[0, 1\] but .* in \[-1, 1\]: pass transf"),
        (torch.linspace(0, 255, 8 * 192), {}, r"span \[0, 255\] but"),
        (torch.full((8 * 192,), math.nan), {}, r"span \[nan, nan\]"),
        (torch.linspace(-1, 1, 8 * 192), {"value_range": (0, 1)}, "or value_range=None if this is"),
        (torch.linspace(-1, 1, 8 * 192), {"transform": match_real()}, r"to be in \[0, 1\]"),
    ],
)
def test_images_of_another_range_than_declared_are_an_error(
    images: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_batch((images.view(8, 3, SIZE, SIZE), torch.arange(8)), **options)


def test_counterfactuals_of_another_range_than_declared_are_an_error(tiny_cgn: SmallCGN) -> None:
    batch = (torch.linspace(0, 1, 8 * 3072).view(8, 3, 32, 32), torch.arange(8))
    message = r"counterfactuals span \[-.*\] but images are declared to be in \[0, 1\]: pass transf"
    with pytest.raises(DataError, match=message):
        next(iter(stream([batch], tiny_cgn, value_range=(0, 1))))
    matched = stream([batch], tiny_cgn, transform=match_real())
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
        one_batch((images, torch.tensor([0, 1, 12, 3])))


def test_a_counterfactual_outside_the_class_map_is_an_error() -> None:
    message = "drew class . for the shape, which is outside the class map and can have no label"
    with pytest.raises(ArgumentError, match=message):
        one_batch(rows(), class_map={0: 0, 1: 1}, count=50)


def test_a_source_that_takes_no_step_is_an_error() -> None:
    class Old(StubSource):
        def sample(self, num: int, generator: Any, real: Any = None) -> Counterfactuals:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(ArgumentTypeError, match=r"must take \(num, generator, step, real\)"):
        stream([rows()], Old())


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
        one_batch((images, labels + 5), source, class_map={0: 0, 1: 1})


# Sources


def test_a_source_that_gives_another_number_is_an_error() -> None:
    class Lazy(StubSource):
        def sample(self, num: int, *arguments: Any) -> Counterfactuals:
            return super().sample(num - 1, *arguments)

    with pytest.raises(DataError, match="asked for 4 counterfactuals and gave 3"):
        one_batch(rows(), Lazy())


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


class Refusal(IterableDataset[Any]):
    """What a worker is told; to raise it there would make torch wait for the worker."""

    def __iter__(self) -> Iterator[str]:
        try:
            iter(stream())
        except UsageError as error:
            yield str(error)


def test_iterating_in_a_worker_is_refused() -> None:
    (message,) = DataLoader(Refusal(), batch_size=None, num_workers=1)
    assert "pass num_workers to CounterfactualDataset, and use num_workers=0 outside" in message


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_loader_that_would_batch_the_batches_is_refused(batch_size: int) -> None:
    message = r"add a dimension: use DataLoader\(stream, batch_size=None\), or iterate the stream"
    with pytest.raises(UsageError, match=message):
        next(iter(DataLoader(stream(), batch_size=batch_size)))


def test_a_dataset_around_a_stream_is_no_loader_that_batches_it() -> None:
    class Doubled(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for images, labels in stream():
                yield images * 2, labels

    assert len(list(DataLoader(Doubled(), batch_size=None))) == 5
