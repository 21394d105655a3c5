"""GroupDRO against algorithm 1 of the paper, and the order that it is trained in."""

from __future__ import annotations

import math

import pytest
import torch

from cgn_augment.errors import ArgumentError
from train_generator.classifier.group_dro import BalancedSampler, GroupWeights


def test_weights_follow_the_losses_as_published() -> None:
    weights = GroupWeights([60, 20, 20], eta=0.1)
    losses = torch.tensor([1.0, 3.0, 5.0, 0.5], requires_grad=True)
    groups = torch.tensor([0, 0, 2, 2])
    expected = [1 / 3 * math.exp(0.1 * mean) for mean in (2.0, 0.0, 2.75)]
    expected = [each / sum(expected) for each in expected]
    loss = weights.weigh(losses, groups)
    assert weights.values.tolist() == pytest.approx(expected)
    assert loss.item() == pytest.approx(expected[0] * 2.0 + expected[2] * 2.75)
    loss.backward()
    assert losses.grad is not None
    per_image = [expected[0] / 2] * 2 + [expected[2] / 2] * 2
    assert losses.grad.tolist() == pytest.approx(per_image)


def test_a_group_without_training_images_never_has_a_weight() -> None:
    weights = GroupWeights([50, 0, 0, 50])
    for _ in range(5):
        weights.weigh(torch.rand(6), torch.tensor([0, 0, 0, 3, 3, 3]))
    assert weights.values[1:3].tolist() == [0.0, 0.0]
    assert weights.values.sum().item() == pytest.approx(1)
    again = GroupWeights([50, 0, 0, 50])
    again.load_state_dict(weights.state_dict())
    assert torch.equal(again.values, weights.values)


def test_groups_are_drawn_equally_often_and_epochs_differ() -> None:
    groups = [0] * 700 + [1] * 200 + [3] * 100
    sampler = BalancedSampler(groups, seed=3)
    first = list(sampler)
    assert len(first) == len(sampler) == 1000
    counts = [sum(groups[i] == g for i in first) for g in (0, 1, 3)]
    assert all(280 < count < 390 for count in counts)
    assert list(BalancedSampler(groups, seed=3)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert len(list(BalancedSampler(groups, seed=3, num_samples=50))) == 50


def test_what_cannot_be_weighed_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="no group has a training image"):
        GroupWeights([0, 0])
    with pytest.raises(ArgumentError, match="eta must be above 0, got nan"):
        GroupWeights([1, 1], eta=math.nan)
