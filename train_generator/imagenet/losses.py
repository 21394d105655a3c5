"""The losses that only the ImageNet CGN has (Sauer and Geiger, ICLR 2021, section 3.2).

The other ones are `mask_entropy_loss` and `mask_size_loss` of the mask, and `perceptual_loss`,
which is taken twice: of the composed image, and of the foreground and a sheet of patches.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError
from train_generator.losses.functional import require_floats


def reconstruction_loss(generated: Tensor, target: Tensor) -> Tensor:
    """How far composed images are from those of the BigGAN that they start from (paper, L_rec).

    The mean absolute difference. Gradients flow to the generated images alone.

    Args:
        generated: (B, 3, H, W) float in [-1, 1].
        target: (B, 3, H, W) float in [-1, 1]: image b of the same noise and class.

    Returns:
        Scalar in [0, 2].

    Raises:
        ArgumentError: shapes that differ, or no images.
        ArgumentTypeError: images that are not floating point.

    Example:
        >>> import torch
        >>> from train_generator.imagenet.losses import reconstruction_loss
        >>> reconstruction_loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), -0.5)).item()
        0.5
    """
    require_floats("generated", generated)
    require_floats("target", target)
    if generated.shape != target.shape:
        raise ArgumentError(
            f"generated and target must have the same shape, got {tuple(generated.shape)} and "
            f"{tuple(target.shape)}"
        )
    return F.l1_loss(generated, target.detach())


def background_loss(saliency: Tensor) -> Tensor:
    """How much of a background image stands out as an object (paper, L_bg).

    Args:
        saliency: (B, 1, H, W) float in [0, 1]: what U2-Net finds in the background images.

    Returns:
        Scalar in [0, 1]: the mean.

    Raises:
        ArgumentError: there is none.
        ArgumentTypeError: saliency that is not floating point.

    Example:
        >>> import torch
        >>> from train_generator.imagenet.losses import background_loss
        >>> background_loss(torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)).item()
        0.25
    """
    require_floats("saliency", saliency)
    return saliency.mean()
