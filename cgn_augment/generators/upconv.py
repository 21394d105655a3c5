"""Upsampling and convolution in one layer, for the small CGN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.generators.lean import merge_upsampling


class UpConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by two plus a 3x3 convolution, with 4/9 of the multiplications.

    After upsampling, the nine pixels under the window have at most four different values, so their
    weights can be summed: a transposed convolution with a 4x4 kernel. Only rounding differs. The
    state dict is that of the convolution.

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from cgn_augment.generators.upconv import UpConv2d
        >>> layer, images = UpConv2d(2, 3), torch.randn(1, 2, 4, 4)
        >>> plain = F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, padding=1)
        >>> torch.allclose(layer(images), plain, atol=1e-5)
        True
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, dim_in, H, W) to (N, dim_out, 2 H, 2 W)."""
        if self.weight.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)  # twice as fast
        return F.conv_transpose2d(images, merge_upsampling(self.weight), stride=2, padding=1)
