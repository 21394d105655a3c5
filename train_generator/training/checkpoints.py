"""The checkpoint in the folder of a training, and the settings it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line
from cgn_augment.generators.tensors import unpickle

CHECKPOINT = "checkpoint.pt"


def check_folder(folder: Path, resume: bool, name: str = CHECKPOINT) -> None:
    """Raises unless there is a checkpoint to resume, or none that would be overwritten.

    Args:
        folder: folder of the training.
        resume: whether to resume.
        name: file name of the checkpoint.

    Raises:
        ArgumentError: the folder is a file, or holds a checkpoint while `resume` is False.
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


@dataclass(frozen=True)
class Place:
    """The position of a training.

    Attributes:
        position: the stage, and the step in it, that come next.
        at_end: whether all steps of the stage are taken.
        steps_before: steps taken over all stages.
        seconds: duration of the steps.
        results: the result of each `EpochStage` that is done.
    """

    position: tuple[int, int]
    at_end: bool
    steps_before: int
    seconds: float
    results: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, state: Mapping[str, Any], num_stages: int) -> Place:
        """Returns the position in a checkpoint.

        Args:
            state: content of the checkpoint.
            num_stages: number of stages of the training.

        Raises:
            Exception: it is missing, or impossible for a training with so many stages.
        """
        stage, step = (require_count("position", number, 0) for number in state["position"])
        if stage > num_stages:
            raise ArgumentError(f"position names stage {stage} of {num_stages}")
        return cls(
            (stage, step),
            bool(state["at_end"]),
            require_count("steps_before", state["steps_before"], 0),
            float(state["seconds"]),
            tuple(dict(result) for result in state["results"]),
        )


@contextmanager
def loading(path: Path | None) -> Iterator[None]:
    """Turns errors inside the block into one that says the checkpoint does not fit.

    Args:
        path: the checkpoint, for the message.

    Raises:
        CheckpointError: there was an error.
    """
    try:
        yield
    except CheckpointError:  # from a stream, whose message says what does not fit
        raise
    except Exception as error:  # torch's own readers raise anything
        raise CheckpointError(
            f"{path} holds other networks or states than this version trains: start again in "
            f"another folder ({type(error).__name__}: {first_line(error)})"
        ) from error


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the settings that differ, and how, for an error; empty if they are the same.

    Args:
        before: settings in the checkpoint.
        now: settings of this training.

    Examples:
        >>> from train_generator.training.checkpoints import describe_differences
        >>> then, now = {"num": 5, "adam": {"rate": 1}}, {"num": 5, "adam": {"rate": 2}}
        >>> describe_differences(then, now)
        'adam.rate: 1 then, 2 now'
    """
    return "; ".join(_differences(before, now, ""))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys(), key=str):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old!r} then, {new!r} now"


def read_checkpoint(path: Path, settings: Mapping[str, Any], stages: Iterable[str]) -> Any:
    """Returns the content of a checkpoint with the same settings and stages.

    Args:
        path: the checkpoint.
        settings: settings of this training.
        stages: names of its stages.

    Raises:
        CheckpointError: it is damaged, or belongs to others.
    """
    try:
        state: Any = unpickle(path)
        before, stages_before = dict(state["settings"]), list(state["stages"])
        changed = shorten(describe_differences(before, settings), 1000)
    except Exception as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training, or is cut off: delete it and start again "
            f"({first_line(error)})"
        ) from error
    if changed or stages_before != list(stages):
        raise CheckpointError(
            f"{path} was made with other settings ({changed or 'other stages'}): resume with those "
            "it was started with, or write to another folder"
        )
    return state
