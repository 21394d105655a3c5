"""Reads and writes the weights of a CGN. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from cgn_augment.errors import ArgumentError, FileError, UsageError
from cgn_augment.generators.assembly import CGN, FORMAT, REMEDY, read_cgn
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.tensors import read_safetensors, save_tensors
from cgn_augment.generators.truncation import TruncationLookup

WEIGHTS = Path(__file__).parent / "weights"


def load_cgn(
    name_or_path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    truncation: float | None = None,
    truncation_lookup: TruncationLookup | None = None,
    fold: bool = True,
) -> CGN:
    """Loads a frozen CGN; the file says which architecture it is.

    Args:
        name_or_path: the name of a bundled generator (`bundled_generators()` lists them), or the
            path of a checkpoint: a published `.pth` state dict (also with a `module.` prefix), or a
            `.safetensors` file written by `save_cgn`.
        device: device for the weights.
        truncation: for an ImageNet CGN, in (0, 1]; by default as in the file, or 1.
        truncation_lookup: for an ImageNet CGN: "exact" or "published"; see `ImageNetCGN`.
        fold: for an ImageNet CGN: fold norms into the weights; see `ImageNetCGN.freeze`.

    Returns:
        The CGN in eval mode, without gradients: a `SmallCGN` or an `ImageNetCGN`. Its weights are
        float32 whatever the file has. A large file is memory-mapped, so do not overwrite it while
        the CGN is in use (`save_cgn` replaces the file, which is safe).

    Raises:
        FileError: no file and no bundled generator has this name.
        CheckpointError: the file is truncated, is a pickle that would run code, belongs to another
            network, or holds NaN.
        UsageError: the device does not exist.
        ArgumentError: a truncation is given for a small CGN, or is outside (0, 1].

    Examples:
        >>> from cgn_augment import load_cgn
        >>> from cgn_augment.generators import SmallCGN, save_cgn
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> save_cgn(SmallCGN(), path, recipe="untrained")
        >>> load_cgn(path).num_classes
        10
    """
    target = require_device(device)
    path = find_weights(name_or_path)
    cgn = read_cgn(path)
    if isinstance(cgn, ImageNetCGN):
        cgn.set_truncation(cgn.truncation if truncation is None else truncation, truncation_lookup)
        return cgn.freeze(fold=fold).to(target)
    if truncation is not None or truncation_lookup is not None:
        raise ArgumentError(f"{path} is a small CGN, which has no truncation: leave it out")
    return cgn.to(target).freeze()


def save_cgn(cgn: CGN, path: str | os.PathLike[str], **metadata: object) -> None:
    """Writes a CGN as safetensors, whole or not at all.

    Args:
        cgn: the network.
        path: ends in `.safetensors`.
        metadata: origin of the network (recipe, seed, commit, …); stored as text in the file.

    Raises:
        ArgumentError: the suffix is wrong, or metadata uses a name that the file itself uses.
        OSError: the folder is missing or cannot be written; nothing is left behind.
    """
    header = {
        "format": FORMAT,
        "architecture": cgn.architecture,
        "config": json.dumps(cgn.config),
        "value_range": "[-1, 1]",
    }
    state = {name: value.detach().cpu().contiguous() for name, value in cgn.state_dict().items()}
    save_tensors(state, Path(path), header, metadata, "a CGN")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of a `.safetensors` checkpoint; empty for a published `.pth`.

    Args:
        path: the checkpoint.
    """
    path = find_weights(path)
    if path.suffix != ".safetensors":
        return {}
    return read_safetensors(path, what="a CGN", remedy=REMEDY, only_header=True)[1]


def bundled_generators() -> list[str]:
    """Returns the names of the generators that come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def require_device(device: torch.device | str) -> torch.device:
    """Returns a device to draw on, or raises `UsageError` if this machine does not have it."""
    target = known_device(device)
    if target.type == "meta":
        raise UsageError("device 'meta' holds no images: pass device='cpu' or 'cuda'")
    return target


def known_device(device: torch.device | str) -> torch.device:
    """Returns the device, or raises `UsageError` if this machine does not have it.

    Unlike `require_device` it accepts "meta", to which a stream may move its batches.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is not the name of a device: {error}") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device {str(target)!r} was asked for and torch sees no GPU here: pass device='cpu', "
            "or install a build of torch that fits the GPU's driver"
        )
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no {target}: torch sees {torch.cuda.device_count()} GPUs")
    if target.type not in ("cpu", "cuda", "meta"):
        try:
            torch.empty(0, device=target)
        except Exception as error:  # each backend raises its own
            raise UsageError(
                f"device {str(target)!r} cannot be used by this torch: pass device='cpu' or 'cuda'"
            ) from error
    return target


def find_weights(
    name_or_path: str | os.PathLike[str],
    folder: Path | None = None,
    what: str = "generator",
    remedy: str = "pass the path of a .pth or .safetensors checkpoint",
) -> Path:
    """Returns the path of a file, or of the bundled file with this name, or raises `FileError`."""
    bundled = {path.stem: path for path in sorted((folder or WEIGHTS).glob("*.safetensors"))}
    path = bundled.get(str(name_or_path), Path(name_or_path).expanduser())
    if path.is_file():
        return path
    is_what = "is a folder, not a file," if path.is_dir() else "is neither a file"
    raise FileError(
        f"{str(name_or_path)!r} {is_what} nor the name of a bundled {what} "
        f"({', '.join(bundled) or 'none in this version'}): {remedy}"
    )
