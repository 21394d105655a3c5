"""Files that are written whole or not at all, and pickles that are read without running them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place when the block has ended.

    If the block raises, the temporary file goes and `path` stays as it was.

    Args:
        path: of the file to write; its folder exists. The temporary one has the same suffix.

    Raises:
        OSError: the folder is missing or cannot be written.

    Example:
        >>> from cgn_augment.files import replacing
        >>> path = getfixture("tmp_path") / "note.txt"
        >>> with replacing(path) as temporary:
        ...     size = temporary.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unpickle(path: Path) -> object:
    """Reads a file of `torch.save` that holds tensors and plain values, on the CPU.

    Raises:
        ValueError: the file cannot be read or wants to run code; the message is the reason, without
            torch's advice to run the code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here is an error below, or fine
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of another file can make an unpickler raise anything
        reason = error.__context__ or error
        raise ValueError(str(reason) or type(reason).__name__) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its kind if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def hash_weights(module: nn.Module) -> str:
    """Returns twelve hexadecimal digits of a hash of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
