"""What is measured during a training, a JSON line at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cgn_augment.errors import CheckpointError
from cgn_augment.files import replacing

MEASURES = "metrics.jsonl"


def read_measures(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a file of measures, none if there is no file.

    Args:
        path: written by `write_measures`.

    Raises:
        CheckpointError: a line is damaged.
    """
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return sorted(lines, key=lambda line: int(line["step"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no measures, or is damaged: move it away") from error


def write_measures(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Adds a line, whole or not at all, and drops those of the same step or of later ones.

    Later ones are from before a training was killed and resumed from an earlier checkpoint.

    Args:
        path: of the file; its folder exists.
        step: steps that the training has taken.
        values: by name.

    Raises:
        CheckpointError: the file is damaged.
        OSError: the folder cannot be written.

    Example:
        >>> from train_generator.training.measures import read_measures, write_measures
        >>> path = getfixture("tmp_path") / "metrics.jsonl"
        >>> for step in (0, 10, 20, 10):
        ...     write_measures(path, step, {"mean mask": step / 100})
        >>> [line["step"] for line in read_measures(path)]
        [0, 10]
    """
    kept = [line for line in read_measures(path) if line["step"] < step]
    text = "".join(json.dumps(line) + "\n" for line in [*kept, {"step": step, **values}])
    with replacing(path) as temporary:
        temporary.write_text(text)
