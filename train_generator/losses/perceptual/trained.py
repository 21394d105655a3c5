"""Features of a small network that is trained on the spot, without downloaded weights."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CheckpointError
from cgn_augment.functional import isolated_rng
from train_generator.losses.functional import require_images
from train_generator.losses.perceptual.features import (
    PerceptualFeatures,
    draw_he_normal,
    split_blocks,
)
from train_generator.training.alone import train_alone

WIDTHS = (16, 32, 64, 128)
LEARNING_RATE = 2e-3


def train_features(
    images: Tensor,
    labels: Tensor,
    seed: int = 0,
    *,
    num_steps: int = 300,
    batch_size: int = 64,
    progress: bool = True,
) -> PerceptualFeatures:
    """Trains a small network to classify the images, and returns the features of its blocks.

    In the biased data that a CGN is trained on, the class determines colour or texture, so a
    classifier finds these. The four blocks are a small version of VGG-16's: two 3x3 convolutions
    each, of 16, 32, 64 and 128 channels; all blocks feed the classifying layer directly. Batch
    normalisation is folded into the convolutions at the end.

    The result is a function of the arguments, for one machine and number of threads. The Gram
    matrices have another scale than those of VGG-16, so the released settings do not apply.

    Args:
        images: (N, 3, H, W) float32 in [-1, 1]; H and W of 8 or more. Training and result use their
            device.
        labels: (N,) integer classes from 0.
        seed: 0 or more, for weights and batches.
        num_steps: number of batches. The default takes about half a minute on one CPU core at
            32x32.
        batch_size: images per batch, drawn with replacement.
        progress: shows a bar on standard error.

    Returns:
        Features of four blocks, float32.

    Raises:
        ArgumentError: images and labels do not fit, labels have a single class, a number cannot be
            used, or images are not finite.
        ArgumentTypeError: images are not floating point, or labels or seed are not integers.

    Examples:
        >>> import torch
        >>> from train_generator.losses.perceptual import train_features
        >>> labels = torch.arange(32) % 2
        >>> images = (labels * 2.0 - 1).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        >>> features = train_features(images, labels, seed=0, num_steps=2, progress=False)
        >>> [tuple(block.shape) for block in features(images)]
        [(32, 16, 16, 16), (32, 32, 8, 8), (32, 64, 4, 4), (32, 128, 2, 2)]
    """
    num_classes = _check_arguments(images, labels, num_steps, batch_size)
    generator = torch.Generator().manual_seed(require_count("seed", seed, 0))
    classifier = _make_classifier(num_classes, generator).to(images.device).train()
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)

    def loss() -> Tensor:
        drawn = torch.randint(len(images), (batch_size,), generator=generator).to(images.device)
        return F.cross_entropy(classifier(images[drawn]), labels[drawn].long())

    try:
        train_alone("training features", classifier, num_steps, optimizer, loss, progress=progress)
    except CheckpointError as error:
        raise ArgumentError("images must be finite: training on them has diverged") from error
    return PerceptualFeatures(_fold(classifier.eval()))


class _Classifier(nn.Module):
    """Blocks of convolutions, and one linear layer on the mean of each channel of all blocks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dim_in, width in pairwise((3, *WIDTHS)):
            layers += [nn.MaxPool2d(2), *_conv(dim_in, width), *_conv(width, width)]
        self.blocks = nn.ModuleList(split_blocks(layers[1:]))
        self.head = nn.Linear(sum(WIDTHS), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns scores (B, num_classes) of images (B, 3, H, W)."""
        means = []
        for block in self.blocks:
            images = block(images)
            means.append(images.mean(dim=(2, 3)))
        scores: Tensor = self.head(torch.cat(means, dim=1))
        return scores


def _conv(dim_in: int, dim_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.ReLU(inplace=True),
    ]


def _make_classifier(num_classes: int, generator: torch.Generator) -> _Classifier:
    """Returns a classifier with weights from the generator alone, and a head of zeros."""
    with isolated_rng(0, torch.device("cpu")):
        classifier = _Classifier(num_classes)
    draw_he_normal(classifier, generator)
    nn.init.zeros_(classifier.head.weight)
    nn.init.zeros_(classifier.head.bias)
    return classifier


def _fold(classifier: _Classifier) -> list[nn.Module]:
    """Returns the layers of the blocks, with batch normalisations folded into convolutions."""
    folded: list[nn.Module] = []
    for layer in classifier.blocks.modules():
        if isinstance(layer, nn.BatchNorm2d):
            convolution = cast(nn.Conv2d, folded.pop())
            folded.append(fuse_conv_bn_eval(convolution, layer))
        elif not isinstance(layer, nn.Sequential | nn.ModuleList):
            folded.append(layer)
    return folded


def _check_arguments(images: Tensor, labels: Tensor, num_steps: int, batch_size: int) -> int:
    """Returns the number of classes."""
    require_images(images, least=2 ** (len(WIDTHS) - 1))
    require_count("num_steps", num_steps)
    require_count("batch_size", batch_size)
    if labels.shape != (len(images),):
        raise ArgumentError(
            f"labels must be one for each of the {len(images)} images, got the shape "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ArgumentTypeError(f"labels must be integer classes, got {labels.dtype}")
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2 or classes[0] < 0:
        raise ArgumentError(f"labels must be two classes or more, from 0 on, got {classes}")
    return int(classes[-1]) + 1
