"""Base of the networks that find masks: size, frozen state and name."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.generators.lean import is_traced
from cgn_augment.generators.watch import FastForms
from cgn_augment.masks.lean import LeanBlock


class MaskerNetwork(nn.Module):
    """A network that maps images to masks; base of `UNetMasker` and `PhotoMasker`.

    Attributes:
        kind: name of the network in a file.
        stride: height and width of images must be multiples of it.
        size: side of the images it was trained for, in pixels.
    """

    kind: ClassVar[str]
    stride: ClassVar[int]
    size: int

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint: str | None = None
        self._forms = FastForms(LeanBlock)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build it, as plain values."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of the weights; fixed once the network is frozen."""
        return self._fingerprint or hash_weights(self)

    def freeze(self) -> Self:
        """Prepares the network for use: permanent eval mode, no gradients."""
        self.eval().requires_grad_(False)
        if next(self.parameters()).device.type == "cpu":
            self.to(memory_format=torch.channels_last)
        self._fingerprint = hash_weights(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode, unless the network is frozen."""
        return super().train(mode and self._fingerprint is None)

    def logits(self, images: Tensor) -> Tensor:
        """Returns the result of `forward` before the sigmoid; arguments and errors as there."""
        fits = images.dim() == 4 and images.shape[1] == 3
        if not fits or any(side % self.stride for side in images.shape[2:]):
            raise ArgumentError(
                f"images must have the shape (B, 3, H, W), H and W multiples of {self.stride}, got "
                f"{tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise ArgumentTypeError(
                f"images must be floating point in [-1, 1], got {images.dtype}: scale them first"
            )
        return self._find(images)

    def _find(self, images: Tensor) -> Tensor:
        """Maps images of the right shape and type to logits (B, 1, H, W)."""
        raise NotImplementedError

    def _run(self, block: nn.Module, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Runs a block on a map (N, C, H, W), or on it enlarged, with (N, C', 2 H, 2 W) beside it.

        A frozen network on a CPU takes the block's fast form.
        """
        fast = self._fingerprint is not None and x.device.type == "cpu" and not is_traced()
        if fast and not (torch.is_grad_enabled() and x.requires_grad):
            return self._forms.of(block).run(x, beside)
        if beside is not None:
            x = torch.cat([F.interpolate(x, scale_factor=2), beside], dim=1)
        found: Tensor = block(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Finds the object.

        Args:
            images: (B, 3, H, W) float32 in [-1, 1]; H and W are multiples of `stride`.

        Returns:
            (B, 1, H, W) float32 mask in [0, 1]; 1 is object.

        Raises:
            ArgumentError: the images have another shape.
            ArgumentTypeError: the images are not floating point.
        """
        return self.logits(images).sigmoid()


def conv_block(dim_in: int, dim_out: int) -> list[nn.Module]:
    """Returns a 3x3 convolution, batch normalisation and a ReLU."""
    return [
        nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.ReLU(inplace=True),
    ]
