"""A U-Net that marks the object in a photograph, with or without a torchvision backbone.

After Ronneberger et al., U-Net, MICCAI 2015, with padding, batch normalisation and
nearest-neighbour upsampling. With a backbone, a ResNet replaces the downward path, and the U-Net's
own stem sees the image at full resolution, which a ResNet never does.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.checks import require_choices, require_count, require_side
from cgn_augment.errors import ArgumentError
from cgn_augment.masks.network import MaskerNetwork, conv_block

Backbone = Literal["resnet18", "resnet34", "resnet50"]

_LEVELS = ("relu", "layer1", "layer2", "layer3", "layer4")
"""Parts of a ResNet whose results are at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PhotoMasker(MaskerNetwork):
    """Maps photographs to masks. 2 million parameters at width 16 without a backbone.

    Args:
        width: channels at full resolution; doubled with each halving of it, up to 8 times as many.
        backbone: network of the downward path, with new weights; `load_backbone` loads others.
        size: side of the images it is trained for, in pixels.

    Raises:
        ArgumentError: width or size is below 1, size is not a multiple of 32, or the backbone is
            unknown.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.photo_unet import PhotoMasker
        >>> PhotoMasker(width=4).eval()(torch.zeros(2, 3, 64, 96)).shape
        torch.Size([2, 1, 64, 96])
    """

    kind, stride = "photo", 32

    def __init__(self, width: int = 16, backbone: Backbone | None = None, size: int = 128) -> None:
        super().__init__()
        self.width, self.size = require_count("width", width), require_side("size", size)
        self.backbone = backbone
        if size % self.stride:
            raise ArgumentError(f"size must be a multiple of {self.stride}, got {size}")
        if backbone is not None:
            require_choices(self, backbone=Backbone)
        self.down: nn.Module
        self.stem = nn.Sequential(*conv_block(3, width), *conv_block(width, width))
        if backbone is None:
            dims = [width * min(2**level, 8) for level in range(1, 6)]
            self.down = _Down(width, dims)
        else:
            self.down, dims = _make_resnet(backbone)
        steps, below = [], dims[-1]
        for level, dim in reversed(list(enumerate([width, *dims[:-1]]))):
            out = width * min(2**level, 8)
            steps.append(nn.Sequential(*conv_block(below + dim, out), *conv_block(out, out)))
            below = out
        self.up = nn.ModuleList(steps)
        self.head = nn.Conv2d(width, 1, 1)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build it."""
        return {"width": self.width, "backbone": self.backbone, "size": self.size}

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Loads the weights of the backbone from a state dict of torchvision's network.

        Args:
            state: the state dict.

        Raises:
            ArgumentError: there is no backbone.
            RuntimeError: the state dict belongs to another network.
        """
        if self.backbone is None:
            raise ArgumentError("this masker has no backbone, whose weights could be loaded")
        own = {name: value for name, value in state.items() if not name.startswith("fc.")}
        self.down.load_state_dict(own)

    def _find(self, images: Tensor) -> Tensor:
        full = self._run(self.stem, images)
        if isinstance(self.down, _Down):
            levels, found = [], full
            for level in self.down.levels:
                found = self._run(level, F.max_pool2d(found, 2))
                levels.append(found)
        else:
            mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (_MEAN, _STD))
            normalised = (images / 2 + 0.5 - mean) / std
            levels = self.down(normalised)
        found = levels[-1]
        for step, skip in zip(self.up, [*levels[-2::-1], full], strict=True):
            found = self._run(step, found, skip)
        logits: Tensor = self.head(found)
        return logits


class _Down(nn.Module):
    """Blocks that each follow a halving of the resolution."""

    def __init__(self, dim: int, dims: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*conv_block(before, after), *conv_block(after, after))
            for before, after in zip([dim, *dims], dims, strict=False)
        )


class _ResNet(nn.ModuleDict):
    """The parts of a torchvision ResNet, in order; returns the result at each resolution."""

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for name, part in self.items():
            x = part(x)
            if name in _LEVELS:
                levels.append(x)
        return levels


def _make_resnet(name: str) -> tuple[nn.Module, list[int]]:
    """Returns a ResNet that returns all its levels, and their numbers of channels."""
    from torchvision.models import get_model

    parts = dict(get_model(name, weights=None).named_children())
    network = _ResNet({key: part for key, part in parts.items() if key not in ("avgpool", "fc")})
    with torch.no_grad():
        levels = network.eval()(torch.zeros(1, 3, 64, 64))
    return network.train(), [level.shape[1] for level in levels]
