"""Finds the masks of images: what a masker must be, and what it must give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.types import Masker


def require_masker(masker: Masker) -> Masker:
    """Returns the masker, or raises if it cannot be called or is in training mode."""
    if not callable(masker):
        raise ArgumentTypeError(
            f"masker must take images to masks (such as load_masker returns), got {masker!r}"
        )
    if isinstance(masker, nn.Module) and masker.training:
        raise ArgumentError("the masker is in training mode: call masker.eval() first")
    return masker


def identify_masker(masker: Masker) -> str:
    """Returns a text that tells maskers apart, as well as they can be told apart."""
    if hasattr(masker, "fingerprint"):
        return str(masker.fingerprint)
    name = type(masker).__name__
    # Behind the name, for some networks have no weights.
    return f"{name}({hash_weights(masker)})" if isinstance(masker, nn.Module) else name


def find_masks(masker: Masker, images: Tensor, chunk: int) -> Tensor:
    """Runs a masker over images (N, 3, H, W), `chunk` of them at a time.

    Example:
        >>> import torch
        >>> from cgn_augment.masks.finding import find_masks
        >>> find_masks(lambda part: part[:, :1], torch.zeros(5, 3, 8, 8), chunk=2).shape
        torch.Size([5, 1, 8, 8])
    """
    return torch.cat([masker(part) for part in torch.split(images, chunk)])


def read_masks(batch: Any, key: str | int, images: Tensor, *, look: bool = True) -> Tensor:
    """Returns the masks that a batch brings along, (B, 1, H, W) float32.

    Args:
        batch: as the user's pipeline made it.
        key: key or position of the masks: (B, 1, H, W) or (B, H, W).
        images: (B, 3, H, W), those of the batch.
        look: whether the values are looked at, which makes a GPU wait.

    Raises:
        DataError: there are none at the key, of another shape, or with values outside [0, 1].

    Example:
        >>> import torch
        >>> from cgn_augment.masks.finding import read_masks
        >>> images, labels, masks = torch.zeros(2, 3, 8, 8), torch.arange(2), torch.ones(2, 8, 8)
        >>> read_masks((images, labels, masks), 2, images).shape
        torch.Size([2, 1, 8, 8])
    """
    try:
        masks = batch[key]
    except (KeyError, IndexError, TypeError):
        masks = None
    if not isinstance(masks, Tensor):
        raise DataError(
            f"the batch has no tensor of masks at {key!r}: let the dataset return (image, label, "
            "mask) or a dict, and pass RealShapeSource masks=, the place of the mask"
        )
    masks = masks[:, None] if masks.dim() == 3 else masks
    return require_masks(masks, (len(images), 1, *images.shape[-2:]), f"masks at {key!r}", look)


def require_masks(
    masks: Tensor, expected: tuple[int, ...], what: str = "the masker's masks", look: bool = True
) -> Tensor:
    """Returns masks as float32.

    Args:
        masks: what a masker or a dataset gave.
        expected: the shape that they must have, (N, 1, H, W).
        what: they are, for the error.
        look: whether the values are looked at, which makes a GPU wait.

    Raises:
        DataError: another shape, or values outside [0, 1].
    """
    if tuple(masks.shape) != expected:
        raise DataError(f"{what} must be {expected}, as the images are, got {tuple(masks.shape)}")
    masks = masks.float()
    if look:
        least, most = float(masks.min()), float(masks.max())
        if not 0 <= least <= most <= 1:  # also for NaN
            raise DataError(f"masks must be in [0, 1], got [{least:.3g}, {most:.3g}]")
    return masks
