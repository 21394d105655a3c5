"""Reads the published weights from which the training of an ImageNet CGN starts."""

from __future__ import annotations

import os
from pathlib import Path

from cgn_augment.errors import CheckpointNotFoundError
from cgn_augment.generators.assembly import build_biggan, build_u2net
from cgn_augment.generators.biggan import BigGAN
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.state_dicts import read_state_dict
from cgn_augment.generators.u2net import U2Net


def load_biggan(path: str | os.PathLike[str]) -> BigGAN:
    """Reads the published weights of a BigGAN-deep generator, from which a CGN's training starts.

    Args:
        path: `biggan-deep-256-pytorch_model.bin`, or that of 128 or 512 pixels
            (`train-generator fetch-weights` downloads them).

    Returns:
        The generator on the CPU. Reading the file again gives another one with weights of its own.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file is cut off, wants to run code, or is of another network.

    Example:
        >>> import torch
        >>> from cgn_augment.generators import BigGAN, BigGANConfig, load_biggan
        >>> layers = ((False, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1))
        >>> path = getfixture("tmp_path") / "reduced.bin"
        >>> torch.save(BigGAN(BigGANConfig(10, 8, 4, layers, 2)).state_dict(), path)
        >>> load_biggan(path).config.image_size
        16
    """
    path = _find_file(path)
    return build_biggan(path, read_state_dict(path))


def load_u2net(path: str | os.PathLike[str]) -> U2Net:
    """Reads the published weights of U2-Net (`u2net.pth`); errors as for `load_biggan`.

    Returns:
        The network on the CPU, in eval mode and without gradients.
    """
    path = _find_file(path)
    return build_u2net(path, read_state_dict(path)).eval().requires_grad_(False)


def start_imagenet_cgn(
    biggan: str | os.PathLike[str], u2net: str | os.PathLike[str], *, truncation: float = 1.0
) -> ImageNetCGN:
    """Makes a CGN to be trained: three generators of the same published weights, and U2-Net.

    The generators have weights of their own. A fourth, for the targets, is `load_biggan(biggan)`.

    Args:
        biggan: path of a BigGAN-deep generator's weights; see `load_biggan`.
        u2net: path of U2-Net's weights; see `load_u2net`.
        truncation: of the noise and the batch statistics, in (0, 1].

    Returns:
        The CGN on the CPU, not frozen; U2-Net has no gradients.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: a file is cut off, wants to run code, or is of another network.
        ArgumentError: a truncation outside (0, 1].
    """
    shape, texture, background = (load_biggan(biggan) for _ in range(3))
    found = load_u2net(u2net)
    return ImageNetCGN.of_parts(shape, texture, background, found, truncation=truncation)


def _find_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"{str(path)!r} is not a file: `train-generator fetch-weights` downloads the published "
            "weights, or says where they are"
        )
    return path
