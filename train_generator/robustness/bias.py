"""Shape bias and background gap as pure functions of a classifier's decisions. Sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from train_generator.metrics.groups import require_finite_scores
from train_generator.robustness.groups import ClassGroups


def group_probabilities(logits: Tensor, groups: ClassGroups) -> Tensor:
    """Averages the softmax outputs of the classes of each group.

    Geirhos et al. recommend the average over the sum, which would favour categories with many
    classes (their repository; "Generalisation in humans and deep neural networks", appendix).

    Args:
        logits: (N, 1000) float, or log probabilities.
        groups: G groups of ImageNet's classes.

    Returns:
        (N, G) float64 in [0, 1]; a row need not sum to 1.

    Raises:
        ArgumentError: there are not 1000 classes, or a logit is NaN or infinite.

    Examples:
        >>> import torch
        >>> from train_generator.robustness import (
        ...     cue_conflict_categories, group_probabilities)
        >>> logits = torch.zeros(1, 1000)
        >>> logits[0, 207] = 20.0  # golden retriever, one of 109 dogs
        >>> probabilities = group_probabilities(logits, cue_conflict_categories())
        >>> probabilities.shape, cue_conflict_categories().names[int(probabilities.argmax())]
        (torch.Size([1, 16]), 'dog')
    """
    probabilities = _require_imagenet(logits).double().softmax(dim=1)
    columns = [probabilities[:, list(classes)].mean(dim=1) for classes in groups.classes]
    return torch.stack(columns, dim=1)


def group_predictions(logits: Tensor, groups: ClassGroups) -> Tensor:
    """Maps the most likely of the 1000 classes to its group: the protocol of ImageNet-9.

    Args:
        logits: (N, 1000) float, or anything with the same argmax.
        groups: groups of ImageNet's classes.

    Returns:
        (N,) int64 groups; -1 if the class is in none, which counts as wrong.

    Raises:
        ArgumentError: there are not 1000 classes, or a logit is NaN or infinite.

    Examples:
        >>> import torch
        >>> from train_generator.robustness import group_predictions, imagenet9_classes
        >>> logits = torch.eye(1000)[[207, 999]]  # golden retriever, toilet tissue
        >>> group_predictions(logits, imagenet9_classes()).tolist()
        [0, -1]
    """
    return groups.to_group(_require_imagenet(logits).argmax(dim=1))


@dataclass(frozen=True)
class ShapeBias:
    """Decisions on cue-conflict images, counted by the category of the shape.

    Attributes:
        num_images: images of each category.
        num_shape: of these, decisions for the category of the shape.
        num_texture: of these, decisions for the category of the texture.
    """

    num_images: tuple[int, ...]
    num_shape: tuple[int, ...]
    num_texture: tuple[int, ...]

    @property
    def bias(self) -> float:
        """Share of shape among decisions for shape or texture, in [0, 1]; NaN without any."""
        return _share(sum(self.num_shape), self.num_cue_decisions)

    @property
    def category_biases(self) -> tuple[float, ...]:
        """The same for each category of the shape."""
        pairs = zip(self.num_shape, self.num_texture, strict=True)
        return tuple(_share(shape, shape + texture) for shape, texture in pairs)

    @property
    def num_cue_decisions(self) -> int:
        """Number of decisions for one of the two categories that an image shows."""
        return sum(self.num_shape) + sum(self.num_texture)

    @property
    def shape_accuracy(self) -> float:
        """Share of all images decided for the shape, in [0, 1]."""
        return sum(self.num_shape) / sum(self.num_images)

    @property
    def texture_accuracy(self) -> float:
        """Share of all images decided for the texture, in [0, 1]."""
        return sum(self.num_texture) / sum(self.num_images)


def shape_bias(
    decisions: Tensor, shapes: Tensor, textures: Tensor, num_categories: int = 16
) -> ShapeBias:
    """Counts decisions for shape and for texture (Geirhos et al., ICLR 2019, section 3).

    Images whose shape and texture have the same category show no conflict and are left out.

    Args:
        decisions: (N,) int64 categories that a classifier decided for.
        shapes: (N,) int64 categories of the shapes.
        textures: (N,) int64 categories of the textures.
        num_categories: number of categories.

    Raises:
        ArgumentError: the lengths differ, no image shows a conflict, or a shape or texture is not a
            category.

    Examples:
        >>> import torch
        >>> from train_generator.robustness import shape_bias
        >>> decided, shapes, textures = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 2], [1, 1, 1, 2]])
        >>> counts = shape_bias(decided, shapes, textures)
        >>> counts.bias, counts.num_cue_decisions, round(counts.shape_accuracy, 2)
        (0.5, 2, 0.33)
    """
    if not len(decisions) == len(shapes) == len(textures):
        raise ArgumentError(
            f"there must be a shape and a texture for each decision, got {len(decisions)} "
            f"decisions, {len(shapes)} shapes and {len(textures)} textures"
        )
    conflict = shapes != textures
    if not conflict.any():
        raise ArgumentError("no image has a shape and a texture of two categories")
    cues = torch.stack([shapes, textures])
    if cues.min() < 0 or cues.max() >= num_categories:
        raise ArgumentError(
            f"categories must be 0 to {num_categories - 1}, got {int(cues.min())} to "
            f"{int(cues.max())}"
        )

    def count(chosen: Tensor) -> tuple[int, ...]:
        return tuple(torch.bincount(shapes[chosen & conflict], minlength=num_categories).tolist())

    return ShapeBias(
        num_images=count(conflict),
        num_shape=count(decisions == shapes),
        num_texture=count(decisions == textures),
    )


def background_gap(accuracies: Mapping[str, float]) -> float:
    """Returns the accuracy lost if the background has another class (Xiao et al., ICLR 2021).

    Args:
        accuracies: accuracies on variants of ImageNet-9, including `mixed_same` and `mixed_rand`.

    Returns:
        The first minus the second, in [-1, 1].

    Raises:
        ArgumentError: one of the two is missing.

    Examples:
        >>> from train_generator.robustness import background_gap
        >>> round(background_gap({"mixed_same": 0.862, "mixed_rand": 0.789}), 3)
        0.073
    """
    missing = [name for name in ("mixed_same", "mixed_rand") if name not in accuracies]
    if missing:
        raise ArgumentError(
            f"the background gap needs the accuracy on {' and '.join(missing)}, got "
            f"{list(accuracies)}"
        )
    return accuracies["mixed_same"] - accuracies["mixed_rand"]


def _require_imagenet(logits: Tensor) -> Tensor:
    if logits.dim() != 2 or logits.shape[1] != 1000:
        raise ArgumentError(
            "logits must be of ImageNet's 1000 classes, which the groups are made of, got the "
            f"shape {tuple(logits.shape)}"
        )
    # After the softmax, since a log probability may be minus infinity.
    require_finite_scores(logits.double().softmax(dim=1))
    return logits


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
