"""Accuracy by group, as pure functions of which images a classifier got right.

A group is a class in one surrounding, such as water birds on land. Its accuracy says whether the
classifier needs the surrounding; the worst group's is what the field compares (Sagawa et al.,
ICLR 2020).
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
    """Returns scores (N, C) float as they are, if all of them are finite.

    The largest of scores that are NaN is the first one, so that a broken classifier would pass for
    one that decides for class 0 whatever it sees.

    Args:
        scores: of images and classes, before or after the softmax.
        name: of what gave them, for the error.

    Raises:
        ArgumentError: NaN or infinity.

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
    """How many images of each group a classifier got right.

    Attributes:
        names: of the groups.
        num_images: of each.
        num_right: of these, how many were given their label.
        train_counts: images of each group in the training set, the weights of the adjusted average;
            None where nobody knows them.

    Raises:
        ArgumentError: not as many counts as groups, no image at all, or counts that cannot be.

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
        """Of each group, in [0, 1]; None for a group without images."""
        pairs = zip(self.num_right, self.num_images, strict=True)
        return tuple(right / num if num else None for right, num in pairs)

    @property
    def standard_errors(self) -> tuple[float | None, ...]:
        """Of each accuracy p of n images, binomial: the square root of p(1 - p) / n."""
        pairs = zip(self.accuracies, self.num_images, strict=True)
        return tuple(None if p is None else math.sqrt(p * (1 - p) / n) for p, n in pairs)

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the groups that have no image, and so no part in anything below."""
        return tuple(name for name, num in zip(self.names, self.num_images, strict=True) if not num)

    @property
    def worst(self) -> tuple[int, float]:
        """Number and accuracy of the group with the lowest accuracy; the first of equal ones."""
        known = [(p, g) for g, p in enumerate(self.accuracies) if p is not None]
        accuracy, group = min(known)
        return group, accuracy

    @property
    def average(self) -> float:
        """Share of all images that are right, in [0, 1], whatever group they are of."""
        return sum(self.num_right) / sum(self.num_images)

    @property
    def adjusted_average(self) -> float | None:
        """Mean of the groups' accuracies, weighted by their counts in the training set.

        What papers on Waterbirds call the average accuracy (Sagawa et al., ICLR 2020): its test
        set has other shares of groups than its training set. None where the counts are not known,
        or a group that was trained on has no image here.
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
        """How much accuracy is lost in some groups: the gaps of UrbanCars.

        Adjusted average less the share of right images of the groups (Li et al., A Whac-A-Mole
        Dilemma, CVPR 2023, who write it with the other sign).

        Args:
            uncommon: by name of the drop the numbers of its groups.

        Returns:
            By name a number in [-1, 1]; None where the groups have no image or the adjusted average
            is not known.

        Raises:
            ArgumentError: a group that there is not.

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
        """Returns all of it as JSON has it."""
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
    """Counts images and right images by group.

    Args:
        right: (N,) bool, whether an image was given its label.
        groups: (N,) int64, the group of each.
        names: of all groups, those without an image too.
        train_counts: see `GroupAccuracies`.

    Raises:
        ArgumentError: different lengths, no image, or a group that has no name.

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
