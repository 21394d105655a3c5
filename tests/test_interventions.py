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


# tied and other


@pytest.mark.parametrize("class_map", [None, ClassMap({0: [5, 1], 1: 3, 2: [0, 2]})])
@pytest.mark.parametrize("factor", ["texture", "background"])
def test_another_class_is_any_but_the_shapes_own(
    class_map: ClassMap | None, factor: str, generator: torch.Generator
) -> None:
    rule = Interventions(**{factor: "other"}, class_map=class_map, num_per_shape=2)
    drawn = rule.draw(24_000, 6, generator)
    shape, other = drawn[0], drawn[FACTORS.index(factor)]
    label = (lambda y: y) if class_map is None else class_map.to_label
    assert (label(shape) != label(other)).all()
    num = 6 if class_map is None else 3
    pairs = (label(shape) * num + label(other)).bincount(minlength=num**2).view(num, num)
    expected = 24_000 / (num * (num - 1)) * (1 - torch.eye(num))
    assert (pairs - expected).abs().max() < 0.15 * expected.max()
    picked = rule.pick(torch.rand(500, 3, 2, generator=generator, dtype=torch.float64), 6)
    assert (label(picked[0]) != label(picked[FACTORS.index(factor)])).all()


def test_another_class_is_other_than_shapes_from_elsewhere(generator: torch.Generator) -> None:
    shapes = torch.tensor([2, -1, 0, 1, 7] * 50)
    drawn = Interventions(background="other").draw(250, 3, generator, shapes=shapes)
    known = torch.where(shapes < 0, drawn[0], shapes)
    assert (drawn[2] != known).all()
    assert drawn[2, shapes == 7].unique().tolist() == [0, 1, 2]  # of no class that can be drawn


def test_a_tied_texture_has_the_class_of_the_shape(generator: torch.Generator) -> None:
    rule = Interventions(shape=[3, 8], texture="shape", background=[1, 2], num_per_shape=3)
    drawn = rule.draw(60, 10, generator)
    assert torch.equal(drawn[0], drawn[1])
    assert rule.is_tied
    assert rule.classes("texture", 10) == (3, 8)
    permuted = Interventions("permute", texture="shape").draw(
        6, 10, generator, torch.tensor([4, 4, 1, 0, 9, 2])
    )
    assert torch.equal(permuted[0], permuted[1])
    assert sorted(permuted[2].tolist()) == [0, 1, 2, 4, 4, 9]
    shares = torch.rand(9, 3, 2, generator=generator, dtype=torch.float64)
    picked = rule.pick(shares, 10)
    assert torch.equal(picked[0], picked[1])
    chosen = rule.pick(shares, 10, shape=torch.arange(9))
    assert torch.equal(chosen[:2], torch.arange(9).expand(2, -1))
    assert torch.equal(chosen[2], picked[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "other"}, "shape must list classes, got 'other'"),
        ({"shape": "shape"}, "shape must list classes, got 'shape'"),
        ({"background": "shape"}, "background='shape' would show .* take 'other', or list"),
        ({"kind": "permute", "background": "other"}, "use Interventions..uniform"),
        ({"kind": "permute", "texture": "other"}, "use Interventions..uniform"),
        ({"texture": "others"}, "texture must be a class or a list of them, got 'others'"),
    ],
)
def test_combinations_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        Interventions(**options)


def test_another_class_must_be_there() -> None:
    with pytest.raises(ArgumentError, match=r"background='other' needs a class besides .* list"):
        Interventions(background="other").choices("background", 1)
    one = Interventions(texture="other").restrict(ClassMap({0: [3, 4]}))
    with pytest.raises(ArgumentError, match="texture='other' needs a class besides"):
        one.draw(3, 10, torch.Generator())


def test_classes_may_be_some_numbers_only(generator: torch.Generator) -> None:
    rule = Interventions(background="other")
    assert rule.choices("shape", (2, 5, 9)) == ((2,), (5,), (9,))
    drawn = rule.draw(200, (2, 5, 9), generator)
    assert all(row.unique().tolist() == [2, 5, 9] for row in drawn)
    with pytest.raises(ArgumentError, match=r"shape lists class 3 but .* the classes \[2, 5, 9\]"):
        Interventions(shape=[2, 3]).choices("shape", (2, 5, 9))
    with pytest.raises(ArgumentError, match=r"real batch has the class 3 but .* \[2, 5\]"):
        Interventions("permute").draw(2, (2, 5), generator, torch.tensor([2, 3]))


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
