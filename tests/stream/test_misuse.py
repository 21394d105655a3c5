"""What a wrong call says: the argument, what was expected, what came, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

import pytest
import torch
from conftest import make_tiny_cgn
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
    OffAfter,
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
from cgn_augment.stream.batch_checks import span
from cgn_augment.stream.reading import ReadConfig


class OnMeta(StubSource):
    """A source whose generator is on the device "meta"."""

    device = torch.device("meta")


class Old(StubSource):
    """A source that is told no step."""

    def sample(self, num: int, generator: Any, real: Any = None) -> Counterfactuals:  # type: ignore[override]
        raise AssertionError


class Lazy(StubSource):
    """A source that gives one too few."""

    def sample(self, num: int, *arguments: Any) -> Counterfactuals:
        return super().sample(num - 1, *arguments)


CGN = make_tiny_cgn().freeze()
CLASSES = {0: 0, 1: 1}
OUTSIDE = r"lists the classes \[5\] that are outside"


def listing(**interventions: Any) -> FreshSource:
    return FreshSource(CGN, Interventions(**interventions))


# When the stream is made


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 5, "mix": "replace"}, ArgumentError, "cannot put 5 .* into a batch of 4"),
        ({"mix": "mixup"}, ArgumentError, "mix must be one of append, replace, separate, got 'mi"),
        ({"label": "colour"}, ArgumentError, "label must be one of shape, texture, background, al"),
        ({"output": "tuple"}, ArgumentError, "output must be one of same, dict, namedtuple, got"),
        ({"seed": -1}, ArgumentError, "seed must be 0 or more, got -1"),
        ({"seed": 1.0}, ArgumentTypeError, r"seed must be an integer, got 1\.0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be 1 or more, got 0"),
        ({"value_range": (1, -1)}, ArgumentError, r"value_range must be \(low, high\), got \(1,"),
        # Sources and classes.
        ({"source": object()}, ArgumentTypeError, r"a Source .* or a frozen CGN, got object$"),
        ({"source": Digits(4)}, ArgumentTypeError, "got Digits: the real data comes first, then"),
        ({"source": StubSource}, ArgumentTypeError, "source is the class StubSource: pass one ma"),
        ({"source": "wildlife"}, ArgumentTypeError, r"got 'wildlife': load_cgn\(…\) reads a CGN"),
        ({"class_map": "birds"}, ArgumentTypeError, "class_map must be a mapping .* got 'birds'"),
        ({"class_map": {"cat": 3}}, ArgumentTypeError, "must be integers .*class_to_idx"),
        ({"class_map": {7: 0, 8: 0}}, ArgumentError, r"turn it round if yours is \{class: label"),
        ({"ratio": OffAfter}, ArgumentTypeError, "ratio is the class OffAfter: pass a schedule"),
        ({"fraction": 50}, ArgumentError, r"got 50\.0 \(it is no percentage\)"),
        ({"value_range": 1}, ArgumentTypeError, r"must be \(low, high\) or None, got 1"),
        ({"value_range": "auto"}, ArgumentTypeError, r"\(low, high\) or None, got 'auto'"),
        ({"keys": "image"}, ArgumentTypeError, r"keys must be \(image, label\), .* got 'image'"),
        ({"keys": (0, 1, 2)}, ArgumentTypeError, r"keys must be .* got \(0, 1, 2\)"),
        ({"keys": (1, 1)}, ArgumentError, "keys must name images and labels, got 1 for both"),
        ({"source": SmallCGN(width=1)}, ArgumentError, r"training: call cgn\.freeze\(\)"),
        ({"source": Old()}, ArgumentTypeError, r"must take \(num, generator, step, real\)"),
        ({"class_map": {0: 1, 1: 10}}, ArgumentError, r"\[10\] but the CGN has only the classes"),
        ({"class_map": {}}, ArgumentError, "class_map is empty: give at least one label a class"),
        ({"class_map": {0: 3, 1: 3}}, ArgumentError, "gives class 3 to label 0 and to label 1"),
        ({"source": listing(shape=[1, 5]), "class_map": CLASSES}, ArgumentError, OUTSIDE),
        (
            {"source": listing(texture=[1, 5]), "class_map": CLASSES, "label": "texture"},
            ArgumentError,
            f"texture {OUTSIDE}",
        ),
        # Devices and ranks.
        (
            {"source": OnMeta(), "device": "cpu"},
            UsageError,
            r"is on 'meta' and device='cpu' was asked for: make it there \(a CGN with load_cgn",
        ),
        ({"device": "gpu"}, UsageError, "'gpu' is not the name of a device"),
        ({"rank": 1}, ArgumentError, "give rank and world_size together, or neither"),
        ({"world_size": 2}, ArgumentError, "give rank and world_size together, or neither"),
        ({"rank": 2, "world_size": 2}, ArgumentError, "rank must be 0 to 1 of 2, got 2"),
        ({"rank": -1, "world_size": 2}, ArgumentError, "rank must be 0 to 1 of 2, got -1"),
        # Keywords that do not go together.
        ({"sampler": range(20), "shuffle": True}, ArgumentError, "exclusive with shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 4}, ArgumentError, "exclusive with batch_size"),
        ({"batch_sampler": [[0]], "shuffle": True}, ArgumentError, "mutually exclusive"),
        ({"batch_sampler": [[0]], "sampler": [0]}, ArgumentError, "mutually exclusive"),
        ({"batch_sampler": [[0]], "drop_last": True}, ArgumentError, "mutually exclusive"),
        ({"timeout": 3}, ArgumentError, "pass num_workers, or leave timeout out"),
        ({"prefetch_factor": 2}, ArgumentError, "num_workers > 0 to enable multiprocessing"),
        (
            {"num_workers": 1, "prefetch_factor": 10**7},
            ArgumentError,
            "prefetch_factor must be 1024 or less, got 10000000",
        ),
        (
            {"num_workers": 1, "prefetch_factor": 0},  # torch yields no batch then
            ArgumentError,
            "prefetch_factor must be 1 or more, got 0",
        ),
        ({"persistent_workers": True}, ArgumentError, "needs num_workers > 0"),
        ({"multiprocessing_context": "spawn"}, ArgumentError, "multi-process loading"),
        ({"num_workers": -1}, ArgumentError, "num_workers must be 0 or more, got -1"),
        ({"shard_iterable": True}, ArgumentError, "shard_iterable: for an iterable dataset alone"),
        ({"batch_size": 21, "drop_last": True}, ArgumentError, "no batch: lower batch_size, leave"),
        ({"sampler": []}, ArgumentError, "no batch: .* give a sampler that draws more"),
        # Keywords of the wrong kind.
        ({"batch_size": 2.5}, ArgumentTypeError, r"batch_size must be an integer, got 2\.5"),
        ({"batch_size": True}, ArgumentTypeError, "batch_size must be an integer, got True"),
        ({"num_workers": "2"}, ArgumentTypeError, "num_workers must be an integer, got '2'"),
        ({"generator": 3}, ArgumentTypeError, r"generator must be a torch\.Generator, got 3"),
        ({"sampler": 3}, ArgumentTypeError, "sampler must be a sampler or a list, got int"),
        ({"sampler": iter([0])}, ArgumentTypeError, "sampler is an iterator .* read once only"),
        ({"batch_sampler": iter([[0]])}, ArgumentTypeError, "batch_sampler is an iterator"),
        # Real data.
        (
            {"real": Digits(20)},
            ArgumentError,
            r"\(Digits\) and has no batches yet: pass batch_",
        ),
        ({"real": Digits(20), "num_workers": 2}, ArgumentError, "no batches yet: pass batch_size"),
        ({"real": Digits(0), "batch_size": 4}, ArgumentError, "the real dataset is empty"),
        ({"real": iter([rows()])}, ArgumentTypeError, r"iterator \(list_iterator\)"),
        (
            {"real": {"train": Digits(4)}, "batch_size": 4},
            ArgumentTypeError,
            r"real is a dict of \['train'\]: pass one of these, such as real\['train'\]",
        ),
        ({"real": "photos"}, ArgumentTypeError, "real is a path, 'photos': pass a dataset"),
        ({"real": "photos", "batch_size": 4}, ArgumentTypeError, "ImageFolder"),
        ({"real": 7}, ArgumentTypeError, "must be a dataset, a DataLoader or an iterable .* int"),
        ({"real": 7, "batch_size": 4}, ArgumentTypeError, "int; batch_size is for datasets alone"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_stream_is_made(
    options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(**options)


def test_a_negative_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch must be 0 or more, got -1"):
        stream().set_epoch(-1)


READING: dict[str, Any] = {
    **{field.name: 1 for field in fields(ReadConfig) if field.default is not MISSING},
    "sampler": range(20),
    "batch_sampler": [[0, 1], [2, 3]],
    "timeout": 0,
    "generator": own(),
}
"""Each keyword that belongs to a dataset, with a value of its kind."""


@pytest.mark.parametrize("name", READING)
def test_how_a_loader_reads_is_said_to_the_loader(name: str) -> None:
    loader = DataLoader(Digits(20), 4)
    # With these a list is a dataset.
    reals = [loader] if name in ("batch_size", "batch_sampler") else [loader, list_of_batches()]
    message = rf"{name}: for a dataset alone, and this .* its own batches; set it there, or pass"
    for real in reals:
        with pytest.raises(ArgumentError, match=message):
            stream(real, **{name: READING[name]})


@pytest.mark.parametrize("name", ["shuffle", "sampler", "batch_sampler", "seed_items"])
def test_an_iterable_dataset_has_its_own_order(name: str) -> None:
    options = {} if name == "batch_sampler" else {"batch_size": 4}
    with pytest.raises(ArgumentError, match=f"{name}: for a map-style dataset alone"):
        stream(DigitStream(20), **options, **{name: READING[name]})


# At the first batch

IMAGES, LABELS = rows()
EIGHT = torch.arange(8)


def eight(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.view(8, 3, SIZE, SIZE), EIGHT


def rising(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Eight images that fill a range."""
    return eight(torch.linspace(low, high, 8 * 3 * SIZE**2))


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ("batch", {}, "structure of the batch is unknown: it is a str"),
        ({"image": 1, "class": 2}, {}, r"keys \['image', 'class'\].*with keys=\(image, label\)"),
        ((IMAGES, LABELS), {"keys": (0, 2)}, "the batch has nothing at 0 and 2"),
        ((IMAGES, LABELS), {"keys": ("image", "label")}, "nothing at 'image' and 'label'"),
        ({"x": 1}, {"keys": ("x", "y")}, "nothing at 'x' and 'y'"),
        (((IMAGES * 9).byte(), LABELS), {}, r"floating point, got torch\.uint8: scale them in"),
        (large(), {}, r"pass transform=match_real\(mean, std, size=32\), or resize the real"),
        # Plain ToTensor beside counterfactuals in [-1, 1].
        (rising(0, 1), {}, r"span \[0, 1\] but .* in \[-1, 1\], of .* pass transf"),
        (rising(0, 255), {}, r"span \[0, 255\] but"),
        (eight(torch.full((8 * 192,), math.nan)), {}, r"8 of 8 real images hold NaN .* \(row 0 is"),
        (rising(-1, 1), {"value_range": (0, 1)}, "or value_range=None if this is"),
        (rising(-1, 1), {"transform": match_real()}, r"to be in \[0, 1\]"),
        (
            rising(0, 1),
            {"value_range": (0, 1)},
            r"counterfactuals span \[-.*\] but images are declared to be in \[0, 1\]: pass transf",
        ),
        ((IMAGES, LABELS), {"source": Lazy()}, "asked for 4 counterfactuals and gave 3"),
    ],
)
def test_a_batch_of_another_form_or_range_is_an_error(
    batch: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_batch(batch, **options)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (
            (IMAGES, torch.tensor([0, 1, 12, 3])),
            {},
            r"has label 12 and the CGN only the classes 0 to 9: pass class_map=\{label: class",
        ),
        (
            rows(),
            {"class_map": CLASSES, "count": 50},
            "drew class . for the shape, which is outside the class map and can have no label",
        ),
        (
            (large()[0], large()[1] + 5),
            {"source": FreshSource(CGN, Interventions("permute")), "class_map": CLASSES},
            "no label of the real batch has a class of the CGN",
        ),
    ],
)
def test_a_label_without_a_class_or_a_class_without_a_label_is_an_error(
    batch: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        one_batch(batch, **options)


def test_the_first_mixed_batch_is_checked_where_none_was_mixed_before() -> None:
    batches = iter(stream([rising(0, 255)] * 3, ratio=lambda step: float(step == 2)))
    next(batches)
    next(batches)
    with pytest.raises(DataError, match=r"span \[0, 255\]"):
        next(batches)


def test_a_class_outside_the_map_is_an_error_at_later_steps_too() -> None:
    class Later(StubSource):
        def sample(self, num: int, *arguments: Any) -> Counterfactuals:
            made = super().sample(num, *arguments)
            y = torch.full((num,), 0 if len(self.asked) == 1 else 7)
            return Counterfactuals(made.images, y, y, y)

    batches = iter(stream([rows()] * 2, Later(), class_map=CLASSES))
    next(batches)
    with pytest.raises(ArgumentError, match="drew class 7 for the shape"):
        next(batches)


# Where it is iterated


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


class Refusal(IterableDataset[Any]):
    """What a worker is told; to raise it there would make torch wait for the worker."""

    def __iter__(self) -> Iterator[str]:
        try:
            iter(stream())
        except UsageError as error:
            yield str(error)


def test_iterating_in_a_worker_is_refused() -> None:
    (message,) = DataLoader(Refusal(), batch_size=None, num_workers=1)
    assert "pass num_workers to CounterfactualDataset, and iterate the stream itself" in message


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_loader_that_would_batch_the_batches_is_refused(batch_size: int) -> None:
    message = r"batch the ready batches .* once more: iterate the stream itself, .*as_loader\(\)"
    with pytest.raises(UsageError, match=message):
        next(iter(DataLoader(stream(), batch_size=batch_size)))


def test_a_dataset_around_a_stream_is_no_loader_that_batches_it() -> None:
    class Doubled(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for images, labels in stream():
                yield images * 2, labels

    assert len(list(DataLoader(Doubled(), batch_size=None))) == 5


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_values_are_looked_at_in_the_order_of_memory(
    memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another order a look at a batch of photographs costs more than all else of a step."""
    seen: list[torch.Tensor] = []
    plain = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda values: (seen.append(values), plain(values))[1])
    least, most = span(torch.arange(24.0).view(1, 3, 2, 4).contiguous(memory_format=memory))
    assert (least, most) == (0, 23)
    assert seen[0].is_contiguous()
