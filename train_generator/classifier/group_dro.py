"""Group distributionally robust training: minimises the loss of the worst group.

Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator

ETA = 0.01
"""Step size of the group weights; the published value."""


class GroupWeights:
    """Weights of the groups' losses in the sum that is minimised.

    In every step the weight of group g is multiplied by exp(eta · loss of g); then all are divided
    by their sum. Groups without training images have no weight.

    Args:
        counts: training images of each group.
        eta: step size of the weights, above 0.
        device: device of the losses.

    Attributes:
        values: (G,) float32, the weights; their sum is 1.

    Raises:
        ArgumentError: no group has an image, or `eta` cannot be used.

    Examples:
        >>> import torch
        >>> from train_generator.classifier.group_dro import GroupWeights
        >>> weights = GroupWeights([30, 10, 0], eta=0.5)
        >>> loss = weights.weigh(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 0, 1]))
        >>> weights.values, round(loss.item(), 3)
        (tensor([0.2689, 0.7311, 0.0000]), 1.462)
    """

    def __init__(
        self, counts: Sequence[int], eta: float = ETA, device: torch.device | str = "cpu"
    ) -> None:
        there = torch.tensor([num > 0 for num in counts], dtype=torch.float32, device=device)
        if not any(counts):
            raise ArgumentError("no group has a training image: GroupDRO has nothing to weigh")
        if not (math.isfinite(eta) and eta > 0):
            raise ArgumentError(f"eta must be above 0, got {eta}")
        self.eta = eta
        self.values = there / there.sum()

    def weigh(self, losses: Tensor, groups: Tensor) -> Tensor:
        """Updates the weights by a batch's losses, and returns the loss to minimise.

        Args:
            losses: (N,) float32 of the images, with a gradient.
            groups: (N,) int64 of the images. A group without an image in the batch has loss 0.

        Returns:
            A scalar: the sum over groups of weight times mean loss.
        """
        num = len(self.values)
        members = F.one_hot(groups.to(losses.device), num).to(losses.dtype)  # (N, G)
        means = (losses @ members) / members.sum(dim=0).clamp(min=1)
        moved = self.values * torch.exp(self.eta * means.detach())
        self.values = moved / moved.sum()
        return means @ self.values

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights."""
        return {"values": self.values}

    def load_state_dict(self, state: Any, /) -> None:
        """Restores what `state_dict` returned."""
        self.values = state["values"].to(self.values.device)


class BalancedSampler(Sampler[int]):
    """Draws equally often from each group, with replacement.

    The order is a function of (seed, epoch).

    Args:
        groups: group of each image.
        seed: seed of the order.
        num_samples: images per epoch; by default as many as there are.

    Examples:
        >>> from train_generator.classifier.group_dro import BalancedSampler
        >>> groups = [0] * 90 + [1] * 10
        >>> rare = sum(groups[i] for i in BalancedSampler(groups, seed=0))
        >>> 35 < rare < 65
        True
    """

    def __init__(self, groups: Sequence[int], seed: int, num_samples: int | None = None) -> None:
        numbers = torch.as_tensor(groups)
        self._chances = 1 / torch.bincount(numbers).double()[numbers]
        self._num = num_samples or len(numbers)
        self._seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[int]:
        generator = step_generator(Purpose.ORDER, self._seed, self.epoch)
        yield from torch.multinomial(
            self._chances, self._num, replacement=True, generator=generator
        ).tolist()
