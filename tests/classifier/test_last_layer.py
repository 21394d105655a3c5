"""Last-layer retraining: the regression at its optimum, and what it makes of a shortcut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from train_generator.classifier.last_layer import (
    STRENGTHS,
    collect_features,
    fit_logistic,
    retrain_last_layer,
)

NAMES = ("0 in 0", "0 in 1", "1 in 0", "1 in 1")


def make_features(counts: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The class is in feature 0, its surrounding, four times as strong, in feature 1."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(4).repeat_interleave(torch.tensor(counts))
    labels = groups // 2
    features = torch.randn(len(groups), 12, generator=generator)
    features[:, 0] += 3.0 * labels
    features[:, 1] += 12.0 * (groups % 2)
    features[:, 11] = 0.0  # as a unit that never fires
    return features, labels, groups


@pytest.mark.parametrize("strength", [1.0, 0.05])
def test_the_regression_is_at_its_minimum(strength: float) -> None:
    features, labels, _ = make_features((40, 30, 20, 50))
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6)
    weight, bias = fit_logistic(features, labels, 2, strength)
    off = (features @ weight.T + bias).softmax(dim=1) - F.one_hot(labels, 2)
    gradient, zero = strength * (off.T @ features), weight == 0
    assert zero.any()
    assert gradient[zero].abs().max() <= 1.001
    assert torch.allclose(gradient[~zero], -weight[~zero].sign(), atol=2e-3)
    assert off.sum(dim=0).abs().max() < 2e-3


def test_a_shortcut_has_no_weight_where_groups_are_balanced() -> None:
    features, labels, groups = make_features((200, 40, 40, 200))
    last = nn.Linear(12, 2)
    found = retrain_last_layer(last, features, labels, groups, NAMES, seed=0)
    assert found.num_images == 160
    assert found.inverse_strength in STRENGTHS
    weight = last.weight * features.std(dim=0)
    assert weight[1, 0] > 10 * weight[1, 1].abs()
    test, test_labels, test_groups = make_features((200, 200, 200, 200), seed=1)
    right = last(test).argmax(dim=1) == test_labels
    shares = [right[test_groups == g].float().mean().item() for g in range(4)]
    assert min(shares) > 0.85
    again = nn.Linear(12, 2)
    assert retrain_last_layer(again, features, labels, groups, NAMES, seed=0) == found
    assert torch.equal(again.weight, last.weight)


def test_features_are_what_the_last_layer_sees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    model.train()
    batches = [(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])) for _ in range(2)]
    last = model[4]
    features, labels = collect_features(model, last, batches)
    assert model.training
    model.eval()
    expected = torch.cat([model(images) for images, _ in batches])
    assert torch.allclose(last(features), expected)
    assert labels.tolist() == [0, 1, 0, 1] * 2
    assert not last._forward_pre_hooks


def test_a_group_of_one_validation_image_cannot_be_halved() -> None:
    features, labels, groups = make_features((5, 1, 5, 5))
    with pytest.raises(ArgumentError, match=r"two or more: 0 in 0 has 5, 0 in 1 has 1"):
        retrain_last_layer(nn.Linear(12, 2), features, labels, groups, NAMES, seed=0)
