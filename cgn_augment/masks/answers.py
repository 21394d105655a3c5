"""Turns the answers of any masker into masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentTypeError, DataError

OUT = "out"
"""Key of the logits in the answer of torchvision's segmentation networks."""


def understand_masks(answer: Any, images: Tensor, masker: object) -> Tensor:
    """Returns the answer of a masker as a tensor of masks.

    Args:
        answer: masks (N, 1, H, W) or (N, H, W), a tensor or an array: bool, uint8 of 0 to 255, or
            float in [0, 1]. Or a dict from a torchvision segmentation network, whose `out` are
            logits (N, C, H, W): of the object, or of the background and C - 1 classes; then the
            mask is the probability of not background.
        images: (N, 3, H, W), what the masker was given.
        masker: the masker, for the error.

    Returns:
        (N, 1, H, W) on the images' device, in the given type; float for a dict.

    Raises:
        ArgumentTypeError: the answer is none of these; the message names the call.
        DataError: it has another shape.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from cgn_augment.masks.answers import understand_masks
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> understand_masks(np.zeros((2, 8, 8), np.uint8), images, "mine").shape
        torch.Size([2, 1, 8, 8])
        >>> understand_masks({"out": torch.zeros(2, 4, 8, 8)}, images, "mine").unique()
        tensor([0.7500])
    """
    name = getattr(masker, "__qualname__", None) or type(masker).__name__
    call = f"{name}(images), images of {tuple(images.shape)},"
    is_dict = isinstance(answer, Mapping) and OUT in answer
    masks = answer[OUT] if is_dict else answer
    if isinstance(masks, np.ndarray):
        masks = torch.from_numpy(masks.copy())  # in torch's order, and not read-only
    if not isinstance(masks, Tensor):
        told = type(answer).__name__
        if isinstance(answer, Mapping):
            told += f" with the keys {', '.join(map(repr, list(answer)[:5]))}"
        raise ArgumentTypeError(
            f"{call} gave a {told}: return masks (N, 1, H, W) or (N, H, W) in [0, 1], as a tensor "
            f"or an array, or a dict whose {OUT!r} are logits"
        )
    masks = masks.to(images.device)
    if is_dict and masks.dim() == 4:
        logits = masks.float()
        masks = logits.sigmoid() if masks.shape[1] == 1 else 1 - logits.softmax(dim=1)[:, :1]
    masks = masks[:, None] if masks.dim() == 3 else masks
    expected = (len(images), 1, *images.shape[-2:])
    if tuple(masks.shape) != expected:
        raise DataError(
            f"{call} gave masks of {tuple(masks.shape)}: return {expected}, or without the 1"
        )
    return masks
