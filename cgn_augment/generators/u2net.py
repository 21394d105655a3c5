"""U2-Net, which finds the salient object in an image.

Written from the description in Qin et al., "U2-Net: Going Deeper with Nested U-Structure for
Salient Object Detection", Pattern Recognition 2020. Names in the state dict are those of the
published weights. It is a U of eleven stages, each a small U itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.generators.lean import convolve_to_few

LEAST_SIZE = 32
"""Smallest side of the images, in pixels: they are halved five times."""

_DILATIONS = (1, 2, 4, 8)
"""Stages too small to be pooled; dilation widens their view instead."""


class U2Net(nn.Module):
    """Maps images to masks of their salient object; 44.0 million parameters at width 64.

    Args:
        width: channels of the first stage; all others are multiples of it. A multiple of 4.

    Raises:
        ArgumentError: the width is not a multiple of 4.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.u2net import U2Net
        >>> U2Net(width=4).eval()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ArgumentError(f"width must be a multiple of 4, got {width}")
        self.width = width
        w = width
        self.stage1 = RSU(7, 3, w // 2, w)
        self.stage2 = RSU(6, w, w // 2, 2 * w)
        self.stage3 = RSU(5, 2 * w, w, 4 * w)
        self.stage4 = RSU(4, 4 * w, 2 * w, 8 * w)
        self.stage5 = RSU(4, 8 * w, 4 * w, 8 * w, dilated=True)
        self.stage6 = RSU(4, 8 * w, 4 * w, 8 * w, dilated=True)
        self.stage5d = RSU(4, 16 * w, 4 * w, 8 * w, dilated=True)
        self.stage4d = RSU(4, 16 * w, 2 * w, 4 * w)
        self.stage3d = RSU(5, 8 * w, w, 2 * w)
        self.stage2d = RSU(6, 4 * w, w // 2, w)
        self.stage1d = RSU(7, 2 * w, w // 4, w)
        for number, channels in enumerate((w, w, 2 * w, 4 * w, 8 * w, 8 * w), start=1):
            self.add_module(f"side{number}", nn.Conv2d(channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Finds the object.

        Args:
            images: (B, 3, H, W) float, such as a generator's in [-1, 1]; at least 32 pixels.

        Returns:
            (B, 1, H, W) float in [0, 1]: the sigmoid of the six side outputs, fused (S_fuse in the
            paper, d0 in the published code).

        Raises:
            ArgumentError: the images have another shape.
        """
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < LEAST_SIZE:
            raise ArgumentError(
                f"images must have the shape (B, 3, H, W), H and W {LEAST_SIZE} or more, got "
                f"{tuple(images.shape)}"
            )
        encoders = (self.stage1, self.stage2, self.stage3, self.stage4, self.stage5, self.stage6)
        encoded = _descend(encoders, images)
        decoders = (self.stage5d, self.stage4d, self.stage3d, self.stage2d, self.stage1d)
        decoded = _ascend(decoders, encoded)
        layers: list[Any] = [self.get_submodule(f"side{i}") for i in range(1, len(decoded) + 1)]
        sides = [
            convolve_to_few(x, layer.weight, layer.bias)
            for x, layer in zip(decoded, layers, strict=True)
        ]
        fused: Tensor = self.outconv(torch.cat([enlarge_to(side, images) for side in sides], dim=1))
        return fused.sigmoid()


class RSU(nn.Module):
    """A residual U-block (section 3.1 of the paper); its result has the input's resolution.

    All levels are pooled except the lowest, which is dilated. With `dilated`, none of the four
    levels is pooled and all are dilated: the paper's RSU-4F.
    """

    def __init__(
        self, height: int, dim_in: int, dim_mid: int, dim_out: int, dilated: bool = False
    ) -> None:
        super().__init__()
        dilations = _DILATIONS if dilated else (*[1] * (height - 1), 2)
        self.height, self.num_pooled = height, 1 if dilated else height - 1
        self.rebnconvin = ConvNormReLU(dim_in, dim_out)
        for level, dilation in enumerate(dilations, start=1):
            encoder = ConvNormReLU(dim_out if level == 1 else dim_mid, dim_mid, dilation)
            self.add_module(f"rebnconv{level}", encoder)
        for level in range(height - 1, 0, -1):
            out = dim_out if level == 1 else dim_mid
            decoder = ConvNormReLU(2 * dim_mid, out, dilations[level - 1])
            self.add_module(f"rebnconv{level}d", decoder)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, dim_in, H, W) to (B, dim_out, H, W)."""
        x = self.rebnconvin(x)
        levels = range(1, self.height + 1)
        encoders = [self.get_submodule(f"rebnconv{level}") for level in levels]
        decoders = [self.get_submodule(f"rebnconv{level}d") for level in reversed(levels[:-1])]
        encoded = _descend(encoders[: self.num_pooled], x)
        for encoder in encoders[self.num_pooled :]:
            encoded.append(encoder(encoded[-1]))
        decoded = _ascend(decoders, encoded)[0]
        return decoded + x if torch.is_grad_enabled() else decoded.add_(x)


class ConvNormReLU(nn.Module):
    """A 3x3 convolution that keeps the resolution, batch normalisation and ReLU."""

    def __init__(self, dim_in: int, dim_out: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(dim_in, dim_out, 3, padding=dilation, dilation=dilation)
        self.bn_s1: nn.Module = nn.BatchNorm2d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, dim_in, H, W) to (B, dim_out, H, W)."""
        return F.relu(self.bn_s1(self.conv_s1(x)), inplace=True)

    @torch.no_grad()
    def fold(self) -> None:
        """Folds the batch statistics into the convolution, in place; for eval mode only."""
        conv: Any = self.conv_s1
        norm: Any = self.bn_s1
        if isinstance(norm, nn.Identity):
            return
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias.sub_(norm.running_mean).mul_(scale).add_(norm.bias)
        self.bn_s1 = nn.Identity()


def enlarge_to(x: Tensor, like: Tensor) -> Tensor:
    """Resizes (B, C, h, w) bilinearly to the height and width of `like`, corners aligned."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


def _descend(encoders: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Returns the result of each encoder; the next one gets it at half the resolution."""
    encoded = [encoders[0](x)]
    for encoder in encoders[1:]:
        encoded.append(encoder(F.max_pool2d(encoded[-1], 2, ceil_mode=True)))
    return encoded


def _ascend(decoders: Sequence[nn.Module], encoded: list[Tensor]) -> list[Tensor]:
    """Returns the result of each decoder, finest first; the last is the deepest encoder's."""
    decoded = [encoded[-1]]
    for decoder, beside in zip(decoders, reversed(encoded[:-1]), strict=True):
        decoded.insert(0, decoder(torch.cat([enlarge_to(decoded[0], beside), beside], dim=1)))
    return decoded
