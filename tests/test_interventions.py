"""How the classes of a counterfactual are drawn."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from cgn_augment import ClassMap, Interventions
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import sample_interventions
from cgn_augment.types import FACTORS


def test_a_uniform_draw_is_of_the_choices(generator: torch.Generator) -> None:
    rule = Interventions(shape=[8, 2], background=4, num_per_shape=5)
    choices = [rule.choices(factor, 10) for factor in FACTORS]
    drawn = rule.draw(500, 10, generator)
    generator.manual_seed(0)
    assert torch.equal(drawn, sample_interventions(500, choices, generator, 5))


def test_a_list_may_be_any_sequence_of_integers() -> None:
    given = Interventions(shape=range(3), texture=np.array([4, 4, 5]), background=np.int64(6))
    assert given.listed("shape") == (0, 1, 2)
    assert given.listed("texture") == (4, 5)
    assert given.listed("background") == (6,)
    assert given == Interventions(shape=[0, 1, 2], texture=[4, 5], background=6)


# permute


@pytest.mark.parametrize(
    ("options", "real", "drawn"),
    [
        ({}, [4, 4, 4, 1, 0, 9], [[0, 1, 4, 4, 4, 9]] * 3),
        ({}, [-1, 3, -1, 5], [[3, 3, 5, 5]] * 3),  # labels without a class are left out
        ({"background": [7]}, [4, 4, 1, 0], [[0, 1, 4, 4]] * 2 + [[7] * 4]),
        ({"class_map": ClassMap({0: 3, 1: [5, 6]})}, [1, 3, 9, 5], [[3, 3, 5, 5]] * 3),
    ],
)
def test_permute_keeps_the_frequencies_of_the_real_batch(
    options: dict[str, Any], real: list[int], drawn: list[list[int]], generator: torch.Generator
) -> None:
    permute = Interventions("permute", **options)
    rows = permute.draw(len(real), 10, generator, torch.tensor(real))
    assert [row.sort().values.tolist() for row in rows] == drawn


@pytest.mark.parametrize(
    ("real", "remedy"),
    [
        (None, r"none was given: pass real=, or use .*'uniform'"),
        ([-1, -1], "no label of the real batch has a class"),
        ([3, 12], r"real batch has the class 12 but .* 0 to 9: give each"),
    ],
)
def test_permute_needs_classes_of_a_real_batch(
    real: list[int] | None, remedy: str, generator: torch.Generator
) -> None:
    with pytest.raises(ArgumentError, match=remedy):
        Interventions("permute").draw(
            4, 10, generator, None if real is None else torch.tensor(real)
        )
    assert Interventions("permute").draw(0, 10, generator).shape == (3, 0)


# choices


def test_choices_are_the_list_then_the_map_then_every_class() -> None:
    free = Interventions(texture=[6, 2])
    assert free.choices("shape", 3) == ((0,), (1,), (2,))
    assert free.choices("texture", 10) == ((6,), (2,))
    assert free.classes("texture", 10) == (2, 6)
    mapped = free.restrict(ClassMap({0: [5, 1], 1: 3}))
    assert mapped.choices("shape", 10) == ((5, 1), (3,))
    assert mapped.classes("shape", 10) == (1, 3, 5)
    assert mapped.choices("texture", 10) == ((6,), (2,))
    assert free.class_map is None


def test_a_shape_outside_the_class_map_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"shape lists the classes \[3\] that are outside"):
        Interventions(shape=[1, 3]).restrict(ClassMap({0: 1}))


def test_a_class_that_the_cgn_lacks_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"texture lists class 10 but the CGN has only .* 9"):
        Interventions(texture=[0, 10]).choices("texture", 10)


# arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "shuffle"}, ArgumentError, "one of uniform, permute, got 'shuffle'"),
        ({"num_per_shape": 0}, ArgumentError, "must be 1 or more, got 0"),
        ({"num_per_shape": 2.0}, ArgumentTypeError, "must be an integer, got 2.0"),
        ({"shape": -1}, ArgumentError, "must list classes of 0 or more, got -1"),
        ({"texture": [3, -1]}, ArgumentError, r"of 0 or more, got \[3, -1\]"),
        ({"background": []}, ArgumentError, r"of 0 or more, got \[\]"),
        ({"shape": "3"}, ArgumentTypeError, "a class or a list of them, got '3'"),
        ({"texture": 1.5}, ArgumentTypeError, "got 1.5"),
        ({"background": [0, 1.5]}, ArgumentTypeError, r"got \[0, 1.5\]"),
        ({"shape": {1, 2}}, ArgumentTypeError, r"got \{1, 2\}"),
    ],
)
def test_what_cannot_be_used_is_an_error(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"{next(iter(arguments))} .*{message}"):
        Interventions(**arguments)


def test_interventions_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Interventions().num_per_shape = 2  # type: ignore[misc]
