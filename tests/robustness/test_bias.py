"""Groups of classes, shape bias and background gap: against published tables and closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import SHARED

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.imagenet_classes import imagenet_names
from train_generator.robustness import (
    ClassGroups,
    background_gap,
    cue_conflict_categories,
    group_predictions,
    group_probabilities,
    imagenet9_classes,
    read_groups,
    shape_bias,
)

MAPPINGS = SHARED / "data" / "mappings"


def published(name: str) -> dict[str, object]:
    path = MAPPINGS / name
    if not path.is_file():
        pytest.skip(f"the published table is not here: {path}")
    table: dict[str, object] = json.loads(path.read_text())
    return table


# The tables


def test_the_categories_are_the_published_ones() -> None:
    groups = cue_conflict_categories()
    ours = {name: list(classes) for name, classes in zip(groups.names, groups.classes, strict=True)}
    assert ours == published("imagenet_to_16_categories.json")


def test_the_nine_classes_are_the_published_ones() -> None:
    ours = imagenet9_classes().to_group(torch.arange(1000)).tolist()
    assert {str(y): group for y, group in enumerate(ours)} == published("imagenet_to_in9.json")


@pytest.mark.parametrize(
    ("groups", "num", "num_classes", "word"),
    [(cue_conflict_categories(), 16, 207, "bear"), (imagenet9_classes(), 9, 370, "fish")],
)
def test_the_tables_are_whole(groups: ClassGroups, num: int, num_classes: int, word: str) -> None:
    assert len(groups) == len(groups.names) == num
    classes = [y for group in groups.classes for y in group]
    assert len(classes) == len(set(classes)) == num_classes
    assert set(classes) <= set(range(1000))
    assert (groups.to_group(torch.arange(1000)) >= 0).sum() == num_classes
    names = [imagenet_names()[y] for y in groups.classes[groups.names.index(word)]]
    assert [name for name in names if word in name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat = [[5, 3]]", r"\[5, 3\] goes backwards"),
        ("cat = [[1, 2, 3]]", "no table of groups"),
        ("cat = 3", "no table of groups"),
        ("cat = [[1, 3]]\ndog = [2]", "gives class 2 to label 0 and to label 1"),
        ("cat = [1000]", r"the classes 0 to 999, not \[1000\]"),
        ("cat = []", "classes of 0 or more"),
        ("cat", "lines such as 'cat = "),
        ("cat = " + "[" * 100_000, "no table of groups"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_groups(path)


def test_groups_need_names_of_their_own() -> None:
    with pytest.raises(ArgumentError, match=r"2 names \(1 different\) for 2 groups"):
        ClassGroups(("cat", "cat"), ((1,), (2,)))
    with pytest.raises(ArgumentError, match="1 names"):
        ClassGroups(("cat",), ((1,), (2,)))
    with pytest.raises(ArgumentError, match="gives class 1 to label 0 and to label 1"):
        ClassGroups(("cat", "dog"), ((1,), (1,)))


def test_a_classifier_of_the_groups_alone_is_known_by_its_names() -> None:
    groups = ClassGroups(("cat", "dog", "wheeled vehicle"), ((1,), (2,), (3,)))
    assert groups.columns(["dog", "wheeled vehicle", "cat"]) == [2, 0, 1]
    assert groups.columns(["00_cat", "01_dog", "02_wheeled vehicle"]) == [0, 1, 2]
    assert groups.columns(["cat", "dog"]) is None
    assert groups.columns(["cat", "dog", "car"]) is None


# From 1000 classes to a group


def test_probabilities_are_averaged_and_not_summed() -> None:
    groups = ClassGroups(("one", "three"), ((0,), (1, 2, 3)))
    logits = torch.full((1, 1000), -math.inf)
    logits[0, :4] = torch.tensor([0.4, 0.2, 0.2, 0.2]).log()
    probabilities = group_probabilities(logits, groups)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities, torch.tensor([[0.4, 0.2]]).double())
    assert probabilities.argmax() == 0  # the sum would say the other one: 0.4 against 0.6


def test_the_best_class_may_be_of_another_group_than_the_decision() -> None:
    groups = ClassGroups(("one", "two"), ((0, 1), (2,)))
    logits = torch.full((1, 1000), -math.inf)
    logits[0, :3] = torch.tensor([0.5, 0.1, 0.4]).log()
    assert group_probabilities(logits, groups).argmax() == 1  # 0.3 against 0.4
    assert group_predictions(logits, groups).tolist() == [0]


def test_a_class_of_none_of_the_nine_is_no_prediction() -> None:
    table = imagenet9_classes().to_group(torch.arange(1000))
    assert torch.equal(group_predictions(torch.eye(1000), imagenet9_classes()), table)
    assert (table == -1).sum() == 630


@pytest.mark.parametrize("function", [group_probabilities, group_predictions])
def test_other_than_1000_classes_are_refused(function: object) -> None:
    with pytest.raises(ArgumentError, match=r"of ImageNet's 1000 classes.*got the shape \(2, 10\)"):
        function(torch.zeros(2, 10), imagenet9_classes())  # type: ignore[operator]


# Shape bias and background gap


def test_shape_bias_counts_decisions_for_either_cue_alone() -> None:
    #                shape texture neither none, no conflict, shape of category 1
    decisions = torch.tensor([0, 1, 2, 3, 3, 1])
    shapes = torch.tensor([0, 0, 0, 3, 3, 1])
    textures = torch.tensor([1, 1, 1, 3, 0, 0])
    counts = shape_bias(decisions, shapes, textures, num_categories=4)
    assert counts.num_images == (3, 1, 0, 1)
    assert counts.num_shape == (1, 1, 0, 1)
    assert counts.num_texture == (1, 0, 0, 0)
    assert counts.bias == 3 / 4
    assert counts.num_cue_decisions == 4
    assert counts.shape_accuracy == 3 / 5
    assert counts.texture_accuracy == 1 / 5
    assert counts.category_biases[:2] == (0.5, 1.0)
    assert math.isnan(counts.category_biases[2])


def test_without_a_decision_for_a_cue_there_is_no_bias() -> None:
    counts = shape_bias(torch.tensor([2]), torch.tensor([0]), torch.tensor([1]))
    assert math.isnan(counts.bias)
    assert counts.shape_accuracy == counts.texture_accuracy == 0


@pytest.mark.parametrize(
    ("decisions", "shapes", "textures", "message"),
    [
        ([0, 1], [0], [1], "got 2 decisions, 1 shapes and 1 textures"),
        ([0], [1], [1], "no image has a shape and a texture of two categories"),
        ([], [], [], "no image has a shape"),
        ([0], [16], [1], "categories must be 0 to 15, got 1 to 16"),
        ([0], [-1], [1], "categories must be 0 to 15, got -1 to 1"),
    ],
)
def test_shape_bias_refuses_what_it_cannot_count(
    decisions: list[int], shapes: list[int], textures: list[int], message: str
) -> None:
    tensors = (torch.tensor(values, dtype=torch.long) for values in (decisions, shapes, textures))
    with pytest.raises(ArgumentError, match=message):
        shape_bias(*tensors)


def test_the_background_gap_is_a_difference() -> None:
    assert background_gap({"mixed_same": 0.75, "mixed_rand": 0.5, "original": 1.0}) == 0.25
    with pytest.raises(ArgumentError, match="needs the accuracy on mixed_rand, got"):
        background_gap({"mixed_same": 0.75})
