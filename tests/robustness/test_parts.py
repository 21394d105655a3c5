"""The parts of an evaluation, and the classes that they need."""

from __future__ import annotations

from pathlib import Path

import pytest
from robustness_helpers import make_cue_conflicts, make_digits, make_imagenet9, make_reader

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from train_generator.robustness import (
    EvaluationConfig,
    EvaluationData,
    find_class_map,
    find_cue_conflicts,
    find_imagenet9,
    make_parts,
)


def test_labels_are_classes_where_there_are_as_many(tiny_cgn: SmallCGN) -> None:
    found = find_class_map(make_digits(), tiny_cgn, None)
    assert found.choices == tuple((y,) for y in range(10))


def test_labels_with_imagenets_names_find_their_classes() -> None:
    class Thousand:
        num_classes = 1000

    found = find_class_map(
        make_digits(2, ["golden retriever", "tench"]),
        Thousand(),  # type: ignore[arg-type]
        None,
    )
    assert found.choices == ((207,), (0,))
    for classes in (None, ["tench", "xyzzy"]):
        with pytest.raises(ArgumentError, match=r"has 2 classes and the CGN 1000: .* --class-map"):
            find_class_map(make_digits(2, classes), Thousand(), None)  # type: ignore[arg-type]


def test_a_class_map_must_fit_both(tiny_cgn: SmallCGN) -> None:
    assert find_class_map(make_digits(2), tiny_cgn, {"0": 3, "1": [4, 5]}).choices == ((3,), (4, 5))
    named = make_digits(2, ["cat", "dog"])
    assert find_class_map(named, tiny_cgn, {"0": 1, "dog": 7}).choices == ((1,), (7,))
    with pytest.raises(ArgumentError, match=r"has '2', which is no class .* the labels 0 to 1"):
        find_class_map(make_digits(2), tiny_cgn, {"2": 3})
    with pytest.raises(ArgumentError, match="12"):
        find_class_map(make_digits(2), tiny_cgn, {"1": 12})
    with pytest.raises(ArgumentError, match="has 2 classes and the CGN 10"):
        find_class_map(make_digits(2), tiny_cgn, None)


def test_each_part_wants_classes_that_it_knows(tmp_path: Path) -> None:
    make_cue_conflicts(tmp_path / "cue")
    make_imagenet9(tmp_path / "nine")
    cue = EvaluationData(cue_conflict=find_cue_conflicts(tmp_path / "cue"))
    nine = EvaluationData(imagenet9=find_imagenet9(tmp_path / "nine"))
    for data, what in ((cue, "the shape bias"), (nine, "the background gap")):
        with pytest.raises(ArgumentError, match=f"{what} needs .* 1000 classes.* has 10 others"):
            make_parts(make_digits(), data, EvaluationConfig())
        assert len(make_parts(make_reader(0, [0]), data, EvaluationConfig())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "nothing to measure: name .* --cue-conflict FOLDER, --in9 FOLDER, --real FOLDER, "
            "--groups LAYOUT:PATH, --c",
        ),
        ({"num": 0}, "num must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_data_are_refused(tiny_cgn: SmallCGN, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EvaluationData(**({"cgn": tiny_cgn, **settings} if settings else {}))  # type: ignore[arg-type]
