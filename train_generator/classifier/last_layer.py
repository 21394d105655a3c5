"""Last-layer retraining on validation images with equally large groups.

Deep feature reweighting (Kirichenko et al., Last Layer Re-Training is Sufficient for Robustness to
Spurious Correlations, ICLR 2023): the features stay as trained, and a logistic regression with an
L1 penalty on group-balanced validation images replaces the last layer. Needs the groups of
validation images; those of training images are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from train_generator.metrics.groups import count_groups, require_finite_scores

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""Inverse strengths C of the penalty to try, as published."""

NUM_DRAWS = 20
"""Balanced draws whose layers are averaged, as published."""

_NUM_STEPS = 500  # of the optimizer; a test compares its result with the optimum


@dataclass(frozen=True)
class Retrained:
    """The result of retraining a last layer.

    Attributes:
        inverse_strength: inverse strength of the penalty, chosen on half of the validation images.
        worst_group_accuracy: accuracy of the worst group there, in [0, 1].
        num_images: validation images in each balanced draw.
        num_zeros: weights that are 0 in the averaged layer.
    """

    inverse_strength: float
    worst_group_accuracy: float
    num_images: int
    num_zeros: int

    def as_row(self) -> dict[str, Any]:
        """Returns it as a row for JSON."""
        return asdict(self)


@torch.no_grad()
def collect_features(
    model: nn.Module, last: nn.Linear, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns the inputs of a classifier's last layer.

    Args:
        model: the classifier; in eval mode meanwhile.
        last: its last layer.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Returns:
        Features (N, D) float32 and labels (N,) int64, both on the model's device.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    device, was_training = last.weight.device, model.training
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float()))
    model.eval()
    try:
        for images, targets in batches:
            model(images.to(device))
            labels.append(targets.to(device))
    finally:
        hook.remove()
        model.train(was_training)
    return require_finite_scores(torch.cat(features)), torch.cat(labels)


def require_halves(groups: Tensor, names: Sequence[str]) -> None:
    """Raises unless each group has at least two images.

    Args:
        groups: (N,) int64 groups of validation images.
        names: names of the groups.

    Raises:
        ArgumentError: a group has fewer.
    """
    counts = torch.bincount(groups.cpu(), minlength=len(names)).tolist()
    if min(counts) < 2:
        told = [f"{name} has {num}" for name, num in zip(names, counts, strict=True)]
        raise ArgumentError(
            "the last layer is retrained on as many validation images of each group, two or more: "
            f"{', '.join(told)}"
        )


def retrain_last_layer(
    last: nn.Linear,
    features: Tensor,
    labels: Tensor,
    groups: Tensor,
    names: Sequence[str],
    seed: int,
) -> Retrained:
    """Fits a last layer to features of equally large groups.

    Features are standardised over all of them. The strength of the penalty is the one whose layer,
    fitted on a balanced draw from one half, has the best worst group on the other half. Then the
    layers of 20 balanced draws from all features are averaged.

    Args:
        last: the layer that gets the new weights.
        features: (N, D) float32 of validation images; see `collect_features`.
        labels: (N,) int64.
        groups: (N,) int64.
        names: names of the groups, which need at least two images each.
        seed: seed of the draws.

    Raises:
        ArgumentError: a group has fewer than two images.
    """
    require_halves(groups, names)
    mean, std = features.mean(dim=0), features.std(dim=0)
    std = torch.where(std > 0, std, torch.ones_like(std))  # for features that are always 0
    normal = (features - mean) / std
    num_classes = last.out_features
    first, second = _split_halves(groups.cpu(), seed)
    chosen = _draw_balanced(groups.cpu()[first], step_generator(Purpose.ORDER, seed, 1))
    drawn, held = first[chosen].to(features.device), second.to(features.device)
    worst = []
    for strength in STRENGTHS:
        weight, bias = fit_logistic(normal[drawn], labels[drawn], num_classes, strength)
        right = (normal[held] @ weight.T + bias).argmax(dim=1) == labels[held]
        worst.append(count_groups(right.cpu(), groups.cpu()[second], names).worst[1])
    best = max(worst)
    strength = STRENGTHS[worst.index(best)]
    layers = []
    for number in range(NUM_DRAWS):
        generator = step_generator(Purpose.ORDER, seed, 2, number)
        drawn = _draw_balanced(groups.cpu(), generator).to(features.device)
        layers.append(fit_logistic(normal[drawn], labels[drawn], num_classes, strength))
    weight = torch.stack([each[0] for each in layers]).mean(dim=0) / std
    bias = torch.stack([each[1] for each in layers]).mean(dim=0) - weight @ mean
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    return Retrained(strength, best, len(drawn), int((weight == 0).sum()))


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, inverse_strength: float
) -> tuple[Tensor, Tensor]:
    """Fits a multinomial logistic regression with an L1 penalty.

    Minimises C times the sum of cross-entropies plus the sum of absolute weights, by FISTA (Beck
    and Teboulle, 2009). For two classes the minimum is that of the usual binary regression.

    Args:
        features: (N, D) float32.
        labels: (N,) int64.
        num_classes: number of classes.
        inverse_strength: C, above 0.

    Returns:
        Weight (num_classes, D) and bias (num_classes,), float32.

    Examples:
        >>> import torch
        >>> from train_generator.classifier.last_layer import fit_logistic
        >>> features = torch.tensor([[1.0, 0.1], [2.0, -0.1], [-1.0, 0.1], [-2.0, -0.1]])
        >>> weight, bias = fit_logistic(features, torch.tensor([1, 1, 0, 0]), 2, 1.0)
        >>> bool(weight[1, 0] > 0.3), weight[:, 1].abs().tolist()
        (True, [0.0, 0.0])
    """
    inputs = torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()
    targets = F.one_hot(labels, num_classes).double()
    # Half of the largest eigenvalue of the inputs' products bounds the curvature of the softmax.
    step = 2 / torch.linalg.matrix_norm(inputs, 2).square()
    shrink = step / inverse_strength
    weights = inputs.new_zeros(inputs.shape[1], num_classes)
    ahead, momentum = weights, 1.0
    for _ in range(_NUM_STEPS):
        gradient = inputs.T @ ((inputs @ ahead).softmax(dim=1) - targets)
        moved = ahead - step * gradient
        moved[:-1] = F.softshrink(moved[:-1], float(shrink))  # the bias has no penalty
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / faster * (moved - weights)
        weights, momentum = moved, faster
    return weights[:-1].T.float(), weights[-1].float()


def _split_halves(groups: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns two halves of the indices, each with half of every group."""
    generator = step_generator(Purpose.ORDER, seed, 0)
    first, second = [], []
    for g in torch.unique(groups):
        places = (groups == g).nonzero()[:, 0]
        places = places[torch.randperm(len(places), generator=generator)]
        first.append(places[: (len(places) + 1) // 2])
        second.append(places[(len(places) + 1) // 2 :])
    return torch.cat(first), torch.cat(second)


def _draw_balanced(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Returns indices with as many of each group as the rarest has."""
    places = [(groups == g).nonzero()[:, 0] for g in torch.unique(groups)]
    num = min(map(len, places))
    return torch.cat(
        [each[torch.randperm(len(each), generator=generator)[:num]] for each in places]
    )
