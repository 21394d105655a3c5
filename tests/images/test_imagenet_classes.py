"""Classes by name and by index, and the best ones of each mechanism."""

from __future__ import annotations

import json

import pytest
from conftest import SHARED
from torchvision.models import ResNet50_Weights

from cgn_augment.errors import ArgumentError
from cgn_augment.images.imagenet_classes import (
    best_classes,
    class_names,
    find_class,
    find_classes,
    imagenet_names,
)

CATEGORIES = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


def test_the_list_is_torchvisions() -> None:
    names = imagenet_names()
    differ = {i for i, (a, b) in enumerate(zip(names, CATEGORIES, strict=True)) if a != b}
    assert differ <= {134, 517, 638, 639}  # versions differ in how they tell cranes apart
    assert class_names(1000) == names
    assert class_names(10) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (207, 207),
        ("207", 207),
        ("tench", 0),
        ("Golden Retriever", 207),
        ("golden_retriever", 207),
        ("crane bird", 134),
        (" African  elephant ", 386),
        ("toilet tissue", 999),
    ],
)
def test_a_class_is_found_by_index_or_name(given: int | str, expected: int) -> None:
    assert find_class(given, 1000) == expected


def test_every_name_that_is_of_one_class_finds_it() -> None:
    names = imagenet_names()
    for index, name in enumerate(names):
        if name.lower() not in ("crane", "maillot", "cardigan"):
            assert find_class(name, 1000) == index


@pytest.mark.parametrize(
    ("given", "num_classes", "message"),
    [
        ("Crane", 1000, r"'Crane' may be crane bird \(134\) or crane \(517\): give the index"),
        ("cardigan", 1000, r"'cardigan' may be Cardigan \(264\) or cardigan \(474\): give the"),
        ("maillot", 1000, r"may be maillot \(638\) or maillot.* \(639\): give the index"),
        ("elephant", 1000, r"not one of ImageNet's .* African elephant \(386\)"),
        ("golden retreiver", 1000, r"nearest are .*golden retriever \(207\)"),
        ("xyzzy", 1000, r"'xyzzy' is not one of ImageNet's class names; the nearest are \w"),
        (1000, 1000, "there are the classes 0 to 999, not 1000"),
        ("-1", 10, "there are the classes 0 to 9, not -1"),
        ("three", 10, "10 classes of this CGN have no names, got 'three': give an index of 0 to 9"),
    ],
)
def test_what_is_not_one_class_is_an_error_that_lists_candidates(
    given: int | str, num_classes: int, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        find_class(given, num_classes)


def test_one_class_or_several_or_none_are_taken() -> None:
    assert find_classes(None, 1000) is None
    assert find_classes("tench", 1000) == [0]
    assert find_classes([1, "tench", "5"], 1000) == [1, 0, 5]


def test_the_best_classes_are_those_of_the_release() -> None:
    path = SHARED / "data" / "mappings" / "best_classes.json"
    if not path.is_file():
        pytest.skip("the release's list is not here")
    listed = json.loads(path.read_text())
    assert {factor: best_classes(factor) for factor in listed} == listed


def test_the_best_classes_are_classes_and_each_once() -> None:
    for factor in ("shape", "texture", "background"):
        listed = best_classes(factor)
        assert len(listed) == len(set(listed)) > 30
        assert 0 <= min(listed) <= max(listed) < 1000
    with pytest.raises(ArgumentError, match=r"one of shape, texture, background, got 'mask'"):
        best_classes("mask")
