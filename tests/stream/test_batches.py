"""Batches of any structure are taken apart and put together again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from stream_helpers import classes_shown, indices, one_batch, rows, same
from torch import Tensor

from cgn_augment import MixedBatch


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
            "pixels": torch.ones(4, 2, dtype=torch.uint8),
            "weight": torch.ones(4),
            "seen": torch.ones(4, dtype=torch.bool),
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
    assert made["pixels"][4].tolist() == [0, 0]
    assert made["weight"][:4].tolist() == [1, 1, 1, 1]
    assert made["weight"][4].isnan()
    assert made["seen"].tolist() == [True] * 4 + [False]
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
