"""Metrics of a generator, as pure functions. Sums are float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError

THRESHOLD = 0.5
"""Pixels with a mask above this are object."""


def binarize(masks: Tensor) -> Tensor:
    """Returns masks (N, 1, H, W) float in [0, 1] as bool, True on the object.

    Args:
        masks: (N, 1, H, W) float in [0, 1].
    """
    return masks > THRESHOLD


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Returns the share of predicted classes (N,) int64 that equal the labels (N,), in [0, 1].

    Args:
        predicted: (N,) int64 classes.
        labels: (N,) int64.

    Raises:
        ArgumentError: the lengths differ, or there is nothing to count.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import accuracy
        >>> accuracy(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 3, 4]))
        0.75
    """
    _require_labels(predicted, labels)
    return float((predicted == labels).double().mean())


def class_accuracies(predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[float, ...]:
    """Returns `accuracy` for each class of the labels; NaN for a class without any.

    Args:
        predicted: (N,) int64 classes.
        labels: (N,) int64.
        num_classes: number of classes.

    Raises:
        ArgumentError: the lengths differ, or there is nothing to count.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import class_accuracies
        >>> class_accuracies(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]), 2)
        (0.5, 0.5)
    """
    _require_labels(predicted, labels)
    correct = (predicted == labels).double()
    return tuple(float(correct[labels == y].mean()) for y in range(num_classes))


def mask_entropy(masks: Tensor) -> float:
    """Returns the mean binary entropy in bits of masks (N, 1, H, W) float in [0, 1].

    Near 0 for masks of zeros and ones, 1 for masks of halves. The paper's L_shape, in float64.

    Args:
        masks: (N, 1, H, W) float in [0, 1].

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import mask_entropy
        >>> mask_entropy(torch.full((1, 1, 2, 2), 0.5))
        1.0
    """
    shares = masks.double()
    nats = torch.special.entr(shares) + torch.special.entr(1 - shares)
    return float(nats.mean()) / math.log(2)


def mask_area(masks: Tensor) -> float:
    """Returns the mean share of the image that masks (N, 1, H, W) float in [0, 1] cover.

    Args:
        masks: (N, 1, H, W) float in [0, 1].

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import mask_area
        >>> mask_area(torch.eye(4).view(1, 1, 4, 4))
        0.25
    """
    return float(masks.double().mean())


def pairwise_distance(masks: Tensor) -> float:
    """Returns the share of pixels in which two masks differ, averaged over all pairs.

    If k of n masks have a pixel set, k(n - k) of the n(n - 1)/2 pairs differ there, so no pair
    needs to be compared.

    Args:
        masks: (N, 1, H, W) bool, at least two.

    Returns:
        A number in [0, 1]; 0 if all masks are the same.

    Raises:
        ArgumentError: there are fewer than two masks.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import pairwise_distance
        >>> pairwise_distance(torch.tensor([[True, True], [True, False]]).view(2, 1, 1, 2))
        0.5
    """
    num = len(masks)
    if num < 2:
        raise ArgumentError(f"a distance between masks needs two or more, got {num}")
    num_set = masks.sum(dim=0, dtype=torch.float64)
    return float((num_set * (num - num_set)).mean()) / (num * (num - 1) / 2)


def diversity(masks: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Returns how much masks of one class differ, relative to real masks of that class.

    1 is as diverse as real masks, 0 is one mask per class. Above 1, masks differ in more than real
    ones do, which noise and broken shapes also achieve: read it together with the shape accuracy.

    Args:
        masks: (N, 1, H, W) bool, at least two per class.
        labels: (N,) int64.
        real: (M, 1, H, W) bool, at least two for each class of `labels`, not all the same.
        real_labels: (M,) int64.

    Returns:
        The ratio of the pairwise distances, averaged over the classes of `labels`.

    Raises:
        ArgumentError: a class has fewer than two masks, or its real masks are all the same.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import diversity
        >>> masks, labels = torch.rand(20, 1, 8, 8) > 0.5, torch.arange(20) % 2
        >>> diversity(masks, labels, masks, labels)
        1.0
    """
    return _mean_ratio(pairwise_distance, masks, labels, real, real_labels)


def tone_diversity(textures: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Returns how much the tones of one class's textures vary, relative to real ones of that class.

    The tones of a texture are its mean and its standard deviation in each channel, which do not
    change when the texture moves around the torus. 1 varies as real textures do; a mechanism that
    draws one texture per class, each time moved elsewhere, gets 0.

    Args:
        textures: (N, 3, H, W) float, at least two per class.
        labels: (N,) int64.
        real: (M, 3, H, W) float, at least two for each class of `labels`, not all alike.
        real_labels: (M,) int64.

    Returns:
        The ratio of the standard deviations of the tones, averaged over the classes of `labels`.

    Raises:
        ArgumentError: the number of labels differs, a class has fewer than two textures, or its
            real textures are all alike.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import tone_diversity
        >>> textures, labels = torch.rand(20, 3, 8, 8), torch.arange(20) % 2
        >>> tone_diversity(textures, labels, textures, labels)
        1.0
    """
    return _mean_ratio(_tone_spread, textures, labels, real, real_labels)


def _mean_ratio(
    spread: Callable[[Tensor], float], values: Tensor, labels: Tensor, real: Tensor, known: Tensor
) -> float:
    """Returns the mean over the classes of `labels` of the spread relative to that of real ones."""
    _require_labels(values, labels)
    _require_labels(real, known)
    ratios = []
    for y in set(labels.tolist()):
        of_real = spread(real[known == y])
        if of_real == 0:
            raise ArgumentError(f"all real ones of class {y} are alike: give others to compare")
        ratios.append(spread(values[labels == y]) / of_real)
    return sum(ratios) / len(ratios)


def _tone_spread(textures: Tensor) -> float:
    if len(textures) < 2:
        raise ArgumentError(f"a spread of tones needs two textures or more, got {len(textures)}")
    pixels = textures.double().flatten(2)
    tones = torch.cat([pixels.mean(dim=2), pixels.std(dim=2)], dim=1)
    return float(tones.var(dim=0).sum().sqrt())


def coverage(
    features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, num_neighbors: int = 5
) -> float:
    """Returns the share of real samples with a generated one of their class in their neighbourhood.

    The neighbourhood of a real sample reaches to its `num_neighbors`-th nearest real sample of the
    same class. Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML
    2020, equation 4, here within each class. For equally many perfect and real samples the expected
    value is about 1 - 2^-num_neighbors (their section 3.3): 0.97 for five.

    Args:
        features: (N, D) float of the generated samples.
        labels: (N,) int64.
        real: (M, D) float, more than `num_neighbors` per class.
        real_labels: (M,) int64.
        num_neighbors: neighbours that define the size of a neighbourhood.

    Returns:
        A number in [0, 1], averaged over the classes of `real_labels`.

    Raises:
        ArgumentError: a class has too few real samples.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.factors import coverage
        >>> real, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.zeros(4).long()
        >>> coverage(torch.tensor([[0.5]]), labels[:1], real, labels, num_neighbors=1)
        0.5
    """
    _require_labels(features, labels)
    _require_labels(real, real_labels)
    shares = [
        _class_coverage(features[labels == y], real[real_labels == y], num_neighbors)
        for y in torch.unique(real_labels).tolist()
    ]
    return sum(shares) / len(shares)


def _class_coverage(features: Tensor, real: Tensor, num_neighbors: int) -> float:
    if not 1 <= num_neighbors < len(real):
        raise ArgumentError(
            f"the {num_neighbors} nearest neighbours need more than {num_neighbors} real samples "
            f"of each class and num_neighbors of 1 or more, got {len(real)} samples"
        )
    if len(features) == 0:
        return 0.0
    real, features = real.double(), features.double()
    # cdist by differences: the distance of a sample to itself is exactly 0, and comes first.
    exact = "donot_use_mm_for_euclid_dist"
    radii = torch.cdist(real, real, compute_mode=exact).sort(dim=1).values[:, num_neighbors]
    nearest = torch.cdist(real, features, compute_mode=exact).amin(dim=1)
    return float((nearest <= radii).double().mean())


def _require_labels(values: Tensor, labels: Tensor) -> None:
    if len(values) != len(labels) or len(labels) == 0:
        raise ArgumentError(
            f"there must be one label for each value, and at least one; got {len(values)} values "
            f"and {len(labels)} labels"
        )
