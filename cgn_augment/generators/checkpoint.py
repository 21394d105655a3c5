"""Reads and writes the weights of a CGN. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cgn_augment.errors import (
    ArgumentError,
    CheckpointError,
    CheckpointNotFoundError,
    DeviceError,
)
from cgn_augment.files import first_line, replacing, unpickle
from cgn_augment.generators.small import SmallCGN

FORMAT = "cgn_augment/1"
WEIGHTS = Path(__file__).parent / "weights"

_WANTS_CODE = ("GLOBAL", "call reduce", "create new object", "TorchScript")
"""Each stands in a reason that torch gives for refusing a pickle with more than weights."""

StateDict = dict[str, Tensor]
Config = dict[str, Any]


def load_cgn(
    name_or_path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> SmallCGN:
    """Loads a frozen CGN; which architecture it is, the file says.

    Args:
        name_or_path: the name of a bundled generator (`bundled_generators()` lists them), or the
            path of a checkpoint: a published `.pth` state dict (also with a `module.` prefix), or
            a `.safetensors` file written by `save_cgn`.
        device: where the weights go.

    Returns:
        The CGN in eval mode, without gradients; its weights are float32, whatever the file has.

    Raises:
        CheckpointNotFoundError: there is no such file and no such bundled generator.
        CheckpointError: the file is cut off, is a pickle that wants to run code, is of another
            network, or holds NaN.
        DeviceError: the device is not there.

    Example:
        >>> from cgn_augment import SmallCGN, load_cgn, save_cgn
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> save_cgn(SmallCGN(), path, recipe="untrained")
        >>> load_cgn(path).num_classes
        10
    """
    target = require_device(device)
    path = _find(name_or_path)
    state, config = _read(path)
    cgn = _build(path, _without_prefix(state), config)
    return cgn.to(target).freeze()


def save_cgn(cgn: SmallCGN, path: str | os.PathLike[str], **metadata: object) -> None:
    """Writes a CGN as safetensors, whole or not at all.

    Args:
        cgn: the network.
        path: ends in `.safetensors`.
        metadata: what made it (recipe, seed, commit, …); kept as text in the file.

    Raises:
        ArgumentError: another suffix, or metadata under a name that the file itself uses.
        OSError: the folder is missing or cannot be written; nothing is left behind.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ArgumentError(f"a CGN is saved as .safetensors, got {path.name!r}")
    header = {
        "format": FORMAT,
        "architecture": cgn.architecture,
        "config": json.dumps(cgn.config),
        "value_range": "[-1, 1]",
    }
    taken = sorted(header.keys() & metadata.keys())
    if taken:
        raise ArgumentError(
            f"metadata must not have the names {taken}, which the file itself uses: take others"
        )
    for key, value in metadata.items():
        header[key] = value if isinstance(value, str) else json.dumps(value)
    state = {name: value.detach().cpu().contiguous() for name, value in cgn.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=header)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of a `.safetensors` checkpoint; a published `.pth` has none."""
    path = _find(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(path, error)) from error


def bundled_generators() -> list[str]:
    """Returns the names of the generators that come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def require_device(device: torch.device | str) -> torch.device:
    """Returns the device, or raises `DeviceError` if this machine does not have it."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"{device!r} is not the name of a device: {error}") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {str(target)!r} was asked for and torch sees no GPU here: pass device='cpu', "
            "or install a build of torch that fits the GPU's driver"
        )
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no {target}: torch sees {torch.cuda.device_count()} GPUs")
    return target


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    if str(name_or_path) in bundled_generators():
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    what = "is a folder, not a file," if path.is_dir() else "is neither a file"
    bundled = ", ".join(bundled_generators()) or "none in this version"
    raise CheckpointNotFoundError(
        f"{str(name_or_path)!r} {what} nor the name of a bundled generator ({bundled}): pass the "
        "path of a .pth or .safetensors checkpoint"
    )


def _read(path: Path) -> tuple[StateDict, Config]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = _read_pickle(path)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path} is not a state dict (names and tensors) but a {type(state).__name__}: save "
            "model.state_dict() alone"
        )
    return dict(state), {}


def _read_pickle(path: Path) -> object:
    try:
        return unpickle(path)
    except ValueError as error:
        if any(sign in str(error) for sign in _WANTS_CODE):
            raise CheckpointError(
                f"{path} holds more than weights and would run code when it is read; it was not "
                "read. Ask its author for a plain state dict: torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(_damaged(path, error)) from error


def _read_safetensors(path: Path) -> tuple[StateDict, Config]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(path, error)) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {header.get('format')!r} and this version reads {FORMAT!r}"
        )
    if header.get("architecture") != SmallCGN.architecture:
        raise CheckpointError(
            f"{path} holds the architecture {header.get('architecture')!r}; this version knows "
            f"{SmallCGN.architecture!r}"
        )
    try:
        config = json.loads(header["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable config in its metadata: {error}") from error
    return state, config


def _damaged(path: Path, error: BaseException) -> str:
    return (
        f"{path} cannot be read; it is cut off or not a checkpoint: copy it again "
        f"({first_line(error)})"
    )


def _without_prefix(state: StateDict) -> StateDict:
    """Drops the `module.` that DataParallel puts before every name."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _build(path: Path, state: StateDict, config: Config) -> SmallCGN:
    config = config or _infer_config(path, state)
    try:
        with torch.device("meta"):
            cgn = SmallCGN(**config)
    except (TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} describes no small CGN: {config} ({first_line(error)})"
        ) from error
    network = cgn.state_dict()
    expected = {name: tuple(value.shape) for name, value in network.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    missing, unknown = (
        sorted(expected.keys() - found.keys()),
        sorted(found.keys() - expected.keys()),
    )
    if missing or unknown:
        raise CheckpointError(
            f"{path} is not a small CGN: {len(missing)} names are missing {missing[:3]} and "
            f"{len(unknown)} are unknown {unknown[:3]}"
        )
    wrong = [name for name in expected if expected[name] != found[name]]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors have another shape than the network, the first is "
            f"{name}: {found[name]} where {expected[name]} is needed"
        )
    for name, value in state.items():
        if value.is_floating_point() != network[name].is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype}, which is no weight of a CGN"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; its training diverged")
    # `assign` keeps the tensors that were read, so that there is never a second copy.
    cgn.load_state_dict(state, assign=True)
    return cgn.float()


def _infer_config(path: Path, state: StateDict) -> Config:
    """Reads the sizes of a small CGN off the shapes of its tensors."""
    try:
        num_classes, embedding_dim = state["label_emb.weight"].shape
        width = state["f_shape.4.weight"].shape[0]
        dim_in = state["f_shape.0.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a small CGN: it lacks label_emb.weight (classes, embedding) or the "
            f"weights of f_shape; it has {sorted(state)[:3]}"
        ) from error
    return {
        "num_classes": num_classes,
        "noise_dim": dim_in - embedding_dim,
        "embedding_dim": embedding_dim,
        "width": width,
    }
