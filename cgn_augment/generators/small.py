"""The small CGN for 32x32 images of ten classes (paper, appendix on the MNIST experiments).

Layer indices, and so the names in a state dict, are those of the published checkpoints. The
mechanisms have two forms: the published ones, and deeper ones that draw better digits and more
varied textures.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_choice
from cgn_augment.functional import roll_randomly
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.generators.flow import CodeFlow
from cgn_augment.generators.lean_small import LeanMechanism
from cgn_augment.generators.mechanisms import CGNetwork, check_inputs
from cgn_augment.generators.upconv import UpConv2d
from cgn_augment.generators.watch import FastForms

MASK_MIN, MASK_MAX = 1e-4, 0.9999
"""Distance that the published code keeps masks from 0 and 1; the paper does not mention it."""

_NETWORKS = {"shape": "f_shape", "texture": "f_text1", "background": "f_text2"}

ShapeNetwork = Literal["published", "deep"]
TextureNetwork = Literal["published", "deep"]


class SmallCGN(CGNetwork):
    """Three mechanisms that draw a mask, a foreground and a background of 32x32 pixels.

    Args:
        num_classes: classes of each mechanism.
        noise_dim: length of a noise vector.
        embedding_dim: length of a label's embedding, which all three mechanisms share.
        width: channels of the last hidden layer of each mechanism.
        shape_network: "published": one hidden layer, two convolutions, instance normalisation and
            no sigmoid (as in the paper; 0.2 million parameters at width 32). "deep": a `CodeFlow`,
            two hidden layers, three transposed convolutions and a sigmoid (0.9 million).
        texture_network: "published": one linear layer and three convolutions (as in the paper; 0.2
            million parameters each for texture and background at width 32). "deep": a `CodeFlow`
            and two hidden layers before them, and no normalisation of the colours (1.4 million).

    Raises:
        ArgumentError: the shape or texture network is unknown.

    Attributes:
        image_size: 32 pixels.
        shared_noise: False; each mechanism draws its own noise, as in the published MNIST code.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> cgn = SmallCGN().freeze()
        >>> noise = cgn.draw_noise(5, torch.Generator().manual_seed(0))
        >>> cgn.shape(noise, torch.arange(5)).shape
        torch.Size([5, 1, 32, 32])
    """

    architecture = "small"
    image_size = 32
    shared_noise = False

    def __init__(
        self,
        num_classes: int = 10,
        noise_dim: int = 32,
        embedding_dim: int = 10,
        width: int = 32,
        shape_network: ShapeNetwork = "published",
        texture_network: TextureNetwork = "published",
    ) -> None:
        super().__init__()
        require_choice("shape_network", shape_network, get_args(ShapeNetwork))
        require_choice("texture_network", texture_network, get_args(TextureNetwork))
        self.num_classes, self.noise_dim = num_classes, noise_dim
        self.embedding_dim, self.width = embedding_dim, width
        self.shape_network, self.texture_network = shape_network, texture_network
        self.label_emb = nn.Embedding(num_classes, embedding_dim)
        make_shape = _deep_shape_layers if shape_network == "deep" else _shape_layers
        self.f_shape = make_shape(noise_dim, embedding_dim, width)
        make_texture = _deep_texture_layers if texture_network == "deep" else _texture_layers
        self.f_text1 = make_texture(noise_dim, embedding_dim, width)
        self.f_text2 = make_texture(noise_dim, embedding_dim, width)
        self._forms = FastForms(LeanMechanism)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.label_emb.weight.device  # asked for several times a step

    @property
    def config(self) -> dict[str, int | str]:
        """The arguments that build this network."""
        sizes = ("num_classes", "noise_dim", "embedding_dim", "width")
        networks = ("shape_network", "texture_network")
        return {name: getattr(self, name) for name in (*sizes, *networks)}

    def freeze(self) -> Self:
        """Prepares the network for drawing: permanent eval mode, no gradients.

        A later `train()`, which training loops call on everything, has no effect.
        """
        self.eval().requires_grad_(False)
        if self.device.type == "cpu":  # measured there: benchmarks/stream.py
            self.to(memory_format=torch.channels_last)
        self._hash = hash_weights(self)
        return self

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws standard normal noise on the CPU, so that it does not depend on the device.

        Args:
            num: number of vectors.
            generator: a CPU generator.

        Returns:
            (num, noise_dim) float32 on the device of the weights.
        """
        noise = torch.randn(num, self.noise_dim, generator=generator)
        return noise.to(self.device, non_blocking=True)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Moves each texture to a random position, so that it cannot carry a shape.

        The published code tiles the image 2x2 and crops one image from it at an offset of 0 to 32
        in each direction. That is a roll around the torus, done here without tiling. Textures of
        the "deep" network stay as they are: they are trained as whole textures, where a roll would
        leave a seam.

        Args:
            images: (N, 3, 32, 32) float32 in [-1, 1].
            generator: a CPU generator.
        """
        if self.texture_network == "deep":
            return images
        return roll_randomly(images, generator)

    def _condition(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        check_inputs(noise, y, self.noise_dim, self.num_classes)
        return torch.cat([noise, self.label_emb(y.to(noise.device).long())], dim=1)

    def _run(self, factor: str, condition: Tensor) -> Tensor:
        network = self.get_submodule(_NETWORKS[factor])
        if not self.frozen or (torch.is_grad_enabled() and condition.requires_grad):
            drawn: Tensor = network(condition)
        else:
            drawn = self._forms.of(network).draw(condition)
        return drawn.clamp(MASK_MIN, MASK_MAX) if factor == "shape" else drawn.contiguous()


def _shape_layers(noise_dim: int, embedding_dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(noise_dim + embedding_dim, 2 * width * 8 * 8),
        nn.Unflatten(1, (2 * width, 8, 8)),
        nn.InstanceNorm2d(2 * width),
        *_up_block(2 * width, width),
        nn.InstanceNorm2d(width),
        *_up_block(width, 1),
        nn.InstanceNorm2d(1),
    )


def _deep_shape_layers(noise_dim: int, embedding_dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        CodeFlow(noise_dim, embedding_dim),
        *_hidden_layer(noise_dim + embedding_dim, 8 * width),
        nn.Linear(8 * width, 4 * width * 4 * 4, bias=False),
        *_activated(nn.Unflatten(1, (4 * width, 4, 4)), nn.BatchNorm2d(4 * width)),
        *_double_block(4 * width, 2 * width),
        *_double_block(2 * width, width),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def _texture_layers(noise_dim: int, embedding_dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(noise_dim + embedding_dim, 2 * width * 8 * 8),
        nn.Unflatten(1, (2 * width, 8, 8)),
        *_up_block(2 * width, 2 * width),
        *_up_block(2 * width, width),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
    )


def _deep_texture_layers(noise_dim: int, embedding_dim: int, width: int) -> nn.Sequential:
    hidden = 8 * width
    return nn.Sequential(
        CodeFlow(noise_dim, embedding_dim),
        *_hidden_layer(noise_dim + embedding_dim, hidden),
        *_hidden_layer(hidden, hidden),
        nn.Linear(hidden, 2 * width * 8 * 8, bias=False),
        *_activated(nn.Unflatten(1, (2 * width, 8, 8)), nn.BatchNorm2d(2 * width)),
        *_up_block(2 * width, 2 * width),
        *_up_block(2 * width, width),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.Tanh(),
    )


def _activated(layer: nn.Module, norm: nn.Module) -> list[nn.Module]:
    return [layer, norm, nn.LeakyReLU(0.2, inplace=True)]


def _hidden_layer(dim_in: int, dim_out: int) -> list[nn.Module]:
    return _activated(nn.Linear(dim_in, dim_out, bias=False), nn.BatchNorm1d(dim_out))


def _double_block(dim_in: int, dim_out: int) -> list[nn.Module]:
    layer = nn.ConvTranspose2d(dim_in, dim_out, 4, stride=2, padding=1, bias=False)
    return _activated(layer, nn.BatchNorm2d(dim_out))


def _up_block(dim_in: int, dim_out: int) -> list[nn.Module]:
    # The published list has its upsampling in the first place.
    return [nn.Identity(), *_activated(UpConv2d(dim_in, dim_out), nn.BatchNorm2d(dim_out))]
