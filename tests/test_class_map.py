"""Labels of the user and classes of the CGN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgn_augment import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError


def test_a_mapping_and_a_sequence_say_the_same() -> None:
    mapping, sequence = ClassMap({0: 4, 1: [2, 3]}), ClassMap([4, [2, 3]])
    assert mapping.choices == sequence.choices == ((4,), (2, 3))
    assert mapping.classes == sequence.classes == (4, 2, 3)
    assert repr(mapping) == repr(sequence) == "ClassMap({0: (4,), 1: (2, 3)})"


def test_classes_are_plain_integers_each_once() -> None:
    given = ClassMap(
        {np.int64(0): np.array([2, 3]), 1: torch.tensor([4]), 2: torch.tensor(5), 3: np.int64(6)}
    )
    assert repr(given) == "ClassMap({0: (2, 3), 1: (4,), 2: (5,), 3: (6,)})"
    assert ClassMap({0: [5, 6, 5]}).choices == ((5, 6),)  # each once
    assert repr(ClassMap(torch.tensor([4, 5]))) == repr(ClassMap(np.array([4, 5])))


def test_every_class_goes_back_to_its_label_and_others_to_none() -> None:
    class_map = ClassMap({10: [7, 8], 3: 130})
    labels = class_map.to_label(torch.tensor([7, 8, 130, 0, 9, 131, 100_000, -1, -2]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [10, 10, 3, -1, -1, -1, -1, -1, -1]
    assert [y in class_map for y in (7, 130, 10, 3)] == [True, True, False, False]


def test_every_label_goes_to_one_of_its_classes_and_others_to_none(
    generator: torch.Generator,
) -> None:
    class_map = ClassMap({10: [7, 8], 3: 130})
    classes = class_map.to_class(torch.tensor([3, 3, 0, 11, -1, -2, 10]), generator)
    assert classes.dtype == torch.int64
    assert classes[:6].tolist() == [130, 130, -1, -1, -1, -1]
    assert classes[6] in (7, 8)
    labels = torch.tensor([10, 3]).repeat(50)
    for some in (labels, labels[:0]):
        assert torch.equal(class_map.to_label(class_map.to_class(some, generator)), some)


def test_the_classes_of_a_label_are_drawn_uniformly(generator: torch.Generator) -> None:
    drawn = ClassMap({0: [3, 4, 5], 1: 6}).to_class(torch.zeros(9000, dtype=torch.int64), generator)
    counts = torch.bincount(drawn, minlength=7)
    assert counts.sum() == counts[3:6].sum()
    for y in (3, 4, 5):
        assert counts[y].item() == pytest.approx(3000, abs=270)


def test_labels_of_every_integer_type_are_looked_up(generator: torch.Generator) -> None:
    class_map = ClassMap({0: 2, 1: 3})
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert class_map.to_class(torch.tensor([1, 0], dtype=dtype), generator).tolist() == [3, 2]
        assert class_map.to_label(torch.tensor([3, 2, 5], dtype=dtype)).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ({}, ArgumentError, "class_map is empty: give at least one label a class"),
        ([], ArgumentError, "class_map is empty"),
        ({-1: 3}, ArgumentError, "class_map has the negative label -1"),
        ({10**12: 3}, ArgumentError, "label or class of class_map must be 999999 or less"),
        ({0: [1, 10**12]}, ArgumentError, "label or class of class_map must be 999999 or less"),
        ({0: -2}, ArgumentError, r"class_map\[0\] must list classes of 0 or more, got -2"),
        ({0: [1, -2]}, ArgumentError, r"class_map\[0\] must list .* got \[1, -2\]"),
        ({5: []}, ArgumentError, r"class_map\[5\] must list .* got \[\]"),
        ({0: [1, 2], 1: [3, 2]}, ArgumentError, "gives class 2 to label 0 and to label 1"),
        ({"cat": 3}, ArgumentTypeError, "labels of class_map must be integers .*'str'"),
        ({0: "cat"}, ArgumentTypeError, "got 'cat'; classes are numbers"),
        ({0: 1.0}, ArgumentTypeError, r"class_map\[0\] must be a class or a list of them, got 1.0"),
        ({0: [1, None]}, ArgumentTypeError, r"or a list of them, got \[1, None\]"),
        ({0: {1, 2}}, ArgumentTypeError, r"or a list of them, got \{1, 2\}"),
        (["ab"], ArgumentTypeError, "or a list of them, got 'ab'"),
        (None, ArgumentTypeError, "class_map must be .* got None"),
        (3, ArgumentTypeError, "class_map must be .* got 3"),
    ],
)
def test_what_maps_no_labels_is_an_error(
    mapping: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ClassMap(mapping)


def test_a_class_that_the_cgn_lacks_is_an_error() -> None:
    class_map = ClassMap({0: 9, 1: [10, 12]})
    class_map.require_classes(13)
    with pytest.raises(
        ArgumentError, match=r"names the classes \[10, 12\] but the CGN has only .* 0 to 9"
    ):
        class_map.require_classes(10)
    assert issubclass(ArgumentError, (CGNError, ValueError))
