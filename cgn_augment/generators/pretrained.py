"""Reads the published weights that the training of an ImageNet CGN starts from."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from cgn_augment.errors import CheckpointError, FileError
from cgn_augment.generators.assembly import (
    build,
    infer_biggan,
    infer_unet_width,
    read_cgn,
)
from cgn_augment.generators.biggan import BigGAN
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.tensors import read_state_dict
from cgn_augment.generators.truncation import TruncationLookup
from cgn_augment.generators.u2net import U2Net


def load_biggan(path: str | os.PathLike[str]) -> BigGAN:
    """Reads the published weights of a BigGAN-deep generator, where a CGN's training starts.

    Args:
        path: `biggan-deep-256-pytorch_model.bin`, or that of 128 or 512 pixels (`train-generator
            fetch-weights` downloads them).

    Returns:
        The generator on the CPU. Reading the file again gives another one with its own weights.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the file is truncated, would run code, or belongs to another network.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import BigGAN, BigGANConfig, load_biggan
        >>> layers = ((False, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1))
        >>> path = getfixture("tmp_path") / "reduced.bin"
        >>> torch.save(BigGAN(BigGANConfig(10, 8, 4, layers, 2)).state_dict(), path)
        >>> load_biggan(path).config.image_size
        16
    """
    path = _find_file(path)
    state = read_state_dict(path)
    # Early versions of torch also saved the weight computed by the spectral norm.
    state = {name: value for name, value in state.items() if f"{name}_orig" not in state}
    return build(path, state, BigGAN, {"config": infer_biggan(path, state)})


def load_u2net(path: str | os.PathLike[str]) -> U2Net:
    """Reads the published weights of U2-Net (`u2net.pth`); errors as for `load_biggan`.

    Args:
        path: `u2net.pth`.

    Returns:
        The network on the CPU, in eval mode and without gradients.
    """
    path = _find_file(path)
    state = read_state_dict(path)
    network = build(path, state, U2Net, {"width": infer_unet_width(path, state)})
    return network.eval().requires_grad_(False)


def start_imagenet_cgn(
    biggan: str | os.PathLike[str],
    u2net: str | os.PathLike[str],
    *,
    truncation: float = 1.0,
    truncation_lookup: TruncationLookup = "exact",
) -> ImageNetCGN:
    """Makes a CGN to train: three generators with the same published weights, and U2-Net.

    Each generator has its own copy. The fourth, for the targets, is `load_biggan(biggan)`.

    Args:
        biggan: path of a BigGAN-deep generator's weights; see `load_biggan`.
        u2net: path of U2-Net's weights; see `load_u2net`.
        truncation: of the noise and the batch statistics, in (0, 1].
        truncation_lookup: see `ImageNetCGN`.

    Returns:
        The CGN on the CPU, not frozen; U2-Net has no gradients.

    Raises:
        FileError: a file does not exist.
        CheckpointError: a file is truncated, would run code, or belongs to another network.
        ArgumentError: truncation is outside (0, 1].
    """
    shape, found = load_biggan(biggan), load_u2net(u2net)
    with without_memory():  # its own weights are replaced at once
        cgn = ImageNetCGN(shape.config, unet_width=found.width)
    cgn.set_truncation(truncation, truncation_lookup)
    cgn.f_shape, cgn.f_text, cgn.f_bg = shape, copy.deepcopy(shape), copy.deepcopy(shape)
    cgn.u2net = found
    return cgn


def continue_imagenet_cgn(
    path: str | os.PathLike[str],
    *,
    truncation: float | None = None,
    truncation_lookup: TruncationLookup | None = None,
) -> ImageNetCGN:
    """Reads an ImageNet CGN to train it further; `load_cgn` reads one to draw from.

    Args:
        path: a `.safetensors` file of `save_cgn`, or the published `cgn.pth`.
        truncation: in (0, 1]; by default as in the file, or 1.
        truncation_lookup: see `ImageNetCGN`; by default as in the file.

    Returns:
        The CGN on the CPU, not frozen; U2-Net has no gradients.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the file is damaged, belongs to another network, or holds folded weights.
        ArgumentError: truncation is outside (0, 1].

    Examples:
        >>> from cgn_augment.generators import ImageNetCGN, save_cgn
        >>> from cgn_augment.generators import continue_imagenet_cgn
        >>> layers = [(False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
        >>> sizes = dict(num_classes=5, noise_dim=8, channel_width=4, layers=layers, attention_at=2)
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> save_cgn(ImageNetCGN(sizes, unet_width=4), path)
        >>> continue_imagenet_cgn(path, truncation=0.5).frozen
        False
    """
    path = _find_file(path)
    cgn = read_cgn(path)
    if not isinstance(cgn, ImageNetCGN):
        raise CheckpointError(f"{path} is a small CGN: give the file of an ImageNet CGN")
    if cgn.config["folded"]:
        raise CheckpointError(
            f"{path} holds folded weights, which cannot be trained: give the file that the "
            "training wrote, or save a CGN that was loaded with fold=False"
        )
    cgn.set_truncation(cgn.truncation if truncation is None else truncation, truncation_lookup)
    return cgn


def _find_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileError(
            f"{str(path)!r} is not a file: `train-generator fetch-weights` downloads the published "
            "weights, or says where they are"
        )
    return path
