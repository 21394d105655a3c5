"""Files of tensors: safetensors, and pickles that are read without running them."""

from __future__ import annotations

import json
import mmap
import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from tqdm import tqdm

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.files import first_line, replacing
from cgn_augment.generators.fingerprint import BYTES_BAR

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

_WANTS_CODE = ("GLOBAL", "call reduce", "create new object", "TorchScript")
"""Parts of torch's reasons for refusing a pickle that holds more than weights."""

_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""

_MAPPED_FROM = 2**26
"""Files from this many bytes on are memory-mapped instead of read, to avoid a copy."""

_SHARED_AT_MOST = 16
"""Most bytes of all tensors, as a multiple of the file's size, if some share memory."""


def save_pickle(value: object, path: Path) -> None:
    """Writes tensors and plain values as `torch.save` does, whole or not at all.

    Raises:
        OSError: the folder is missing or cannot be written; nothing is left behind.
        FileError: the disk is full.
    """
    # Into an open file: for a full disk torch itself only reports an unexpected position.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())


def unpickle(path: Path, *, lazily: bool = False) -> object:
    """Reads a file of `torch.save` that holds tensors and plain values, on the CPU.

    Args:
        path: the file.
        lazily: memory-map the file: a tensor is read when it is used, and one that is not used
            costs nothing. Writing to a tensor does not change the file. The file must stay as it is
            while the tensors live (a new one may replace it). Files in torch's old format, from
            before 2020, are read whole.

    Raises:
        ValueError: the file cannot be read or would run code; the message is the reason, without
            torch's advice to run the code.
    """
    try:
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings here are errors below, or harmless
            mapped = lazily and is_zipfile(path)
            # Holds even if the user allows writes to reach the file; on Windows torch never writes.
            private = mapped and hasattr(mmap, "MAP_PRIVATE")
            options = torch.serialization.set_default_mmap_options
            with options(mmap.MAP_PRIVATE) if private else nullcontext():
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a foreign file can make an unpickler raise anything
        reason = error.__context__ or error
        raise ValueError(str(reason) or type(reason).__name__) from error


def read_state_dict(path: Path, *, without: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a pickled state dict, without the prefixes of wrappers.

    Args:
        path: a file of `torch.save`.
        without: start of the names of tensors to leave out; in a mapped file they are never read.

    Raises:
        FileError: the file does not exist.
        CheckpointError: it is truncated, would run code, is not a state dict, or holds NaN.
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}, which should be a state dict")
    try:
        state = unpickle(path, lazily=path.stat().st_size >= _MAPPED_FROM)
    except ValueError as error:
        if any(sign in str(error) for sign in _WANTS_CODE):
            raise CheckpointError(
                f"{path} holds more than weights and would run code when it is read; it was not "
                "read. Ask its author for a plain state dict: torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read; it is cut off or not a checkpoint: copy it again "
            f"(its bytes cannot be read as a state dict: {first_line(error)})"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path} is not a state dict (names and tensors) but a {type(state).__name__}: save "
            "model.state_dict() alone"
        )
    tensors = without_prefixes(state)
    if without is not None:
        tensors = {name: v for name, v in tensors.items() if not name.startswith(without)}
    require_finite(tensors, path)
    return tensors


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict without the prefixes of DataParallel and torch.compile.

    Examples:
        >>> from cgn_augment.generators.tensors import without_prefixes
        >>> list(without_prefixes({"module._orig_mod.weight": 1, "module._orig_mod.bias": 2}))
        ['weight', 'bias']
    """
    tensors = dict(state)
    while tensors and all(name.startswith(_PREFIXES) for name in tensors):
        for prefix in _PREFIXES:
            consume_prefix_in_state_dict_if_present(tensors, prefix)
    return tensors


def _refuse_compressed(path: Path) -> None:
    """Raises `ValueError` for an archive that unpacks to more than its size; torch writes none."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > path.stat().st_size:
            raise ValueError("it is compressed, and unfolds to more than there is in the file")


def read_safetensors(
    path: Path,
    *,
    what: str,
    remedy: str,
    format: str | None = None,  # noqa: A002 - as in the file's header
    only_header: bool = False,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors of a `.safetensors` file, and its header.

    Args:
        path: the file.
        what: what it should be, for errors, such as "a masker".
        remedy: how to get such a file, such as "train one with …".
        format: the `format` that its header must name; None accepts any.
        only_header: does not read tensors.

    Returns:
        The tensors by name, on the CPU, memory-mapped; and the header.

    Raises:
        FileError: the file does not exist.
        CheckpointError: it is truncated, has another format, or holds NaN or infinity.

    Examples:
        >>> from cgn_augment.generators.tensors import read_safetensors, save_tensors
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> save_tensors({"bias": torch.zeros(2)}, path, {"format": "mine/1"}, {}, "a layer")
        >>> state, header = read_safetensors(path, what="a layer", remedy="save one")
        >>> state["bias"].shape, header
        (torch.Size([2]), {'format': 'mine/1'})
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}, which should be {what}: {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            names = [] if only_header else list(file.keys())
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read; it is cut off or not {what}: copy it again, or {remedy} "
            f"({first_line(error)})"
        ) from error
    found = header.get("format")
    if format is not None and found != format:
        raise CheckpointError(
            f"{path} has the format {found!r} and {what} has {format!r}: {remedy}"
        )
    require_finite(state, path)
    return state, header


def require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses the tensors of a file if one of them is not a weight, or holds NaN or infinity.

    Raises:
        CheckpointError: one does; the message names it.
    """
    total = 0
    for name, value in state.items():
        what = _why_no_weight(value)
        if what is not None:
            raise CheckpointError(
                f"{path}: {name} is {what}: save plain tensors, as "
                "torch.save(model.state_dict(), path) does"
            )
        total += value.numel() * value.element_size()
    if total > _SHARED_AT_MOST * max(path.stat().st_size, 2**20):
        raise CheckpointError(
            f"{path} claims {total} bytes of weights, which are many times those in the file"
        )
    # Here a mapped file is read from the disk.
    with tqdm(total=total, desc=f"reading {path.name}", **BYTES_BAR) as bar:
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f"{path}: {name} holds NaN or infinity; its training diverged"
                )
            bar.update(value.numel() * value.element_size())


def _why_no_weight(value: Tensor) -> str | None:
    if value.is_nested or value.layout != torch.strided:
        return "a sparse or nested tensor"
    if value.device.type != "cpu":
        return f"a tensor without values ({value.device.type})"
    if value.dtype not in _FLOATS + _WHOLE:
        return f"of the type {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "expanded to more than there is in the file"
    return None


def save_tensors(
    state: Mapping[str, Tensor],
    path: Path,
    header: Mapping[str, str],
    metadata: Mapping[str, object],
    what: str,
) -> None:
    """Writes tensors as safetensors, whole or not at all.

    Args:
        state: names and contiguous tensors.
        path: ends in `.safetensors`.
        header: the file's own description of the tensors.
        metadata: further facts, stored as text in the file.
        what: what it is, for errors, such as "a CGN".

    Raises:
        ArgumentError: the suffix is wrong, or metadata uses a name of the header.
        OSError: the folder is missing or cannot be written; nothing is left behind.
    """
    if path.suffix != ".safetensors":
        raise ArgumentError(f"{what} is saved as .safetensors, got {path.name!r}")
    taken = sorted(header.keys() & metadata.keys())
    if taken:
        raise ArgumentError(
            f"metadata must not have the names {taken}, which the file itself uses: take others"
        )
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    with replacing(path) as temporary:
        save_file(dict(state), temporary, metadata={**header, **texts})
