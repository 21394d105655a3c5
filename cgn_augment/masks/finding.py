"""Runs maskers, and checks what they are and what they return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.masks.answers import understand_masks
from cgn_augment.types import Masker

_SLACK = 1e-3
"""How far masks may leave [0, 1]: resizing overshoots by a rounding error."""


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
    """Returns a text that identifies a masker, as far as possible."""
    if hasattr(masker, "fingerprint"):
        return str(masker.fingerprint)
    name = type(masker).__name__
    # After the name, since some networks have no weights.
    return f"{name}({hash_weights(masker)})" if isinstance(masker, nn.Module) else name


def find_masks(masker: Masker, images: Tensor, chunk: int, *, progress: bool = False) -> Tensor:
    """Runs a masker over images (N, 3, H, W), `chunk` of them at a time.

    It may answer in any form that `understand_masks` accepts. `progress` shows a bar if it takes
    long.

    Raises:
        ArgumentTypeError: it answers in another form.
        DataError: its answer has another shape.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.finding import find_masks
        >>> find_masks(lambda part: part[:, :1], torch.zeros(5, 3, 8, 8), chunk=2).shape
        torch.Size([5, 1, 8, 8])
    """
    found, hidden = [], None if progress else True
    with tqdm(
        total=len(images), desc="finding masks", unit="image", delay=2, disable=hidden
    ) as bar:
        for part in torch.split(images, chunk):
            found.append(understand_masks(masker(part), part, masker))
            bar.update(len(part))
    return torch.cat(found)


def read_masks(batch: Any, key: str | int, images: Tensor, *, look: bool = True) -> Tensor:
    """Returns the masks in a batch, (B, 1, h, w) float32 in [0, 1].

    Args:
        batch: as the user's pipeline made it.
        key: key or position of the masks: (B, 1, h, w) or (B, h, w); bool, uint8 of 0 to 255, or
            float in [0, 1]. Their size may differ from that of the images, but not the aspect
            ratio.
        images: (B, 3, H, W), the images of the batch.
        look: whether to check the values, which stalls a GPU.

    Raises:
        DataError: the key has no masks, or masks of a wrong shape, type or range.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.finding import read_masks
        >>> images, labels = torch.zeros(2, 3, 8, 8), torch.arange(2)
        >>> masks = torch.full((2, 16, 16), 255, dtype=torch.uint8)
        >>> read_masks((images, labels, masks), 2, images).unique(), masks.shape[1:]
        (tensor([1.]), torch.Size([16, 16]))
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
    if masks.dim() != 4 or masks.shape[:2] != (len(images), 1):
        raise DataError(
            f"masks at {key!r} must be ({len(images)}, 1, H, W) or ({len(images)}, H, W), got "
            f"{tuple(masks.shape)}"
        )
    _require_aspect(key, masks, images)
    return require_masks(masks, tuple(masks.shape), f"masks at {key!r}", look)


def _require_aspect(key: str | int, masks: Tensor, images: Tensor) -> None:
    height, width = images.shape[-2:]
    own_height, own_width = masks.shape[-2:]
    # In whole pixels, aspect ratios are equal to within a pixel of the smaller size.
    off = abs(own_height * width - own_width * height)
    if off > max(height, width, own_height, own_width):
        raise DataError(
            f"masks at {key!r} are {own_height}x{own_width} and their images {height}x{width}, "
            "which is another aspect: let image and mask go through one joint transform (see "
            "docs/own-images.md, Masks that your data set brings)"
        )


def require_masks(
    masks: Tensor,
    expected: tuple[int, ...],
    what: str = "the masker's masks",
    look: bool = True,
) -> Tensor:
    """Returns masks as float32 in [0, 1].

    Args:
        masks: from a masker or a dataset: bool, uint8 of 0 to 255, or float.
        expected: the shape they must have, (N, 1, H, W).
        what: name of the masks, for the error.
        look: whether to check the values, which stalls a GPU.

    Raises:
        DataError: the shape, type or range is wrong.
    """
    if tuple(masks.shape) != expected:
        raise DataError(f"{what} must be {expected}, as the images are, got {tuple(masks.shape)}")
    if masks.dtype is torch.uint8:
        if look and int(masks.max() if masks.numel() else 0) == 1:
            raise DataError(
                f"{what} are uint8 of 0 and 1, and bytes mean 0 to 255: pass them as bool"
            )
        return masks.float().div_(255)
    if not (masks.dtype is torch.bool or masks.is_floating_point()):
        raise DataError(
            f"{what} must be bool, uint8 of 0 to 255 or float in [0, 1], got {masks.dtype}"
        )
    masks = masks.float()
    if look and masks.numel():
        least, most = float(masks.min()), float(masks.max())
        if not -_SLACK <= least <= most <= 1 + _SLACK:  # also for NaN
            raise DataError(f"masks must be in [0, 1], got [{least:.3g}, {most:.3g}]")
    return masks.clamp(0, 1)
