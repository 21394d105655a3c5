"""Reads the tensors of checkpoint files. Nothing is unpickled that could run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line, read_safetensors, require_finite, unpickle
from cgn_augment.generators.assembly import ARCHITECTURES, Config, StateDict, find_architecture

FORMAT = "cgn_augment/1"
REMEDY = "write it with save_cgn"

_WANTS_CODE = ("GLOBAL", "call reduce", "create new object", "TorchScript")
"""Each stands in a reason that torch gives for refusing a pickle with more than weights."""

_MAPPED_FROM = 2**26
"""A file of this many bytes is mapped into memory and not read, so that there is no copy of it."""

_TARGETS_ONLY = "biggan_GT."
"""Prefix of the fourth BigGAN of the published checkpoint, which only its training needs."""


def read_checkpoint(path: Path) -> tuple[StateDict, str, Config | None]:
    """Returns the tensors of a CGN's file, its architecture, and its config if it has one.

    Raises:
        CheckpointError: the file is cut off, wants to run code, is no state dict, or holds NaN.
    """
    if path.suffix != ".safetensors":
        state = read_state_dict(path)
        return state, find_architecture(state), None
    state, header = read_safetensors(path, what="a CGN", remedy=REMEDY, format=FORMAT)
    architecture = header.get("architecture", "")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} holds the architecture {architecture!r}; this version knows "
            f"{' and '.join(map(repr, ARCHITECTURES))}"
        )
    try:
        return state, architecture, json.loads(header["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable config in its metadata: {error}") from error


def read_state_dict(path: Path) -> StateDict:
    """Returns the tensors of a pickled state dict, without prefixes; errors as above.

    Those of the fourth BigGAN are left out; in a file that is mapped they are never read.
    """
    state = _without_prefix(_require_state(path, _read_pickle(path)))
    state = {name: value for name, value in state.items() if not name.startswith(_TARGETS_ONLY)}
    require_finite(state, path)
    return state


def _require_state(path: Path, state: object) -> StateDict:
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path} is not a state dict (names and tensors) but a {type(state).__name__}: save "
            "model.state_dict() alone"
        )
    return dict(state)


def _read_pickle(path: Path) -> object:
    try:
        return unpickle(path, lazily=path.stat().st_size >= _MAPPED_FROM)
    except ValueError as error:
        if any(sign in str(error) for sign in _WANTS_CODE):
            raise CheckpointError(
                f"{path} holds more than weights and would run code when it is read; it was not "
                "read. Ask its author for a plain state dict: torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read; it is cut off or not a checkpoint: copy it again "
            f"({first_line(error)})"
        ) from error


def _without_prefix(state: StateDict) -> StateDict:
    """Drops the `module.` that DataParallel puts before every name."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state
