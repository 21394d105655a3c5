"""Weights of judges on disk: safetensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import nn

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line
from cgn_augment.generators.tensors import read_safetensors, save_tensors

FORMAT = "train_generator/judge/1"

Module = TypeVar("Module", bound=nn.Module)


def write_weights(module: nn.Module, path: Path, metadata: Mapping[str, object]) -> None:
    """Writes the weights of a module, with a description of their origin, stored as text.

    The folder of the path is created if missing.

    Args:
        module: the module.
        path: ends in `.safetensors`.
        metadata: the description.

    Raises:
        ArgumentError: the suffix is wrong, or metadata holds the name format.
        OSError: the folder cannot be written; nothing is left behind.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(state, path, {"format": FORMAT}, metadata, "a judge")


def read_weights(module: Module, path: Path) -> tuple[Module, dict[str, str]]:
    """Fills a module with the weights that `write_weights` wrote, and prepares it for judging.

    Returns:
        The module in eval mode, without gradients, and the file's metadata.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the file is damaged or holds another network.
    """
    state, metadata = read_safetensors(
        path, what="a judge", remedy="train one again", format=FORMAT
    )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} holds no weights of {type(module).__name__}: delete it ({first_line(error)})"
        ) from error
    return module.eval().requires_grad_(False), metadata
