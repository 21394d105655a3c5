"""A frozen network that turns images into feature maps, and the loss between two batches of them.

Johnson et al., Perceptual Losses for Real-Time Style Transfer, ECCV 2016, as used by Sauer and
Geiger, ICLR 2021: only the Gram term, without the term that compares the contents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from train_generator.losses.functional import gram_matrix, require_images

RELEASED_FACTOR = 5000.0


class PerceptualFeatures(nn.Module):
    """Blocks of frozen layers; each block gives one feature map.

    A block ends before a 2x2 max-pool, which starts the next one. Gradients flow to the images, not
    to the weights. It stays in eval mode whatever `train` is called with, so it may be part of a
    module in training.

    Args:
        layers: layers in order; they become part of this module and are frozen in place.

    Attributes:
        blocks: one `nn.Sequential` each.

    Raises:
        ArgumentError: there are no layers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from train_generator.losses.perceptual import PerceptualFeatures
        >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)]
        >>> features = PerceptualFeatures(layers)
        >>> [tuple(block.shape) for block in features(torch.zeros(2, 3, 32, 32))]
        [(2, 8, 30, 30), (2, 16, 13, 13)]
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(split_blocks(layers))
        self.requires_grad_(False)
        self.train(False)

    @property
    def num_blocks(self) -> int:
        """Number of feature maps."""
        return len(self.blocks)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, num_blocks: int | None = None) -> list[Tensor]:
        """Computes the feature maps of the first blocks only.

        Args:
            images: (B, 3, H, W) float32 in [-1, 1]; H and W of 2^(num_blocks - 1) or more.
            num_blocks: how many blocks; None computes all.

        Returns:
            For each block (B, C_k, H_k, W_k) float32.

        Raises:
            ArgumentError: images have another shape or are too small, or there are fewer blocks.
            ArgumentTypeError: images are not floating point.
        """
        num_blocks = self.num_blocks if num_blocks is None else num_blocks
        if not 1 <= num_blocks <= self.num_blocks:
            raise ArgumentError(f"num_blocks must be 1 to {self.num_blocks}, got {num_blocks}")
        require_images(images, least=2 ** (num_blocks - 1))
        maps = []
        for block in self.blocks[:num_blocks]:
            images = block(images)
            maps.append(images)
        return maps


def perceptual_loss(
    features: PerceptualFeatures,
    generated: Tensor,
    real: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """Returns how much the textures of two batches of images differ.

    A sum over the blocks k of weights[k] times the mean absolute difference between the Gram
    matrices G of the two batches' features, where the mean is over images and matrix entries:

        sum_k weights[k] * mean_{b, i, j} |G(generated)[k, b, i, j] - G(real)[k, b, i, j]|

    Image b of one batch is compared with image b of the other. For the ImageNet CGN these belong
    together (one noise, one class). For the small CGN they do not: image b of the real batch is any
    image, of any class. The loss is then lowest for textures typical of the whole data set, the
    median of its Gram entries, not for copies of single images.

    The published code feeds images to VGG-16 in the generator's range, [-1, 1], without ImageNet's
    mean and deviation, which VGG-16 was trained with; so does this. Gradients flow only to the
    generated images, and blocks after the last weight above 0 are not computed.

    Args:
        features: on the device of the images.
        generated: (B, 3, H, W) float32 in [-1, 1].
        real: (B, 3, H', W') float32 in [-1, 1]; image b need not belong to generated image b.
        weights: one number of 0 or more for each block, as from `released_gram_weights`. If all are
            0 the loss is a constant 0.

    Returns:
        Scalar of 0 or more.

    Raises:
        ArgumentError: the batches differ in size, images have another shape, or weights are not one
            per block, negative or not finite.
        ArgumentTypeError: images are not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.perceptual import perceptual_loss, random_vgg16_features
        >>> features = random_vgg16_features(seed=0)
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> loss = perceptual_loss(features, images, images, weights=(12.5, 50, 0.5, 0))
        >>> round(loss.item(), 5)
        0.0
    """
    if len(weights) != features.num_blocks:
        raise ArgumentError(
            f"weights must be one for each of the {features.num_blocks} blocks, got {len(weights)}"
        )
    _require_weights(weights)
    if len(generated) != len(real):
        raise ArgumentError(
            f"generated and real must be equally many, got {len(generated)} and {len(real)}"
        )
    num_blocks = max((k + 1 for k, weight in enumerate(weights) if weight > 0), default=0)
    if num_blocks == 0:
        return generated.new_zeros(())
    with torch.no_grad():
        real_maps = features(real, num_blocks)
    loss = generated.new_zeros(())
    for maps, wanted, weight in zip(
        features(generated, num_blocks), real_maps, weights, strict=False
    ):
        if weight > 0:
            loss = loss + weight * F.l1_loss(gram_matrix(maps), gram_matrix(wanted))
    return loss


def released_gram_weights(weights: Iterable[float]) -> tuple[float, ...]:
    """Returns the effective weights of the released settings: 5000 times each weight's square.

    The published trainings of the MNIST and the ImageNet CGN share one loss, which squares its
    weight and multiplies by 5000. So "0.05" on a block is a factor of 12.5.

    Args:
        weights: as in the released settings; finite, 0 or more.

    Raises:
        ArgumentError: a weight is negative or not finite.

    Examples:
        >>> from train_generator.losses.perceptual import released_gram_weights
        >>> [round(weight, 6) for weight in released_gram_weights((0.05, 0.1, 0.01, 0))]  # colored
        [12.5, 50.0, 0.5, 0.0]
    """
    weights = tuple(weights)
    _require_weights(weights)
    return tuple(RELEASED_FACTOR * weight**2 for weight in weights)


def split_blocks(layers: Iterable[nn.Module]) -> list[nn.Sequential]:
    """Cuts layers into blocks before each max-pool.

    Args:
        layers: layers in order.

    Raises:
        ArgumentError: there are no layers.

    Examples:
        >>> from torch import nn
        >>> from train_generator.losses.perceptual.features import split_blocks
        >>> [len(block) for block in split_blocks([nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()])]
        [1, 2]
    """
    blocks: list[list[nn.Module]] = []
    for layer in layers:
        if not blocks or isinstance(layer, nn.MaxPool2d):
            blocks.append([])
        blocks[-1].append(layer)
    if not blocks:
        raise ArgumentError("layers must not be empty")
    return [nn.Sequential(*block) for block in blocks]


@torch.no_grad()
def draw_he_normal(module: nn.Module, generator: torch.Generator) -> None:
    """Draws the weights of all convolutions anew, in place, and sets their biases to 0.

    Weights are normal with variance 2 / fan-in, which keeps the scale of features from one layer
    with a ReLU to the next (He et al., Delving Deep into Rectifiers, ICCV 2015).

    Args:
        module: a module on the CPU.
        generator: a CPU generator.

    Examples:
        >>> import torch
        >>> from train_generator.losses.perceptual.features import draw_he_normal
        >>> layer = torch.nn.Conv2d(64, 200, 1)
        >>> draw_he_normal(layer, torch.Generator().manual_seed(0))
        >>> round(layer.weight.var().item() * 64, 1)
        2.0
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _require_weights(weights: Sequence[float]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ArgumentError(f"weights must be finite and 0 or more, got {list(weights)}")
