"""What goes into a stream, and what comes out of it."""

from __future__ import annotations

import io
import multiprocessing
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
import webdataset
from stream_helpers import (
    SIZE,
    Digits,
    DigitStream,
    EpochDigits,
    SizedDigitStream,
    StubSource,
    classes_shown,
    collect,
    epochs_shown,
    indices,
    list_of_batches,
    picture,
    same,
)
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    FreshSource,
    Interventions,
    MixedBatch,
    OffAfter,
    Ramp,
    SmallCGN,
    match_real,
)
from cgn_augment.stream.batches import pad_extra

# torchdata 0.11 makes its loaders with a call that torch 2.14 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

leaves_files_open = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
)
"""webdataset closes its shards when they are collected."""


class Pair(NamedTuple):
    image: Tensor
    label: Tensor
    index: Tensor


def stream(real: Any = None, source: Any = None, **options: Any) -> CounterfactualDataset:
    """A stream of five steps of four real images, of a map-style dataset unless told otherwise."""
    if real is None:
        real, options = Digits(20), {"batch_size": 4, **options}
    return CounterfactualDataset(real, source or StubSource(), **options)


def rows(num: int = 4, first: int = 0) -> tuple[Tensor, Tensor]:
    numbers = range(first, first + num)
    return torch.stack([picture(i) for i in numbers]), torch.tensor([i % 10 for i in numbers])


def one_batch(batch: Any, source: Any = None, **options: Any) -> Any:
    """What a stream makes of a single real batch."""
    (made,) = stream([batch], source, **options)
    return made


def num_made(batches: list[Any], batch_size: int = 4) -> list[int]:
    return [len(images) - batch_size for images, _ in batches]


def large(num: int = 4) -> tuple[Tensor, Tensor]:
    """Real images of the size of a CGN's."""
    return torch.rand(num, 3, 32, 32) * 2 - 1, torch.arange(num) % 10


# Inputs


def web_loader(folder: Path) -> webdataset.WebLoader:
    """Twenty pictures in a shard."""
    with webdataset.TarWriter(str(folder / "digits.tar")) as tar:
        for i in range(20):
            file = io.BytesIO()
            torch.save(picture(i), file)
            tar.write({"__key__": f"{i:03}", "pth": file.getvalue(), "cls": i % 10})
    shards = webdataset.WebDataset(str(folder / "digits.tar"), shardshuffle=False)
    samples = shards.decode().to_tuple("pth", "cls").batched(4)
    return webdataset.WebLoader(samples, batch_size=None, num_workers=0)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("dataset", 5),
        ("iterable", None),
        ("sized iterable", 5),
        ("loader", 5),
        ("loader of an iterable", None),
        ("StatefulDataLoader", 5),
        ("list", 5),
        ("iterable of batches", None),
        pytest.param("WebLoader", None, marks=leaves_files_open),
    ],
)
def test_real_data_of_any_kind_is_read_whole_with_counterfactuals_behind_it(
    name: str, length: int | None, tmp_path: Path
) -> None:
    class Batches(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(list_of_batches())

    real, options = {
        "dataset": lambda: (Digits(20), {"batch_size": 4}),
        "iterable": lambda: (DigitStream(20), {"batch_size": 4}),
        "sized iterable": lambda: (SizedDigitStream(20), {"batch_size": 4}),
        "loader": lambda: (DataLoader(Digits(20), 4, shuffle=True), {}),
        "loader of an iterable": lambda: (DataLoader(DigitStream(20), 4), {}),
        "StatefulDataLoader": lambda: (StatefulDataLoader(Digits(20), 4), {}),
        "list": lambda: (list_of_batches(), {}),
        "iterable of batches": lambda: (Batches(), {}),
        "WebLoader": lambda: (web_loader(tmp_path), {}),
    }[name]()
    train = stream(real, ratio=0.5, **options)
    for _ in range(2):
        batches = list(train)
        assert [tuple(images.shape) for images, _ in batches] == [(6, 3, SIZE, SIZE)] * 5
        real_images = torch.cat([images[:4] for images, _ in batches])
        assert sorted(indices(real_images)) == list(range(20))
        for images, labels in batches:
            assert labels.dtype == torch.int64
            assert labels[:4].tolist() == [i % 10 for i in indices(images[:4])]
            assert torch.equal(labels[4:], classes_shown(images[4:])[0])
    if length is None:
        with pytest.raises(TypeError, match="has no length, so the stream has none"):
            len(train)
    else:
        assert len(train) == length


def test_a_frozen_cgn_stands_for_a_fresh_source(tiny_cgn: SmallCGN) -> None:
    batch = large()
    assert same(one_batch(batch, tiny_cgn), one_batch(batch, FreshSource(tiny_cgn)))


def test_a_loader_that_drops_the_last_batch_or_has_batches_of_its_own_keeps_its_length() -> None:
    dropping = DataLoader(Digits(19), 4, drop_last=True)
    own = DataLoader(Digits(19), batch_sampler=[[0, 1], [2, 3, 4]])
    for loader in (dropping, own):
        train = stream(loader)
        assert len(train) == len(list(train)) == len(loader)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("num", [19, 20])
def test_the_length_is_the_exact_number_of_steps(num: int, drop_last: bool) -> None:
    for kind in (Digits, SizedDigitStream):
        train = stream(kind(num), batch_size=4, drop_last=drop_last)
        assert len(train) == len(list(train)) == (num // 4 if drop_last else 5)


def test_workers_that_round_their_own_part_leave_no_exact_length() -> None:
    # Two workers make batches of 4, 4, 2 and 4, 4, 1 images: six, where 19 / 4 rounds up to five.
    train = stream(SizedDigitStream(19), batch_size=4, num_workers=2, ratio=0)
    with pytest.raises(TypeError, match="no length"):
        len(train)
    assert len(list(train)) == 6


def test_workers_that_get_ready_batches_keep_the_declared_length() -> None:
    assert len(stream(DataLoader(SizedDigitStream(20), batch_size=None, num_workers=2))) == 20


def test_images_are_read_in_order_where_not_shuffled_and_in_another_each_epoch_else() -> None:
    ordered = stream(shuffle=False, ratio=0)
    assert indices(torch.cat([images for images, _ in ordered])) == list(range(20))
    shuffled = stream(ratio=0)
    first, second = (indices(torch.cat([images for images, _ in shuffled])) for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))


# Structure of batches


def test_a_batch_keeps_its_structure() -> None:
    images, labels = rows()
    index = torch.arange(4)
    pairs: list[tuple[Any, type]] = [
        ((images, labels, index), tuple),
        ([images, labels, index], list),
        (Pair(images, labels, index), Pair),
        ({"image": images, "label": labels, "index": index}, dict),
        (OrderedDict(image=images, label=labels, index=index), OrderedDict),
    ]
    for batch, kind in pairs:
        made = one_batch(batch, ratio=0.5)
        assert type(made) is kind
        if isinstance(batch, Mapping):
            assert list(made) == list(batch)
            made = tuple(made.values())
        assert [len(value) for value in made] == [6, 6, 6]
        assert same(made[0][:4], images)
        assert same(made[1][:4], labels)
        assert made[2].tolist() == [0, 1, 2, 3, -1, -1]


@pytest.mark.parametrize("image", ["image", "images", "img", "pixel_values", "x"])
@pytest.mark.parametrize("label", ["label", "labels", "target", "targets", "y"])
def test_the_usual_keys_are_found(image: str, label: str) -> None:
    images, labels = rows()
    made = one_batch({label: labels, image: images, "other": 3})
    assert len(made[image]) == len(made[label]) == 8
    assert made["other"] == 3


def test_keys_say_where_images_and_labels_are() -> None:
    images, labels = rows()
    made = one_batch((torch.arange(4), labels, images), keys=(2, 1))
    assert [len(value) for value in made] == [8, 8, 8]
    assert same(made[2][:4], images)
    made = one_batch({"pixels": images, "digit": labels, "label": "no"}, keys=("pixels", "digit"))
    assert len(made["pixels"]) == len(made["digit"]) == 8
    assert made["label"] == "no"


def test_further_fields_are_padded_with_what_says_that_there_is_none() -> None:
    images, labels = rows()
    made = one_batch(
        {
            "image": images,
            "label": labels,
            "index": torch.arange(4),
            "pixels": torch.ones(4, 2, dtype=torch.uint8),
            "weight": torch.ones(4),
            "seen": torch.ones(4, dtype=torch.bool),
            "path": ["a", "b", "c", "d"],
            "pair": ("a", "b", "c", "d"),
            "sizes": [torch.arange(4), torch.arange(4)],
            "meta": {"id": torch.arange(4), "split": "train"},
            "scale": torch.tensor(2.0),
            "classes": torch.arange(10),
        },
        count=1,
    )
    assert made["index"].tolist() == [0, 1, 2, 3, -1]
    assert made["pixels"][4].tolist() == [0, 0]
    assert made["weight"][:4].tolist() == [1, 1, 1, 1]
    assert made["weight"][4].isnan()
    assert made["seen"].tolist() == [True] * 4 + [False]
    assert made["path"] == ["a", "b", "c", "d", None]
    assert made["pair"] == ("a", "b", "c", "d", None)
    assert [column.tolist() for column in made["sizes"]] == [[0, 1, 2, 3, -1]] * 2
    assert made["meta"]["id"].tolist() == [0, 1, 2, 3, -1]
    assert made["meta"]["split"] == "train"
    assert made["scale"] == 2.0
    assert made["classes"].tolist() == list(range(10))


def test_replaced_images_take_their_further_fields_with_them() -> None:
    images, labels = rows(8)
    batch = {
        "image": images,
        "label": labels,
        "index": torch.arange(8),
        "path": [str(i) for i in range(8)],
        "sizes": [torch.arange(8), torch.arange(8)],
    }
    made = one_batch(batch, mix="replace", count=3)
    kept = indices(made["image"][:5])
    assert made["index"].tolist() == kept + [-1] * 3
    assert made["path"] == [str(i) for i in kept] + [None] * 3
    assert made["sizes"][1].tolist() == kept + [-1] * 3
    assert made["label"][:5].tolist() == kept


def test_a_nested_named_tuple_is_padded_as_one() -> None:
    made = pad_extra(Pair(torch.arange(2), torch.ones(2), torch.arange(2)), 2, 1, None)
    assert isinstance(made, Pair)
    assert [len(value) for value in made] == [3, 3, 3]


@pytest.mark.parametrize("output", ["dict", "namedtuple"])
def test_outputs_that_say_what_each_image_shows(output: str) -> None:
    images, labels = rows()
    made = one_batch((images, labels, torch.arange(4)), output=output, count=2, label="texture")
    assert type(made) is (dict if output == "dict" else MixedBatch)
    made = made if output == "dict" else made._asdict()
    assert list(made) == [
        "image",
        "label",
        "is_counterfactual",
        "shape",
        "texture",
        "background",
        "real_index",
    ]
    assert made["is_counterfactual"].tolist() == [False] * 4 + [True] * 2
    shown = classes_shown(made["image"][4:])
    for factor, expected in zip(("shape", "texture", "background"), shown, strict=True):
        assert torch.equal(made[factor], torch.cat([labels, expected]))
        assert made[factor].dtype == torch.int64
    assert torch.equal(made["label"], made["texture"])


def test_an_output_without_counterfactuals_has_the_same_fields() -> None:
    made = one_batch(rows(), output="dict", ratio=0)
    assert len(made["image"]) == 4
    assert not made["is_counterfactual"].any()
    assert torch.equal(made["background"], made["label"])


def test_labels_keep_their_type() -> None:
    images, labels = rows()
    assert one_batch((images, labels.int()))[1].dtype == torch.int32


def test_images_keep_their_type() -> None:
    images, labels = rows()
    assert one_batch((images.half(), labels))[0].dtype == torch.float16


# How counterfactuals are mixed in


def test_append_puts_counterfactuals_behind_the_real_images() -> None:
    images, labels = rows()
    made_images, made_labels = one_batch((images, labels), count=2)
    assert same(made_images[:4], images)
    assert same(made_labels[:4], labels)
    assert torch.equal(classes_shown(made_images[4:])[0], made_labels[4:])


def test_replace_keeps_the_size_and_takes_random_real_images_out() -> None:
    batches = list(stream([rows(10)] * 30, mix="replace", count=4))
    kept = [indices(images[:6]) for images, _ in batches]
    assert all(len(images) == len(labels) == 10 for images, labels in batches)
    assert all(len(set(places)) == 6 and sorted(places) == places for places in kept)
    # Each of ten places stays with probability 0.6 in 30 batches: none stays or goes always.
    assert all(8 <= sum(i in places for places in kept) <= 28 for i in range(10))


def test_replacing_everything_trains_on_counterfactuals_alone() -> None:
    made_images, made_labels = one_batch(rows(), mix="replace", fraction=1.0)
    assert len(made_images) == 4
    assert torch.equal(classes_shown(made_images)[0], made_labels)


def test_separate_yields_two_batches_of_the_same_structure() -> None:
    images, labels = rows()
    batch = {"image": images, "label": labels, "path": ["a", "b", "c", "d"]}
    real, made = one_batch(batch, mix="separate", count=3)
    assert same(real, batch)
    assert list(made) == list(batch)
    assert torch.equal(classes_shown(made["image"])[0], made["label"])
    assert made["path"] == [None] * 3


def test_separate_without_counterfactuals_yields_an_empty_batch() -> None:
    real, made = one_batch(rows(), mix="separate", ratio=0)
    assert same(real, rows())
    assert [len(value) for value in made] == [0, 0]
    assert made[0].shape[1:] == real[0].shape[1:]


# How many


@pytest.mark.parametrize(
    ("options", "num"),
    [
        ({}, 4),
        ({"ratio": 1}, 4),
        ({"ratio": 2.5}, 10),
        ({"ratio": 0}, 0),
        ({"count": 3}, 3),
        ({"count": 2.0}, 2),
        ({"fraction": 0.5}, 4),
        ({"fraction": 0.2}, 1),
        ({"fraction": 0}, 0),
    ],
)
def test_ratio_count_and_fraction_say_how_many(options: dict[str, Any], num: int) -> None:
    source = StubSource()
    train = stream(source=source, **options)
    assert num_made(list(train)) == [num] * 5
    assert source.asked == ([num] * 5 if num else [])
    assert train.proportion.count == num
    assert train.proportion.ratio == pytest.approx(num / 4)
    assert train.proportion.fraction == pytest.approx(num / (num + 4))
    assert f"count={num}" in repr(train)


def test_fractions_of_an_image_carry_over_exactly_from_step_to_step_and_epoch_to_epoch() -> None:
    for ratio in (0.3, 1 / 3, 0.07):
        train = stream([rows(5)] * 7, ratio=ratio)
        made = num_made(collect(train, num_epochs=9), 5)
        exact = Fraction(ratio).limit_denominator(100)
        sums = [sum(made[: step + 1]) for step in range(63)]
        assert sums == [int(exact * 5 * (step + 1)) for step in range(63)]
    epochs = stream([rows(5)], ratio=0.3)
    assert [num_made(list(epochs), 5) for _ in range(4)] == [[1], [2], [1], [2]]


def test_a_jump_to_an_epoch_carries_what_the_epochs_before_would_have_left() -> None:
    whole = stream(Digits(19), batch_size=4, ratio=0.5)
    epochs = [list(whole) for _ in range(4)]
    jumped = stream(Digits(19), batch_size=4, ratio=0.5)
    jumped.set_epoch(3)
    assert same(list(jumped), epochs[3])


def test_a_jump_counts_what_a_batch_sampler_reads_and_not_the_dataset() -> None:
    def make() -> CounterfactualDataset:
        sampler = WeightedRandomSampler([1.0] * 20, 7)
        loader = DataLoader(Digits(20), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        return stream(loader, ratio=0.3, mix="separate")

    epochs = [[len(made[0]) for _, made in epoch] for epoch in [make()] * 3]
    jumped = make()
    jumped.set_epoch(2)
    assert [len(made[0]) for _, made in jumped] == epochs[2]
    assert sum(chain(*epochs)) == int(0.3 * 7 * 3)


def test_a_schedule_counts_steps_over_epochs() -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return step / 4

    train = stream(ratio=schedule)
    assert num_made(collect(train, num_epochs=2)) == list(range(10))
    assert asked == list(range(10))
    jumped = stream(ratio=Ramp(0, 5, num_steps=20))
    jumped.set_epoch(2)
    assert num_made(list(jumped)) == [10, 11, 12, 13, 14]


def test_counterfactuals_are_switched_off_late() -> None:
    source = StubSource()
    train = stream(source=source, ratio=OffAfter(1, num_steps=7))
    assert num_made(collect(train, num_epochs=2)) == [4] * 7 + [0] * 3
    assert len(source.asked) == 7


# Labels


@pytest.mark.parametrize(("label", "row"), [("shape", 0), ("texture", 1), ("background", 2)])
def test_the_label_is_the_class_of_the_factor_that_was_chosen(label: str, row: int) -> None:
    made_images, made_labels = one_batch(rows(), label=label, count=50)
    assert torch.equal(made_labels[4:], classes_shown(made_images[4:])[row])


def test_all_makes_a_label_of_each_factor() -> None:
    images, labels = rows()
    for count in (0, 50):
        made_images, made_labels = one_batch((images, labels), label="all", count=count)
        assert made_labels.shape == (4 + count, 3)
        assert torch.equal(made_labels[:4], labels[:, None].expand(4, 3))
        assert torch.equal(made_labels[4:].T, classes_shown(made_images[4:]))


def test_a_class_map_one_to_one_gives_the_users_numbers() -> None:
    images, labels = rows()
    mapping = {y: 9 - y for y in range(10)}
    for label, row in (("shape", 0), ("texture", 1), ("background", 2)):
        made = one_batch((images, labels), label=label, count=40, class_map=mapping)
        assert torch.equal(made[1][:4], labels)
        assert torch.equal(made[1][4:], 9 - classes_shown(made[0][4:])[row])


def test_a_class_map_of_several_classes_keeps_to_them_and_draws_labels_equally(
    tiny_cgn: SmallCGN,
) -> None:
    images, labels = large(2)
    mapping = {0: [1, 2, 3], 1: 7}
    source = FreshSource(tiny_cgn)
    seen: list[Tensor] = []

    class Spy(FreshSource):
        def restrict(self, class_map: Any) -> Spy:
            return Spy(self.cgn, self.interventions.restrict(class_map))

        def sample(self, *arguments: Any) -> Any:
            made = super().sample(*arguments)
            seen.append(torch.stack([made.shape, made.texture, made.background]))
            return made

    made = one_batch(
        (images, labels),
        Spy(source.cgn),
        label="all",
        count=600,
        class_map=mapping,
        value_range=None,
    )
    classes, given = seen[0], made[1][2:].T
    assert sorted(classes.unique().tolist()) == [1, 2, 3, 7]
    assert torch.equal(given, (classes == 7).long())
    # Half of 600 draws, with a standard deviation of 12.
    assert all(240 < int(row.sum()) < 360 for row in given)


def test_a_factor_that_is_no_label_may_have_classes_outside_the_map(tiny_cgn: SmallCGN) -> None:
    source = FreshSource(tiny_cgn, Interventions(background=[8, 9]))
    made = one_batch(large(2), source, class_map={0: 3, 1: 4}, output="namedtuple", count=20)
    assert set(made.label.tolist()) == {0, 1}
    assert made.background[2:].tolist() == [-1] * 20


def test_permuting_interventions_take_the_classes_of_the_real_labels(tiny_cgn: SmallCGN) -> None:
    images, _ = large(6)
    labels = torch.tensor([3, 3, 3, 1, 1, 0])
    source = FreshSource(tiny_cgn, Interventions("permute"))
    made = one_batch((images, labels), source, label="all")
    for column in made[1][6:].T:
        assert sorted(column.tolist()) == [0, 1, 1, 3, 3, 3]
    mapped = one_batch((images, labels), source, label="all", class_map={0: 9, 1: [5, 6], 3: 2})
    for column in mapped[1][6:].T:
        assert sorted(column.tolist()) == [0, 1, 1, 3, 3, 3]


def test_a_source_sees_the_steps_real_batch() -> None:
    source = StubSource()
    images, labels = rows()
    one_batch((images, labels), source, class_map={y: 9 - y for y in range(10)})
    (real,) = source.real
    assert real is not None
    assert same(real.images, images)
    assert same(real.labels, labels)
    assert real.classes.tolist() == [9, 8, 7, 6]


def test_a_source_that_changes_is_told_the_step_over_all_epochs_and_the_rank() -> None:
    told: list[tuple[int, int]] = []

    class Changing(StubSource):
        def seek(self, step: int, rank: int = 0) -> None:
            told.append((step, rank))

    collect(stream([rows()] * 3, Changing(), rank=1, world_size=2), num_epochs=2)
    assert told == [(step, 1) for step in range(6)]


# Transform, range, device, gradient


def test_the_transform_sees_counterfactuals_alone() -> None:
    seen: list[Tensor] = []

    def darken(images: Tensor) -> Tensor:
        seen.append(images)
        return images * 0 - 1

    images, labels = rows()
    made_images, _ = one_batch((images, labels), transform=darken, count=3)
    assert [tuple(batch.shape) for batch in seen] == [(3, 3, SIZE, SIZE)]
    assert same(made_images[:4], images)
    assert (made_images[4:] == -1).all()


def test_a_transform_brings_counterfactuals_to_the_real_size_and_range(tiny_cgn: SmallCGN) -> None:
    images, labels = torch.rand(4, 3, 24, 24), torch.arange(4)
    made_images, _ = one_batch((images, labels), tiny_cgn, transform=match_real(crop_size=24))
    assert made_images.shape == (8, 3, 24, 24)
    assert made_images.min() >= 0
    assert made_images.max() <= 1


def test_no_range_is_asked_of_real_images_where_none_is_known() -> None:
    images, labels = torch.full((8, 3, SIZE, SIZE), 7.0), torch.arange(8)
    one_batch((images, labels), value_range=None)
    one_batch((images, labels), transform=lambda made: made)
    declared = {"value_range": (0, 1), "transform": lambda made: (made + 1) / 2}
    one_batch((images / 7 * torch.linspace(0, 1, SIZE), labels), **declared)


def test_images_and_labels_arrive_on_the_device_and_other_fields_stay() -> None:
    assert stream(device="cpu").device == stream().device == torch.device("cpu")
    images, labels = rows()
    moved = one_batch((images, labels, torch.arange(4)), ratio=0, device="meta")
    assert [value.device.type for value in moved] == ["meta", "meta", "cpu"]


def test_images_have_no_gradient_and_are_ordinary_tensors_of_a_training_graph(
    tiny_cgn: SmallCGN,
) -> None:
    scale = nn.Parameter(torch.ones(()))
    source = BankSource(tiny_cgn, size=10)
    layer = nn.Conv2d(3, 2, 3)
    train = stream([large()], source, transform=lambda made: made * scale, mix="separate")
    for _, (images, _) in train:
        assert not images.requires_grad
        assert not images.is_inference()
        # The gradient of a weight needs the images, and the images may be changed in place.
        layer(images.mul_(1.0)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    assert scale.grad is None


def test_iterating_leaves_gradients_on_in_the_training_loop() -> None:
    for _ in stream():
        assert torch.is_grad_enabled()


# Epochs


def test_the_epoch_advances_by_itself_when_an_iteration_completes() -> None:
    train = stream(EpochDigits(20), batch_size=4)
    for epoch in range(3):
        assert train.epoch == epoch
        assert {epoch} == set().union(*(epochs_shown(images[:4]) for images, _ in train))
    assert train.epoch == 3


def test_a_broken_off_epoch_is_begun_again() -> None:
    train = stream()
    broken = list(islice(train, 2))
    assert train.epoch == 0
    assert same(list(train)[:2], broken)


def test_an_epoch_counts_as_complete_for_who_stops_at_the_last_batch() -> None:
    whole = stream()
    epochs = [list(whole) for _ in range(3)]
    counting = stream()
    for expected in epochs:
        batches = iter(counting)
        assert same([next(batches) for _ in range(len(counting))], expected)


def test_set_epoch_goes_to_the_start_of_an_epoch() -> None:
    whole = stream()
    epochs = [list(whole) for _ in range(3)]
    train = stream()
    for epoch in (2, 0, 1):
        train.set_epoch(epoch)
        assert train.epoch == epoch
        assert same(list(train), epochs[epoch])
    next(iter(train))
    train.set_epoch(0)
    assert same(list(train), epochs[0])


def test_set_epoch_to_the_epoch_under_way_changes_nothing() -> None:
    called, plain = stream(), stream()
    for epoch in range(3):
        called.set_epoch(epoch)
        assert same(list(called), list(plain))


def test_set_epoch_is_forwarded_to_sampler_and_dataset() -> None:
    digits = EpochDigits(20)
    train = stream(digits, batch_size=4)
    train.set_epoch(4)
    next(iter(train))
    assert train.sampler.epoch == digits.epoch == 4
    digits = EpochDigits(20)
    sampler = DistributedSampler(digits, num_replicas=1, rank=0)
    for loader in (
        DataLoader(digits, 4, sampler=sampler),
        DataLoader(digits, batch_sampler=BatchSampler(sampler, 4, False)),
    ):
        train = stream(loader)
        train.set_epoch(5)
        (images, _), *_ = train
        assert sampler.epoch == 5
        assert epochs_shown(images[:4]) == {5}
        list(train)
        assert sampler.epoch == 6
    digits_stream = DigitStream(20)
    train = stream(digits_stream, batch_size=4)
    train.set_epoch(7)
    assert epochs_shown(next(iter(train))[0][:4]) == {7}


def test_the_stream_follows_a_library_that_sets_the_samplers_epoch() -> None:
    whole = stream()
    epochs = [list(whole) for _ in range(4)]
    train = stream()
    for epoch in (2, 3, 0):
        train.sampler.set_epoch(epoch)
        assert same(list(train), epochs[epoch])


@pytest.mark.parametrize("kind", [EpochDigits, DigitStream])
def test_persistent_workers_see_the_new_epoch(kind: type) -> None:
    options = {"persistent_workers": True, "prefetch_factor": 1}
    train = stream(kind(12), batch_size=4, num_workers=1, **options)
    for epoch in (0, 1, 5):
        train.set_epoch(epoch)
        assert set().union(*(epochs_shown(images[:4]) for images, _ in train)) == {epoch}


def test_persistent_workers_of_a_users_own_loader_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream(DataLoader(EpochDigits(12), 4, num_workers=1, persistent_workers=True))
    assert "persistent workers, whose copies of the dataset may not see set_epoch" in caplog.text
    caplog.clear()
    stream(DataLoader(Digits(12), 4, num_workers=1, persistent_workers=True))
    assert caplog.text == ""


# What other libraries look at


def test_sampler_batch_sampler_and_dataset_are_those_of_the_inner_loader() -> None:
    digits = Digits(20)
    train = stream(digits, batch_size=4)
    assert isinstance(train.sampler, DistributedSampler)
    assert train.batch_sampler.sampler is train.sampler
    assert train.dataset is digits
    loader = DataLoader(digits, 4, shuffle=True)
    train = stream(loader)
    assert isinstance(train.sampler, RandomSampler)
    assert train.sampler is loader.sampler
    assert train.batch_sampler is loader.batch_sampler
    assert train.dataset is digits
    assert isinstance(stream(DataLoader(digits, 4)).sampler, SequentialSampler)
    weighted = WeightedRandomSampler([1.0] * 20, 17)
    train = stream(DataLoader(digits, batch_sampler=BatchSampler(weighted, 4, drop_last=False)))
    assert train.sampler is weighted
    train = stream(list_of_batches())
    assert train.sampler is train.batch_sampler is train.dataset is None


def test_a_stream_is_an_iterable_dataset_that_a_loader_passes_on() -> None:
    train, plain = stream(), stream()
    assert isinstance(train, IterableDataset)
    assert not isinstance(train, DataLoader)
    outer = DataLoader(train, batch_size=None)
    assert len(outer) == 5
    for _ in range(2):
        for through, direct in zip(outer, plain, strict=True):
            assert same(list(through), list(direct))


# Workers


def test_what_goes_to_workers_pickles_and_holds_no_generator(tiny_cgn: SmallCGN) -> None:
    digits = TensorOfNothing()
    for options in ({}, {"seed_items": True}):
        train = stream(digits, tiny_cgn, batch_size=4, **options)
        loader = train._real.loader
        parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
        content = bytes(ForkingPickler.dumps(parts))
        assert len(content) < 2000
        assert b"cgn_augment.generators" not in content
    parts = (stream(DigitStream(8), tiny_cgn, batch_size=4)._real.loader.dataset,)
    assert b"cgn_augment.generators" not in bytes(ForkingPickler.dumps(parts))


class TensorOfNothing(EpochDigits):
    """A dataset whose class a pickle finds again."""


@pytest.mark.parametrize("ending", ["break", "error", "end"])
def test_no_worker_outlives_an_iteration(ending: str) -> None:
    before = {child.pid for child in psutil.Process().children()}

    def train_a_little(train: CounterfactualDataset) -> None:
        for _ in train:
            assert len(multiprocessing.active_children()) >= 2
            if ending == "break":
                break
            if ending == "error":
                raise KeyError("training failed")

    train = stream(Digits(24), batch_size=4, num_workers=2)
    if ending == "error":
        with pytest.raises(KeyError):
            train_a_little(train)
    else:
        train_a_little(train)
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_stream_that_is_no_longer_used_is_freed() -> None:
    train = stream()
    list(islice(train, 2))
    source = weakref.ref(train.source)
    del train
    assert source() is None
