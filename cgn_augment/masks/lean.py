"""The fast form of a masker's block on a CPU.

Batch normalisation is part of the weights before it. A block that sees an enlarged map beside
another one does not put the two together: enlarging and convolving the first is one transposed
convolution, whose result is added to the convolution of the second.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cgn_augment.generators.lean import merge_upsampling


class LeanBlock:
    """Computes what `conv_block`s in eval mode compute, up to rounding.

    Args:
        layers: convolution, batch normalisation and ReLU, repeated.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cgn_augment.masks.lean import LeanBlock
        >>> from cgn_augment.masks.network import conv_block
        >>> layers, images = nn.Sequential(*conv_block(3, 4)).eval(), torch.rand(1, 3, 8, 8)
        >>> torch.allclose(LeanBlock(layers).run(images), layers(images), atol=1e-5)
        True
    """

    @torch.no_grad()
    def __init__(self, layers: nn.Module) -> None:
        parts = list(layers.children())
        convolutions, norms = parts[::3], parts[1::3]
        self._weights = [_fuse(*pair) for pair in zip(convolutions, norms, strict=True)]
        self._parts: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Maps (N, C, H, W) to (N, C', H, W), or to twice the size if another map is beside it.

        Args:
            x: the map.
            beside: (N, C'', 2 H, 2 W), which comes after the enlarged map.
        """
        (kernel, bias), *rest = self._weights
        if beside is None:
            x = F.conv2d(x, kernel, bias, padding=1).relu_()
        else:
            enlarging, plain = self._split(x.shape[1])
            both = F.conv2d(beside, plain, bias, padding=1)
            x = both.add_(F.conv_transpose2d(x, enlarging, stride=2, padding=1)).relu_()
        for kernel, bias in rest:
            x = F.conv2d(x, kernel, bias, padding=1).relu_()
        return x

    @torch.no_grad()
    def _split(self, num: int) -> tuple[Tensor, Tensor]:
        """Returns the first kernel for `num` channels of the map to enlarge, and for the others."""
        if num not in self._parts:
            kernel = self._weights[0][0]
            parts = merge_upsampling(kernel[:, :num]), kernel[:, num:]
            first, second = (each.contiguous(memory_format=torch.channels_last) for each in parts)
            self._parts[num] = first, second
        return self._parts[num]


def _fuse(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    statistics = norm.running_mean, norm.running_var, norm.eps
    kernel, bias = fuse_conv_bn_weights(conv.weight, None, *statistics, norm.weight, norm.bias)
    return kernel.contiguous(memory_format=torch.channels_last), bias
