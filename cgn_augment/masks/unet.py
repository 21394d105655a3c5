"""A small U-Net that marks the object in an image.

After Ronneberger et al., U-Net, MICCAI 2015, cut down to three resolutions, with padding, batch
normalisation and nearest-neighbour upsampling. It is trained on a CGN's own samples, whose masks
are known.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.masks.network import MaskerNetwork, conv_block


class UNetMasker(MaskerNetwork):
    """Maps images to masks. 107 thousand parameters at width 16.

    Args:
        width: channels at full resolution; doubled at half resolution, and again at a quarter.

    Raises:
        ArgumentError: the width is below 1.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks import UNetMasker
        >>> UNetMasker().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    kind, stride, size = "unet", 4, 32

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = require_count("width", width)
        self.at_full = nn.Sequential(*conv_block(3, width), *conv_block(width, width))
        self.at_half = nn.Sequential(
            *conv_block(width, 2 * width), *conv_block(2 * width, 2 * width)
        )
        self.at_quarter = nn.Sequential(
            *conv_block(2 * width, 4 * width), *conv_block(4 * width, 4 * width)
        )
        self.up_half = nn.Sequential(*conv_block(6 * width, 2 * width))
        self.up_full = nn.Sequential(*conv_block(3 * width, width))
        self.head = nn.Conv2d(width, 1, 1)
        self.pool = nn.MaxPool2d(2)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build it."""
        return {"width": self.width}

    def _find(self, images: Tensor) -> Tensor:
        full = self._run(self.at_full, images)
        half = self._run(self.at_half, self.pool(full))
        quarter = self._run(self.at_quarter, self.pool(half))
        half = self._run(self.up_half, quarter, half)
        logits: Tensor = self.head(self._run(self.up_full, half, full))
        return logits
