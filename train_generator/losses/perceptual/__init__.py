"""The perceptual loss of a CGN, and the frozen networks for its features."""

from __future__ import annotations

import os
from typing import Literal, get_args

from torch import Tensor

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError
from train_generator.losses.perceptual.features import (
    PerceptualFeatures,
    perceptual_loss,
    released_gram_weights,
)
from train_generator.losses.perceptual.trained import train_features
from train_generator.losses.perceptual.vgg16 import load_vgg16_features, random_vgg16_features

__all__ = [
    "FeatureKind",
    "PerceptualFeatures",
    "load_vgg16_features",
    "make_features",
    "perceptual_loss",
    "random_vgg16_features",
    "released_gram_weights",
    "train_features",
]

FeatureKind = Literal["vgg16", "random", "trained"]


def make_features(
    kind: FeatureKind,
    *,
    path: str | os.PathLike[str] | None = None,
    seed: int = 0,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    progress: bool = True,
) -> PerceptualFeatures:
    """Returns the requested features, or raises; one kind never replaces another.

    Args:
        kind: "vgg16" has VGG-16's weights, see `load_vgg16_features`. The other two need no
            download: "random" is a VGG-16 with random weights, see `random_vgg16_features`, and
                "trained" a small network that learns to classify the images, see `train_features`.
        path: path of VGG-16's weights, only for "vgg16"; None downloads them.
        seed: 0 or more; not used by "vgg16".
        images: (N, 3, H, W) float32 in [-1, 1] to train on; only for "trained".
        labels: (N,) integer classes of the images.
        progress: shows a bar on standard error while downloading or training.

    Returns:
        Features of four blocks, on the CPU; "trained" ones on the device of the images.

    Raises:
        ArgumentError: the kind is unknown, a path is given for another kind than "vgg16", or
            "trained" lacks images or labels; and any error of the three functions.

    Examples:
        >>> from train_generator.losses.perceptual import make_features
        >>> make_features("random", seed=0).num_blocks
        4
    """
    require_choice("kind", kind, get_args(FeatureKind))
    if path is not None and kind != "vgg16":
        raise ArgumentError(f"path is of VGG-16's weights, and kind is {kind!r}: leave path out")
    if kind == "vgg16":
        return load_vgg16_features(path, progress=progress)
    if kind == "random":
        return random_vgg16_features(seed)
    if images is None or labels is None:
        raise ArgumentError("images and labels must be given for features of the kind 'trained'")
    return train_features(images, labels, seed, progress=progress)
