"""Metrics of generators, against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from train_generator.metrics.factors import (
    accuracy,
    binarize,
    class_accuracies,
    coverage,
    diversity,
    mask_area,
    mask_entropy,
    pairwise_distance,
    tone_diversity,
)
from train_generator.mnist import load_digits


def test_a_pixel_is_object_above_one_half() -> None:
    assert binarize(torch.tensor([0.0, 0.5, 0.51, 1.0])).tolist() == [False, False, True, True]


def test_accuracies_count_images_overall_and_by_the_class_that_was_asked_for() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1])
    assert accuracy(predicted, labels) == 0.6
    first, second, third = class_accuracies(predicted, labels, 3)
    assert (first, second) == (2 / 3, 0.5)
    assert math.isnan(third)


def test_accuracy_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ArgumentError, match="at least one; got 2 values and 3"):
        accuracy(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ArgumentError, match="got 0 values and 0 labels"):
        class_accuracies(torch.zeros(0), torch.zeros(0), 2)


def test_entropy_is_in_bits_and_area_a_share() -> None:
    quarter = torch.full((2, 1, 4, 4), 0.25)
    assert mask_entropy(quarter) == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-7)
    assert mask_area(quarter) == 0.25
    sharp = (torch.arange(16).view(1, 1, 4, 4) < 4).float()
    assert str(mask_entropy(sharp)) == "0.0"  # -0.0 would be printed as such
    assert mask_area(sharp) == 0.25


def test_sums_are_float64() -> None:
    # In float32 a sum of 2^24 ones and another one is 2^24.
    masks = torch.ones(1, 1, 1, 2**24 + 2)
    masks[..., 0] = 0
    assert mask_area(masks) == (2**24 + 1) / (2**24 + 2)


def test_the_distance_over_all_pairs_is_that_of_looking_at_each(generator: torch.Generator) -> None:
    masks = torch.rand(7, 1, 5, 5, generator=generator) > 0.3
    distances = [
        float((first != second).double().mean())
        for first, second in itertools.combinations(masks, 2)
    ]
    assert pairwise_distance(masks) == pytest.approx(sum(distances) / len(distances), abs=1e-12)
    assert pairwise_distance(masks[:1].expand(5, -1, -1, -1)) == 0.0
    with pytest.raises(ArgumentError, match="two or more, got 1"):
        pairwise_distance(masks[:1])


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, Tensor]:
    digits = load_digits("train", 400)
    return digits.masks, digits.labels


def test_one_perfect_digit_a_class_has_no_diversity(real: tuple[Tensor, Tensor]) -> None:
    masks, labels = real
    first = torch.stack([masks[labels == y][0] for y in range(10)])
    assert diversity(first[labels], labels, masks, labels) == 0.0
    assert diversity(masks, labels, masks, labels) == 1.0


def test_diversity_is_within_classes_and_an_average_over_them(real: tuple[Tensor, Tensor]) -> None:
    masks, labels = real
    one_mask = masks.clone()
    one_mask[labels == 3] = masks[0]
    assert diversity(one_mask, labels, masks, labels) == pytest.approx(0.9)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert diversity(masks[order], labels, masks, labels) > 1.1  # the classes differ more


def test_coverage_is_the_share_of_neighbourhoods_that_are_met() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [13.0]])
    labels = torch.zeros(6, dtype=torch.long)
    # Radii to the second neighbour: 2, 1, 2, 3, 2, 3.
    for point, met in ((1.9, 3), (2.1, 1), (13.0, 3), (-2.0, 1), (-2.01, 0), (12.0, 3)):
        found = coverage(torch.tensor([[point]]), labels[:1], real, labels, num_neighbors=2)
        assert found == pytest.approx(met / 6), point
    assert coverage(real, labels, real, labels, num_neighbors=1) == 1.0


def test_coverage_keeps_to_the_class() -> None:
    real = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert coverage(torch.tensor([[0.5]]), torch.tensor([1]), real, labels, 1) == 0.5


def test_coverage_of_perfect_samples_is_as_the_paper_expects() -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(2, 1000, 4, generator=generator)
    labels = torch.zeros(1000, dtype=torch.long)
    assert coverage(generated, labels, real, labels) == pytest.approx(1 - 2**-5, abs=0.02)


def test_coverage_needs_more_real_digits_than_neighbours() -> None:
    points, labels = torch.zeros(5, 1), torch.zeros(5, dtype=torch.long)
    with pytest.raises(ArgumentError, match=r"more than 5 real samples of each class .* got 5"):
        coverage(points, labels, points, labels)


# Tones


def flat(*grey: float) -> Tensor:
    return torch.tensor(grey).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_tones_spread_by_their_standard_deviation_within_classes() -> None:
    real, labels = flat(0.0, 2.0, 10.0, 12.0), torch.tensor([0, 0, 1, 1])
    assert tone_diversity(flat(5, 6, 1, 1), labels, real, labels) == pytest.approx((0.5 + 0) / 2)
    assert tone_diversity(flat(0, 4, 3, 7), labels, real, labels) == pytest.approx(2)


def test_contrast_is_a_tone_and_place_is_none() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(1, 3, 4, 2)
    real, labels = torch.cat([stripes, 3 * stripes]), torch.zeros(2).long()
    assert tone_diversity(torch.cat([stripes, 2 * stripes]), labels, real, labels) == (
        pytest.approx(0.5)
    )
    moved = torch.cat([stripes, stripes.roll(1, dims=3)])
    assert tone_diversity(moved, labels, real, labels) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ArgumentError, match="one label for each"):
        tone_diversity(moved, labels[:1], real, labels)
    with pytest.raises(ArgumentError, match="two textures or more, got 1"):
        tone_diversity(moved[:1], labels[:1], real, labels)
    with pytest.raises(ArgumentError, match="of class 0 are alike: give others"):
        tone_diversity(moved, labels, stripes.expand(2, -1, -1, -1), labels)
