"""Doubling an image and convolving it, in one step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UpConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by two and a 3x3 convolution, with 4/9 of the multiplications.

    Of the nine pixels under the window, upsampling has made four from different ones at most, so
    the sums of the weights that fall on the same pixel do the same: a transposed convolution with a
    kernel of 4x4. Only rounding differs. The state dict is that of the convolution.

    Args:
        dim_in: channels of the image.
        dim_out: channels of the result.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from cgn_augment.generators.upsampling import UpConv2d
        >>> layer, images = UpConv2d(2, 3), torch.randn(1, 2, 4, 4)
        >>> plain = F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, padding=1)
        >>> torch.allclose(layer(images), plain, atol=1e-5)
        True
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Takes images (N, dim_in, H, W) to (N, dim_out, 2 H, 2 W)."""
        if self.weight.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)  # else half as fast
        return F.conv_transpose2d(images, _add_neighbours(self.weight), stride=2, padding=1)


def _add_neighbours(weight: Tensor) -> Tensor:
    """Takes weights (dim_out, dim_in, 3, 3) to a kernel (dim_in, dim_out, 4, 4)."""
    weight = weight.transpose(0, 1).flip(2, 3)
    weight = F.pad(weight, (0, 1, 0, 0)) + F.pad(weight, (1, 0, 0, 0))
    return F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
