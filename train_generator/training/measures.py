"""The numbers of a training: JSON lines, and TensorBoard's events if it is installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn_augment.errors import CheckpointError
from cgn_augment.files import append, parse_json, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

LOSSES, MEASURES = "train.jsonl", "metrics.jsonl"

logger = logging.getLogger(__name__)


def read_measures(path: Path) -> list[dict[str, float]]:
    """Returns the losses or measures by step from a file; empty if the file does not exist.

    Args:
        path: `train.jsonl` or `metrics.jsonl` of a training. A training that was killed may leave
            two lines for one step; the later one counts.

    Raises:
        CheckpointError: a line is damaged.
    """
    if not path.is_file():
        return []
    lines: dict[int, dict[str, float]] = {}
    try:
        for text in path.read_text().splitlines():
            line = parse_json(text)
            lines.setdefault(int(line["step"]), {}).update(line)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds no measures, or is damaged: move it away") from error
    return [lines[step] for step in sorted(lines)]


class Curves:
    """Writes losses and measures to a folder; each line is on disk when the call returns.

    Without TensorBoard there are only JSON lines, and a log message says how to install it.

    Args:
        folder: created if missing; None writes nothing.
        step: steps taken so far. Later lines are dropped: they come from before the training was
            killed and resumed.

    Raises:
        CheckpointError: an existing file is damaged.
        OSError: the folder cannot be written.

    Examples:
        >>> from train_generator.training.measures import MEASURES, Curves, read_measures
        >>> folder = getfixture("tmp_path")
        >>> for start, step in ((0, 0), (0, 10), (0, 20), (10, 10)):
        ...     curves = Curves(folder, start)
        ...     curves.add(MEASURES, step, {"mean mask": step / 100})
        ...     curves.close()
        >>> [line["step"] for line in read_measures(folder / MEASURES)]
        [0, 10]
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.folder = folder
        self._events: SummaryWriter | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (LOSSES, MEASURES):
                _drop_later(folder / name, step)
            self._events = _open_events(folder, step)

    def is_measured(self, step: int) -> bool:
        """Returns whether there are measures for a step.

        Args:
            step: number of steps taken.
        """
        lines = [] if self.folder is None else read_measures(self.folder / MEASURES)
        return any(line["step"] == step for line in lines)

    def add(self, file: str, step: int, values: Mapping[str, Any]) -> None:
        """Adds the values after this many steps to `LOSSES` or `MEASURES`.

        Values in a mapping get names such as "group_accuracies/landbird on water"; None stands for
        a value that could not be measured.

        Args:
            file: `LOSSES` or `MEASURES`.
            step: number of steps taken.
            values: values by name.
        """
        if self.folder is None:
            return
        flat = dict(_flatten(values))
        append(self.folder / file, json.dumps({"step": step, **flat}) + "\n")
        if self._events is not None:
            for name, value in flat.items():
                tag = f"metrics/{name}" if file == MEASURES else name
                if value is not None:
                    self._events.add_scalar(tag, value, step)
            self._events.flush()  # so that a kill loses no entry from before a checkpoint

    def add_sheet(self, step: int, figure: Figure) -> None:
        """Adds a sheet to TensorBoard.

        Args:
            step: number of steps taken.
            figure: the sheet.
        """
        if self._events is not None:
            self._events.add_figure("samples", figure, step)

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._events is not None:
            self._events.close()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _drop_later(path: Path, step: int) -> None:
    lines = read_measures(path)
    kept = [line for line in lines if line["step"] <= step]
    if len(kept) < len(lines):
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def _open_events(folder: Path, step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "TensorBoard is not installed: losses and measures go to %s and %s in %s alone. To "
            "watch them, python -m pip install 'cgn-augment[train]'",
            LOSSES,
            MEASURES,
            folder,
        )
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
