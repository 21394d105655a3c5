"""A classifier whose scores are no numbers is an error in every measure, and never "invariant"."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn
from layout_helpers import make_waterbirds
from robustness_helpers import NINE, make_cue_conflicts, make_digits, make_imagenet9, save_image

from cgn_augment.errors import ArgumentError
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.robustness import (
    Predictor,
    factor_sensitivity,
    find_cue_conflicts,
    find_grouped_images,
    find_imagenet9,
    group_predictions,
    group_probabilities,
    imagenet9_classes,
    label_images,
    measure_cue_conflict,
    measure_groups,
    measure_imagenet9,
    measure_real,
)
from train_generator.robustness.folders import find_real_images


def break_weights(predictor: Predictor) -> Predictor:
    with torch.no_grad():
        next(predictor.model.parameters()).fill_(math.nan)
    return predictor


def of_cues(folder: Path) -> object:
    images = find_cue_conflicts(make_cue_conflicts(folder))
    return measure_cue_conflict(break_weights(make_digits(1000)), images)


def of_imagenet9(folder: Path) -> object:
    images = find_imagenet9(make_imagenet9(folder))
    return measure_imagenet9(break_weights(make_digits(1000)), images)


def of_real(folder: Path) -> object:
    for name in NINE:
        save_image(folder / name / "1.png", 1)
    images = label_images(folder, find_real_images(folder), None, 9)
    return measure_real(break_weights(make_digits(9)), images)


def of_groups(folder: Path) -> object:
    found = find_grouped_images(f"waterbirds:{make_waterbirds(folder)}")
    images = label_images(folder, found.images, None, 2)
    return measure_groups(break_weights(make_digits(2)), images, found.groups)


def of_factors(folder: Path) -> object:
    predictor, generator = break_weights(make_digits()), torch.Generator().manual_seed(0)
    return factor_sensitivity(predictor.see, make_tiny_cgn().freeze(), 4, generator)


def of_a_function(folder: Path) -> object:
    def predict(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mine": torch.full((len(images), 10), math.nan)}

    generator = torch.Generator().manual_seed(0)
    return factor_sensitivity(predict, make_tiny_cgn().freeze(), 4, generator)


def of_batches(folder: Path) -> object:
    model = MNISTClassifier()
    with torch.no_grad():
        model[1].weight.fill_(math.inf)
    return measure_accuracy(model, [(torch.randn(4, 3, 32, 32), torch.zeros(4).long())])


@pytest.mark.parametrize(
    "measure", [of_cues, of_imagenet9, of_real, of_groups, of_factors, of_a_function, of_batches]
)
def test_broken_weights_are_an_error(measure: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"gives NaN or infinity for .* images"):
        measure(tmp_path)


@pytest.mark.parametrize("function", [group_probabilities, group_predictions])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_are_an_error(function: Callable[..., object], broken: float) -> None:
    logits = torch.zeros(2, 1000)
    logits[1, 5] = broken
    with pytest.raises(ArgumentError, match="NaN or infinity for 1 of 2 images"):
        function(logits, imagenet9_classes())
