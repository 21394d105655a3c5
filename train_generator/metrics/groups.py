"""Accuracy by group, as pure functions of the images a classifier got right.

A group is a class in one environment, such as water birds on land. Its accuracy shows whether the
classifier needs the environment. The field compares the worst group (Sagawa et al., ICLR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError


def require_finite_scores(scores: Tensor, name: str = "the classifier") -> Tensor:
    """Returns scores (N, C) float unchanged if all of them are finite.

    The argmax of NaN scores is the first class, so a broken classifier would pass for one that
    always decides for class 0.

    Args:
        scores: scores of images and classes, before or after the softmax.
        name: what made them, for the error.

    Raises:
        ArgumentError: a score is NaN or infinite.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.groups import require_finite_scores
        >>> require_finite_scores(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    broken = int((~torch.isfinite(scores)).flatten(1).any(dim=1).sum())
    if broken:
        raise ArgumentError(
            f"{name} gives NaN or infinity for {broken} of {len(scores)} images: its weights are "
            "damaged or its training has diverged, so there is nothing to measure"
        )
    return scores


@dataclass(frozen=True)
class GroupAccuracies:
    """Counts of correctly classified images, by group.

    Attributes:
        names: names of the groups.
        num_images: images of each group.
        num_right: correctly classified images of each group.
        train_counts: training images of each group, the weights of the adjusted average; None if
            unknown.

    Raises:
        ArgumentError: the numbers of counts and groups differ, there is no image, or counts are
            impossible.

    Examples:
        >>> from train_generator.metrics.groups import GroupAccuracies
        >>> groups = GroupAccuracies(("land", "water"), (100, 50), (90, 20), (300, 100))
        >>> groups.worst, round(groups.average, 3), round(groups.adjusted_average, 3)
        ((1, 0.4), 0.733, 0.775)
    """

    names: tuple[str, ...]
    num_images: tuple[int, ...]
    num_right: tuple[int, ...]
    train_counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        counts = [self.num_images, self.num_right]
        counts += [] if self.train_counts is None else [self.train_counts]
        if any(len(each) != len(self.names) for each in counts):
            raise ArgumentError(
                f"there must be a count for each of the {len(self.names)} groups, got "
                f"{[len(each) for each in counts]}"
            )
        pairs = zip(self.num_right, self.num_images, strict=True)
        if any(not 0 <= right <= num for right, num in pairs):
            raise ArgumentError(
                f"of {self.num_images} images {self.num_right} cannot be right: give counts of 0 "
                "to the images of the group"
            )
        if sum(self.num_images) == 0:
            raise ArgumentError("there is no image in any group, so there is nothing to measure")

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        """Accuracy of each group, in [0, 1]; None for a group without images."""
        pairs = zip(self.num_right, self.num_images, strict=True)
        return tuple(right / num if num else None for right, num in pairs)

    @property
    def standard_errors(self) -> tuple[float | None, ...]:
        """Binomial standard error of each accuracy p of n images: the root of p(1 - p) / n."""
        pairs = zip(self.accuracies, self.num_images, strict=True)
        return tuple(None if p is None else math.sqrt(p * (1 - p) / n) for p, n in pairs)

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the groups without images, which take no part in the results below."""
        return tuple(name for name, num in zip(self.names, self.num_images, strict=True) if not num)

    @property
    def worst(self) -> tuple[int, float]:
        """Index and accuracy of the group with the lowest accuracy; the first of equal ones."""
        known = [(p, g) for g, p in enumerate(self.accuracies) if p is not None]
        accuracy, group = min(known)
        return group, accuracy

    @property
    def average(self) -> float:
        """Share of correctly classified images over all groups, in [0, 1]."""
        return sum(self.num_right) / sum(self.num_images)

    @property
    def adjusted_average(self) -> float | None:
        """Mean of the groups' accuracies, weighted by their counts in the training set.

        Papers on Waterbirds call this the average accuracy (Sagawa et al., ICLR 2020), because the
        shares of groups differ between test and training set. None if the counts are unknown, or a
        group with training images has no image here.
        """
        if self.train_counts is None or sum(self.train_counts) == 0:
            return None
        total = 0.0
        for accuracy, weight in zip(self.accuracies, self.train_counts, strict=True):
            if weight and accuracy is None:
                return None
            total += weight * (accuracy or 0.0)
        return total / sum(self.train_counts)

    def drops(self, uncommon: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
        """Returns how much accuracy is lost in some groups: the gaps of UrbanCars.

        A gap is the adjusted average minus the accuracy over the groups' images (Li et al., A
        Whac-A-Mole Dilemma, CVPR 2023, with the opposite sign).

        Args:
            uncommon: indices of the groups, by name of the gap.

        Returns:
            By name a number in [-1, 1]; None if the groups have no image or the adjusted average is
            unknown.

        Raises:
            ArgumentError: a group does not exist.

        Examples:
            >>> from train_generator.metrics.groups import GroupAccuracies
            >>> groups = GroupAccuracies(("common", "uncommon"), (10, 10), (9, 4), (19, 1))
            >>> round(groups.drops({"background": [1]})["background"], 3)
            0.475
        """
        whole = self.adjusted_average
        found: dict[str, float | None] = {}
        for name, groups in uncommon.items():
            if any(not 0 <= g < len(self.names) for g in groups):
                raise ArgumentError(f"groups are 0 to {len(self.names) - 1}, got {list(groups)}")
            num = sum(self.num_images[g] for g in groups)
            right = sum(self.num_right[g] for g in groups)
            found[name] = None if whole is None or num == 0 else whole - right / num
        return found

    def as_row(self) -> dict[str, Any]:
        """Returns all of it as a row for JSON."""
        columns = zip(
            self.names,
            self.num_images,
            self.num_right,
            self.accuracies,
            self.standard_errors,
            strict=True,
        )
        worst, accuracy = self.worst
        return {
            "groups": {
                name: {
                    "num_images": num,
                    "num_right": right,
                    "accuracy": share,
                    "standard_error": error,
                }
                for name, num, right, share, error in columns
            },
            "worst_group": self.names[worst],
            "worst_group_accuracy": accuracy,
            "average": self.average,
            "adjusted_average": self.adjusted_average,
            "empty_groups": list(self.empty),
            "num_images": sum(self.num_images),
        }


def count_groups(
    right: Tensor,
    groups: Tensor,
    names: Sequence[str],
    train_counts: Sequence[int] | None = None,
) -> GroupAccuracies:
    """Counts images and correctly classified images by group.

    Args:
        right: (N,) bool, whether each image is classified correctly.
        groups: (N,) int64, group of each image.
        names: names of all groups, including those without images.
        train_counts: see `GroupAccuracies`.

    Raises:
        ArgumentError: the lengths differ, there is no image, or a group has no name.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.groups import count_groups
        >>> right, groups = torch.tensor([True, False, True]), torch.tensor([0, 0, 2])
        >>> counted = count_groups(right, groups, ["a", "b", "c"])
        >>> counted.accuracies, counted.empty
        ((0.5, None, 1.0), ('b',))
    """
    if len(right) != len(groups):
        raise ArgumentError(
            f"each image has one group, got {len(right)} images and {len(groups)} groups"
        )
    if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < len(names):
        raise ArgumentError(
            f"groups are 0 to {len(names) - 1}, got {int(groups.min())} to {int(groups.max())}"
        )

    def count(chosen: Tensor) -> tuple[int, ...]:
        return tuple(torch.bincount(chosen, minlength=len(names)).tolist())

    return GroupAccuracies(
        tuple(names),
        count(groups),
        count(groups[right]),
        None if train_counts is None else tuple(train_counts),
    )
