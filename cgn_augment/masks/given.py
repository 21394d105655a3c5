"""Masks that the user's dataset brings along."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.types import RealBatch


class GivenMasks:
    """Takes the masks from the real batch, in which the dataset has put them.

    They have gone through the user's own pipeline, so a joint transform of image and mask (such as
    torchvision's v2 transforms of a `tv_tensors.Mask`) keeps the two aligned.

    Args:
        key: key or position of the masks in a batch: (B, 1, H, W) or (B, H, W), bool, or float in
            [0, 1], of the images' size.

    Example:
        >>> import torch
        >>> from cgn_augment import GivenMasks, RealBatch
        >>> images, labels, masks = torch.zeros(2, 3, 8, 8), torch.arange(2), torch.ones(2, 8, 8)
        >>> real = RealBatch(images, labels, labels, batch=(images, labels, masks))
        >>> GivenMasks(2).of_batch(real).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, key: str | int) -> None:
        self.key = key
        self.fingerprint = f"given({key!r})"

    def __call__(self, images: Tensor) -> Tensor:
        """Raises: there is nothing to find in images alone."""
        raise ArgumentError(
            "GivenMasks reads masks from a batch and cannot find them in images: use it in a "
            "RealShapeSource, or a UNetMasker"
        )

    def of_batch(self, real: RealBatch) -> Tensor:
        """Returns the masks of a real batch, (B, 1, H, W) float32.

        Raises:
            DataError: there are none at the key, or of another shape.
        """
        masks = _look_up(real.batch, self.key)
        if not isinstance(masks, Tensor):
            raise DataError(
                f"the batch has no tensor of masks at {self.key!r}: let the dataset return (image, "
                "label, mask) or a dict, and pass GivenMasks(key)"
            )
        if masks.dim() == 3:
            masks = masks[:, None]
        expected = (len(real.images), 1, *real.images.shape[-2:])
        if tuple(masks.shape) != expected:
            raise DataError(
                f"masks at {self.key!r} must be {expected}, as the images are, got "
                f"{tuple(masks.shape)}"
            )
        return masks.to(real.images.device).float()


def _look_up(batch: Any, key: str | int) -> Any:
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        return None
