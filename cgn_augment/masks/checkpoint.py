"""Reads and writes the weights of a masker. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line, parse_json
from cgn_augment.generators.checkpoint import find_weights, require_device
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.tensors import read_safetensors, save_tensors
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.masks.photo_unet import PhotoMasker
from cgn_augment.masks.unet import UNetMasker

FORMAT = "cgn_augment_masker/1"
WEIGHTS = Path(__file__).parent / "weights"

_LARGEST = 4096
"""Longest side of the images of a masker that a file may claim: users' images become as large."""

_KINDS: dict[str, type[MaskerNetwork]] = {each.kind: each for each in (UNetMasker, PhotoMasker)}


def load_masker(
    name_or_path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> MaskerNetwork:
    """Loads a frozen masker.

    Args:
        name_or_path: the name of a bundled generator, to get its masker (`bundled_maskers()` lists
            them), or the path of a file written by `save_masker`.
        device: device for the weights.

    Returns:
        The masker in eval mode, without gradients, in float32.

    Raises:
        FileError: no file and no bundled masker has this name.
        CheckpointError: the file is truncated, belongs to another network, or holds NaN.
        UsageError: the device does not exist.

    Examples:
        >>> from cgn_augment import load_masker
        >>> from cgn_augment.masks import UNetMasker, save_masker
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> save_masker(UNetMasker(width=8), path, cgn="mine")
        >>> load_masker(path).width
        8
    """
    target = require_device(device)
    remedy = "train one with train-generator masker"
    path = find_weights(name_or_path, WEIGHTS, "masker", remedy)
    state, header = read_safetensors(path, what="a masker", remedy=remedy, format=FORMAT)
    try:
        kind = header.get("network", UNetMasker.kind)
        with without_memory():  # the file may claim any width
            masker = _KINDS[kind](**parse_json(header["config"])).float()
        state = {name: value.float() for name, value in state.items()}
        for name, buffer in masker.state_dict().items():
            if not buffer.is_floating_point():  # batch counters are not stored
                state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
        masker.load_state_dict(state, assign=True)
        if masker.size > _LARGEST:
            raise ValueError(f"it claims images of {masker.size} pixels a side")
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} does not hold the masker that it describes ({first_line(error)})"
        ) from error
    return masker.to(target).freeze()


def save_masker(masker: MaskerNetwork, path: str | os.PathLike[str], **metadata: object) -> None:
    """Writes a masker as safetensors in half precision, whole or not at all.

    Args:
        masker: the network.
        path: ends in `.safetensors`.
        metadata: origin of the masker (generator, seed, …); stored as text in the file.

    Raises:
        ArgumentError: the suffix is wrong, or metadata uses a name that the file itself uses.
        OSError: the folder is missing or cannot be written; nothing is left behind.
    """
    header = {
        "format": FORMAT,
        "network": masker.kind,
        "config": json.dumps(masker.config),
    }
    state = {
        name: value.detach().half().cpu().contiguous()
        for name, value in masker.state_dict().items()
        if value.is_floating_point()
    }
    save_tensors(state, Path(path), header, metadata, "a masker")


def bundled_maskers() -> list[str]:
    """Returns the names of the generators whose maskers come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
