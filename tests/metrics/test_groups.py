"""Accuracy by group against hand counts; what cannot be measured is said."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cgn_augment.errors import ArgumentError
from train_generator.metrics.groups import GroupAccuracies, count_groups, require_finite_scores

NAMES = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
WATERBIRDS = (3498, 184, 56, 1057)


def test_published_counts_give_the_two_averages() -> None:
    found = GroupAccuracies(NAMES, (2255, 2255, 642, 642), (2200, 1700, 400, 600), WATERBIRDS)
    assert found.average == pytest.approx((2200 + 1700 + 400 + 600) / (2 * 2255 + 2 * 642))
    parts = zip((2200 / 2255, 1700 / 2255, 400 / 642, 600 / 642), WATERBIRDS, strict=True)
    assert found.adjusted_average == pytest.approx(sum(p * n for p, n in parts) / 4795)
    assert found.worst == (2, 400 / 642)
    p = 400 / 642
    assert found.standard_errors[2] == pytest.approx(math.sqrt(p * (1 - p) / 642))
    assert found.empty == ()


def test_images_are_counted_by_group() -> None:
    right = torch.tensor([True, False, True, True, False])
    groups = torch.tensor([0, 0, 3, 3, 1])
    found = count_groups(right, groups, NAMES, WATERBIRDS)
    assert (found.num_images, found.num_right) == ((2, 1, 0, 2), (1, 0, 0, 2))
    assert found.accuracies == (0.5, 0.0, None, 1.0)
    assert found.standard_errors[2] is None
    assert found.empty == ("waterbird on land",)
    assert found.worst == (1, 0.0)
    assert found.average == 0.6
    assert found.adjusted_average is None  # 56 training images are of a group that is not here
    row = found.as_row()
    assert row["empty_groups"] == ["waterbird on land"]
    assert row["groups"]["waterbird on land"]["accuracy"] is None


def test_a_group_without_training_images_has_no_weight() -> None:
    found = GroupAccuracies(NAMES, (10, 0, 10, 10), (9, 0, 1, 7), (300, 0, 0, 100))
    assert found.adjusted_average == pytest.approx((300 * 0.9 + 100 * 0.7) / 400)
    assert GroupAccuracies(NAMES, (1, 1, 1, 1), (1, 1, 1, 1)).adjusted_average is None


def test_drops_are_those_of_the_groups_together() -> None:
    found = GroupAccuracies(("a", "b", "c"), (10, 10, 30), (10, 5, 12), (90, 10, 0))
    whole = (90 * 1.0 + 10 * 0.5) / 100
    drops = found.drops({"one": [1], "two": [1, 2]})
    assert drops == {"one": pytest.approx(whole - 0.5), "two": pytest.approx(whole - 17 / 40)}
    empty = GroupAccuracies(("a", "b"), (10, 0), (10, 0), (1, 0))
    assert empty.drops({"one": [1]}) == {"one": None}
    with pytest.raises(ArgumentError, match="groups are 0 to 1, got"):
        empty.drops({"one": [2]})


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_an_error(broken: float) -> None:
    scores = torch.zeros(4, 3)
    assert require_finite_scores(scores) is scores
    scores[1, 2] = scores[1, 0] = scores[3, 0] = broken
    with pytest.raises(ArgumentError, match="mine gives NaN or infinity for 2 of 4 images"):
        require_finite_scores(scores, "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 1), (1, 1, 1, 1)), "a count for each of the 4 groups"),
        (((1, 1, 1, 1), (1, 1, 1, 2)), "cannot be right"),
        (((0, 0, 0, 0), (0, 0, 0, 0)), "there is no image in any group"),
        (((1, 1, 1, 1), (1, 1, 1, 1), (5,)), "a count for each of the 4 groups"),
    ],
)
def test_counts_that_cannot_be_are_errors(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GroupAccuracies(NAMES, *arguments)


def test_a_group_without_a_name_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="groups are 0 to 1, got 0 to 2"):
        count_groups(torch.ones(3).bool(), torch.arange(3), ["a", "b"])
    with pytest.raises(ArgumentError, match="got 2 images and 3 groups"):
        count_groups(torch.ones(2).bool(), torch.arange(3), ["a", "b", "c"])
