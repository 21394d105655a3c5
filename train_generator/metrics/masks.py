"""How well a masker finds objects in real images with known masks."""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError


def intersection_over_union(found: Tensor, true: Tensor) -> Tensor:
    """Compares masks image by image (Jaccard index).

    Args:
        found: (N, 1, H, W) bool.
        true: (N, 1, H, W) bool.

    Returns:
        (N,) float32 in [0, 1]; 1 if both are empty.

    Raises:
        ArgumentError: they differ in shape, or are not bool.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.masks import intersection_over_union
        >>> true = torch.tensor([True, True, False, False]).view(1, 1, 2, 2)
        >>> found = torch.tensor([True, False, True, False]).view(1, 1, 2, 2)
        >>> round(intersection_over_union(found, true).item(), 4)
        0.3333
    """
    if found.shape != true.shape or found.dtype != torch.bool or true.dtype != torch.bool:
        raise ArgumentError(
            f"masks must be bool and of one shape, got {tuple(found.shape)} {found.dtype} and "
            f"{tuple(true.shape)} {true.dtype}"
        )
    both = (found & true).flatten(1).sum(dim=1)
    either = (found | true).flatten(1).sum(dim=1)
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))
