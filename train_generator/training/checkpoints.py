"""What a folder of a training holds: whether there is a checkpoint, and of which settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgn_augment.errors import ArgumentError, CheckpointError

CHECKPOINT = "checkpoint.pt"


def check_folder(folder: Path, resume: bool) -> None:
    """Raises unless the folder has what to resume, or is free for a new training.

    Args:
        folder: of a training.
        resume: whether to go on with what it holds.

    Raises:
        ArgumentError: it is a file, or holds a training and `resume` is False.
        CheckpointError: there is nothing to resume.
    """
    if folder.is_file():
        raise ArgumentError(f"{folder} is a file: give a folder to write the training to")
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise CheckpointError(f"there is no {checkpoint} to resume: start without --resume")
    if not resume and checkpoint.exists():
        raise ArgumentError(
            f"{folder} holds a training: pass --resume to go on with it, or another folder"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the names of the settings that differ, those of nested ones with a dot."""
    names: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names


def describe_differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Returns which settings differ and how, for an error; nothing where they are the same.

    Example:
        >>> from train_generator.training.checkpoints import describe_differences
        >>> describe_differences({"seed": 0, "num": 5}, {"seed": 1, "num": 5})
        'seed: 0 then, 1 now'
    """
    return "; ".join(
        f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
