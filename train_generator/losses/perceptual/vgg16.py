"""Features of VGG-16 (Simonyan and Zisserman, ICLR 2015), with learned or random weights.

The maps are the outputs of the ReLU before each of the first four max-pools: 64, 128, 256 and 512
channels at full, half, quarter and eighth of the image's size. Later layers are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from cgn_augment.checks import require_count
from cgn_augment.errors import CheckpointError, FileError
from cgn_augment.files import download
from cgn_augment.generators.tensors import read_state_dict
from train_generator.losses.perceptual.features import PerceptualFeatures, draw_he_normal

NUM_LAYERS = 23
"""Number of layers of torchvision's `features`, up to the ReLU before the fourth max-pool."""

URL: str = VGG16_Weights.IMAGENET1K_V1.url

_REMEDY = (
    "take random_vgg16_features or train_features, which need no download; or fetch "
    f"{URL} where there is a network and pass its path"
)


def load_vgg16_features(
    path: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> PerceptualFeatures:
    """Returns the features of VGG-16 trained on ImageNet, as used in the paper.

    Args:
        path: a state dict of torchvision's `vgg16`, or of its `features` alone; read without
            running any code in it. None uses torchvision's `IMAGENET1K_V1`: from torch.hub's
            folder, or downloaded to it (528 MB) and checked by its hash.
        progress: shows a bar on standard error while downloading.

    Returns:
        Features of four blocks, on the CPU, float32 whatever the file has.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the download failed, or the file is truncated, would run code, belongs to
            another network, or holds NaN or infinity.

    Examples:
        >>> import torch
        >>> import torchvision
        >>> from train_generator.losses.perceptual import load_vgg16_features
        >>> with torch.device("meta"):
        ...     shapes = torchvision.models.vgg16().features[:23].state_dict()
        >>> path = getfixture("tmp_path") / "mine.pth"
        >>> torch.save({name: torch.zeros(value.shape) for name, value in shapes.items()}, path)
        >>> load_vgg16_features(path).num_blocks
        4
    """
    if path is None:
        path = download(URL, "the weights of VGG-16", remedy=_REMEDY, progress=progress)
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileError(
            f"there is no file {path}: pass that of a state dict of torchvision's vgg16, such as "
            f"{URL}, or no path to download it"
        )
    layers = _make_layers()
    layers.load_state_dict(_select_weights(path, read_state_dict(path), layers), assign=True)
    return PerceptualFeatures(layers)


def random_vgg16_features(seed: int = 0) -> PerceptualFeatures:
    """Returns the features of a VGG-16 with random weights, which need no download.

    Gram matrices of random features distinguish textures too (Ustyuzhaninov et al., Texture
    Synthesis Using Shallow Convolutional Networks with Random Filters, 2016). They have another
    scale than those of learned weights, so the released settings do not apply.

    Args:
        seed: 0 or more; the weights are a function of it alone.

    Returns:
        Features of four blocks, on the CPU, float32, drawn by `draw_he_normal`.

    Raises:
        ArgumentError: the seed is negative.
        ArgumentTypeError: the seed is not an integer.

    Examples:
        >>> import torch
        >>> from train_generator.losses.perceptual import random_vgg16_features
        >>> maps = random_vgg16_features(seed=0)(torch.zeros(1, 3, 32, 32))
        >>> [tuple(block.shape) for block in maps]
        [(1, 64, 32, 32), (1, 128, 16, 16), (1, 256, 8, 8), (1, 512, 4, 4)]
    """
    layers = _make_layers().to_empty(device="cpu")
    draw_he_normal(layers, torch.Generator().manual_seed(require_count("seed", seed, 0)))
    return PerceptualFeatures(layers)


def _make_layers() -> nn.Sequential:
    """Returns the layers on the meta device, where the classifier's 0.5 GB take no memory."""
    with torch.device("meta"):
        layers: nn.Sequential = vgg16(weights=None, init_weights=False).features[:NUM_LAYERS]
    return layers


def _select_weights(
    path: Path, state: Mapping[str, Tensor], layers: nn.Sequential
) -> dict[str, Tensor]:
    """Returns the weights of the layers by their names there, as float32 copies."""
    prefix = "features." if any(name.startswith("features.") for name in state) else ""
    selected = {}
    for name, expected in layers.state_dict().items():
        value = state.get(prefix + name)
        if value is None or value.shape != expected.shape:
            found = "nothing" if value is None else tuple(value.shape)
            raise CheckpointError(
                f"{path} is not a VGG-16: {prefix + name} must have the shape "
                f"{tuple(expected.shape)}, got {found}"
            )
        selected[name] = value.detach().float().clone()
    return selected
