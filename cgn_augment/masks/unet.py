"""A small U-Net that marks the object in an image.

After Ronneberger et al., U-Net, MICCAI 2015, cut down to three resolutions, with padding, batch
normalisation and nearest-neighbour upsampling. It is trained on a CGN's own samples, of which the
masks are known.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators.fingerprint import hash_weights


class UNetMasker(nn.Module):
    """Maps images to masks. 107 thousand parameters at width 16.

    Args:
        width: channels at full resolution; twice as many at half, four times at a quarter.

    Raises:
        ArgumentError: a width below 1.

    Example:
        >>> import torch
        >>> from cgn_augment.masks import UNetMasker
        >>> UNetMasker().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = require_count("width", width)
        self.at_full = nn.Sequential(*_block(3, width), *_block(width, width))
        self.at_half = nn.Sequential(*_block(width, 2 * width), *_block(2 * width, 2 * width))
        self.at_quarter = nn.Sequential(
            *_block(2 * width, 4 * width), *_block(4 * width, 4 * width)
        )
        self.up_half = nn.Sequential(*_block(6 * width, 2 * width))
        self.up_full = nn.Sequential(*_block(3 * width, width))
        self.head = nn.Conv2d(width, 1, 1)
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of the weights; taken once it is frozen."""
        return self._fingerprint or hash_weights(self)

    def freeze(self) -> Self:
        """Makes this a network to find masks with: eval mode for good, no gradients."""
        self.eval().requires_grad_(False)
        if next(self.parameters()).device.type == "cpu":
            self.to(memory_format=torch.channels_last)
        self._fingerprint = hash_weights(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode, unless the network is frozen."""
        return super().train(mode and self._fingerprint is None)

    def logits(self, images: Tensor) -> Tensor:
        """Returns what `forward` returns, before the sigmoid."""
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] % 4 or images.shape[3] % 4:
            raise ArgumentError(
                "images must have the shape (B, 3, H, W), H and W multiples of 4, got "
                f"{tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise ArgumentTypeError(
                f"images must be floating point in [-1, 1], got {images.dtype}: scale them first"
            )
        full = self.at_full(images)
        half = self.at_half(self.pool(full))
        quarter = self.at_quarter(self.pool(half))
        half = self.up_half(torch.cat([self.enlarge(quarter), half], dim=1))
        full = self.up_full(torch.cat([self.enlarge(half), full], dim=1))
        logits: Tensor = self.head(full)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Finds the object.

        Args:
            images: (B, 3, H, W) float32 in [-1, 1]; H and W are multiples of 4.

        Returns:
            (B, 1, H, W) float32 mask in [0, 1]; 1 is object.

        Raises:
            ArgumentError: images of another shape.
            ArgumentTypeError: images that are not floating point.
        """
        return self.logits(images).sigmoid()


def _block(dim_in: int, dim_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.ReLU(inplace=True),
    ]
