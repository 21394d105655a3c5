"""One step: the structure of its batch, how counterfactuals are mixed in, and what they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from source_helpers import Blocks, ReadableCGN
from stream_helpers import (
    SIZE,
    StubSource,
    classes_shown,
    collect,
    indices,
    large,
    one_batch,
    rows,
    same,
    stream,
)
from torch import Tensor, nn

from cgn_augment import BankSource, FreshSource, Interventions, MixedBatch, Step, match_real
from cgn_augment.generators import SmallCGN


class Pair(NamedTuple):
    image: Tensor
    label: Tensor
    index: Tensor


IMAGES, LABELS = rows()
FIELDS = {"image": IMAGES, "label": LABELS, "index": torch.arange(4)}


@pytest.mark.parametrize(
    "batch",
    [tuple(FIELDS.values()), [*FIELDS.values()], Pair(**FIELDS), FIELDS, OrderedDict(FIELDS)],
)
def test_a_batch_keeps_its_structure(batch: Any) -> None:
    made = one_batch(batch, ratio=0.5)
    assert type(made) is type(batch)
    if isinstance(batch, Mapping):
        assert list(made) == list(batch)
        made = tuple(made.values())
    assert [len(value) for value in made] == [6, 6, 6]
    assert same(made[0][:4], IMAGES)
    assert same(made[1][:4], LABELS)
    assert made[2].tolist() == [0, 1, 2, 3, -1, -1]


@pytest.mark.parametrize(
    "names", ["image label", "images labels", "img target", "pixel_values targets", "x y"]
)
def test_the_usual_keys_are_found(names: str) -> None:
    image, label = names.split()
    made = one_batch({label: LABELS, image: IMAGES, "other": 3})
    assert len(made[image]) == len(made[label]) == 8
    assert made["other"] == 3


def test_keys_say_where_images_and_labels_are() -> None:
    made = one_batch((torch.arange(4), LABELS, IMAGES), keys=(2, 1))
    assert [len(value) for value in made] == [8, 8, 8]
    assert same(made[2][:4], IMAGES)
    made = one_batch({"pixels": IMAGES, "digit": LABELS, "label": "no"}, keys=("pixels", "digit"))
    assert len(made["pixels"]) == len(made["digit"]) == 8
    assert made["label"] == "no"


def test_further_fields_are_padded_with_what_says_that_there_is_none() -> None:
    made = one_batch(
        {
            **FIELDS,
            "path": ["a", "b", "c", "d"],
            "pair": ("a", "b", "c", "d"),
            "sizes": [torch.arange(4), torch.arange(4)],
            "meta": {"id": torch.arange(4), "split": "train"},
            "scale": torch.tensor(2.0),
            "classes": torch.arange(10),
            "nested": Pair(*[torch.arange(4)] * 3),
        },
        count=1,
    )
    index = [0, 1, 2, 3, -1]
    assert made["index"].tolist() == made["meta"]["id"].tolist() == index
    assert isinstance(made["nested"], Pair)
    assert [part.tolist() for part in made["nested"]] == [index] * 3
    assert made["path"] == ["a", "b", "c", "d", None]
    assert made["pair"] == ("a", "b", "c", "d", None)
    assert [column.tolist() for column in made["sizes"]] == [index] * 2
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


@pytest.mark.parametrize("output", ["dict", "namedtuple"])
def test_outputs_that_say_what_each_image_shows(output: str) -> None:
    made = one_batch(FIELDS, output=output, count=2, label="texture")
    assert type(made) is (dict if output == "dict" else MixedBatch)
    made = made if output == "dict" else made._asdict()
    assert tuple(made) == MixedBatch._fields
    assert made["is_counterfactual"].tolist() == [False] * 4 + [True] * 2
    shown = classes_shown(made["image"][4:])
    for factor, expected in zip(("shape", "texture", "background"), shown, strict=True):
        assert torch.equal(made[factor], torch.cat([LABELS, expected]))
        assert made[factor].dtype == torch.int64
    assert torch.equal(made["label"], made["texture"])
    made = one_batch(rows(), output="dict", ratio=0)
    assert len(made["image"]) == 4
    assert not made["is_counterfactual"].any()
    assert torch.equal(made["background"], made["label"])


def test_images_and_labels_keep_their_type() -> None:
    made_images, made_labels = one_batch((IMAGES.half(), LABELS.int()))
    assert (made_images.dtype, made_labels.dtype) == (torch.float16, torch.int32)


# How counterfactuals are mixed in


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
    batch = {"image": IMAGES, "label": LABELS, "path": ["a", "b", "c", "d"]}
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


# Labels


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("label", "row"), [("shape", 0), ("texture", 1), ("background", 2)])
def test_the_label_is_the_class_of_the_factor_that_was_chosen(
    label: str, row: int, mapped: bool
) -> None:
    class_map = {y: 9 - y for y in range(10)} if mapped else None
    images, labels = one_batch(rows(), label=label, count=50, class_map=class_map)
    shown = classes_shown(images[4:])[row]
    assert torch.equal(labels[:4], rows()[1])
    assert torch.equal(labels[4:], 9 - shown if mapped else shown)


def test_all_makes_a_label_of_each_factor() -> None:
    for count in (0, 50):
        made_images, made_labels = one_batch((IMAGES, LABELS), label="all", count=count)
        assert made_labels.shape == (4 + count, 3)
        assert torch.equal(made_labels[:4], LABELS[:, None].expand(4, 3))
        assert torch.equal(made_labels[4:].T, classes_shown(made_images[4:]))


def test_a_class_map_of_several_classes_keeps_to_them_and_draws_labels_equally(
    tiny_cgn: SmallCGN,
) -> None:
    mapping = {0: [1, 2, 3], 1: 7}
    seen: list[Tensor] = []

    class Spy(FreshSource):
        def restrict(self, class_map: Any) -> Spy:
            return Spy(self.cgn, self.interventions.restrict(class_map))

        def sample(self, *arguments: Any) -> Any:
            made = super().sample(*arguments)
            seen.append(torch.stack([made.shape, made.texture, made.background]))
            return made

    options = {"label": "all", "count": 600, "class_map": mapping, "value_range": None}
    made = one_batch(large(2), Spy(tiny_cgn), **options)
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


# What the source is told


def test_a_source_sees_the_steps_real_batch() -> None:
    source = StubSource()
    one_batch((IMAGES, LABELS), source, class_map={y: 9 - y for y in range(10)})
    (real,) = source.real
    assert real is not None
    assert same(real.images, IMAGES)
    assert same(real.labels, LABELS)
    assert real.classes.tolist() == [9, 8, 7, 6]


def test_a_source_that_changes_is_told_the_step_over_all_epochs_and_the_rank() -> None:
    source = StubSource()
    collect(stream([rows()] * 3, source, rank=1, world_size=2), num_epochs=2)
    assert source.steps == [Step(step, 1, 2) for step in range(6)]


# Transform, range, device, gradient


def test_the_transform_sees_counterfactuals_alone() -> None:
    seen: list[Tensor] = []

    def darken(images: Tensor) -> Tensor:
        seen.append(images)
        return images * 0 - 1

    made_images, _ = one_batch((IMAGES, LABELS), transform=darken, count=3)
    assert [tuple(batch.shape) for batch in seen] == [(3, 3, SIZE, SIZE)]
    assert same(made_images[:4], IMAGES)
    assert (made_images[4:] == -1).all()


def test_a_transform_brings_counterfactuals_to_the_real_size_and_range(tiny_cgn: SmallCGN) -> None:
    images, labels = torch.rand(4, 3, 24, 24), torch.arange(4)
    made_images, _ = one_batch((images, labels), tiny_cgn, transform=match_real(size=24))
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
    on_meta = StubSource()
    on_meta.device = torch.device("meta")  # type: ignore[attr-defined]
    assert stream(source=on_meta).device.type == "meta"
    moved = one_batch((IMAGES, LABELS, torch.arange(4)), ratio=0, device="meta")
    assert [value.device.type for value in moved] == ["meta", "meta", "cpu"]


def test_images_have_no_gradient_and_are_ordinary_tensors_of_a_training_graph(
    tiny_cgn: SmallCGN,
) -> None:
    scale = nn.Parameter(torch.ones(()))
    source = BankSource(tiny_cgn, size=10)
    layer = nn.Conv2d(3, 2, 3)
    train = stream([large()], source, transform=lambda made: made * scale, mix="separate")
    for _, (images, _) in train:
        assert torch.is_grad_enabled()
        assert not images.requires_grad
        assert not images.is_inference()
        # The gradient of a weight needs the images, and the images may be changed in place.
        layer(images.mul_(1.0)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    assert scale.grad is None


class WithoutRoom(BankSource):
    """A bank whose `sample` has no argument for the memory of its images."""

    def sample(self, num: int, generator: Any, step: Any = Step(), real: Any = None) -> Any:  # type: ignore[override]
        return super().sample(num, generator, step, real)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mix": "replace", "ratio": 1.0},
        {"mix": "separate"},
        {"shuffle_rows": True, "output": "dict"},
        {"transform": match_real(0.3, 0.6), "value_range": None},
        {"transform": match_real(0.3, 0.6, 8, resize=10), "value_range": None},
        {"transform": lambda images: images.clone(), "label": "all", "output": "namedtuple"},
        {"transform": lambda images: images},
    ],
)
def test_images_are_the_same_whether_they_are_drawn_into_the_batch_or_copied_there(
    options: dict[str, Any],
) -> None:
    made = [
        collect(stream(source=kind(ReadableCGN(), 30, 3), real=Blocks(12), batch_size=4, **options))
        for kind in (BankSource, WithoutRoom)
    ]
    assert len(made[0]) > 1
    assert same(*made)


def test_images_of_a_batch_lie_in_memory_of_their_own() -> None:
    batches = collect(stream(source=BankSource(ReadableCGN(), 30), real=Blocks(12), batch_size=4))
    places = [batch[0].data_ptr() for batch in batches]
    assert len(set(places)) == len(places) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mix", ["append", "replace", "separate"])
@pytest.mark.parametrize("share", [{"fraction": 0.5}, {"fraction": 1.0}])
def test_memory_format_and_type_are_those_of_the_real_images(
    dtype: torch.dtype, mix: Any, share: dict[str, Any]
) -> None:
    if share["fraction"] == 1 and mix != "replace":
        share = {"ratio": 0.5}
    images, labels = large(4)
    cgn = SmallCGN().freeze()

    def made_of(images: Tensor) -> list[Tensor]:
        parts = one_batch((images, labels), FreshSource(cgn), mix=mix, **share)
        return [part[0] for part in parts] if mix == "separate" else [parts[0]]

    plain = made_of(images.to(dtype))
    beside = made_of(images.to(dtype, memory_format=torch.channels_last))
    for made, expected in zip(beside, plain, strict=True):
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert expected.is_contiguous()
        assert made.dtype is expected.dtype is dtype
        assert torch.equal(made, expected)
