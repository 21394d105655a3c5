"""What a folder of a training holds: whether there is a checkpoint, and of which settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line, unpickle

CHECKPOINT = "checkpoint.pt"


def check_folder(folder: Path, resume: bool, name: str = CHECKPOINT) -> None:
    """Raises unless there is a checkpoint to resume, or none that would be written over.

    Raises:
        ArgumentError: the folder is a file, or holds a checkpoint and `resume` is False.
        CheckpointError: there is nothing to resume.
    """
    path = folder / name
    if folder.is_file():
        raise ArgumentError(f"{folder} is a file: give a folder to write the training to")
    if resume and not path.is_file():
        raise CheckpointError(f"there is no {path} to resume: start without --resume")
    if not resume and path.exists():
        raise ArgumentError(
            f"{path} holds a training: pass --resume to go on with it (from Python, resume it), "
            "or write to another folder"
        )


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns which settings differ and how, for an error; nothing where they are the same.

    Example:
        >>> from train_generator.training.checkpoints import describe_differences
        >>> then, now = {"num": 5, "adam": {"rate": 1}}, {"num": 5, "adam": {"rate": 2}}
        >>> describe_differences(then, now)
        'adam.rate: 1 then, 2 now'
    """
    return "; ".join(_differences(before, now, ""))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old!r} then, {new!r} now"


def read_checkpoint(path: Path, settings: Mapping[str, Any], stages: Iterable[str]) -> Any:
    """Returns what a checkpoint of the same settings and stages holds.

    Raises:
        CheckpointError: it is damaged, or of others.
    """
    try:
        state: Any = unpickle(path)
        before, stages_before = state["settings"], state["stages"]
    except Exception as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training, or is cut off: delete it and start again "
            f"({first_line(error)})"
        ) from error
    changed = describe_differences(before, settings)
    if changed or stages_before != list(stages):
        raise CheckpointError(
            f"{path} was made with other settings ({changed or 'other stages'}): resume with those "
            "it was started with, or write to another folder"
        )
    return state
