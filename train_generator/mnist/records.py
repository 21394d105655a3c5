"""What a downstream run is made with and what it came to, and the file that holds both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cgn_augment.checks import require_counts
from cgn_augment.errors import CheckpointError
from cgn_augment.files import replacing
from train_generator.classifier import EpochResult
from train_generator.training.checkpoints import describe_differences
from train_generator.training.precision import Precision


@dataclass(frozen=True)
class DownstreamConfig:
    """What all classifiers of a table have in common; the defaults are the paper's schedule.

    Attributes:
        num_epochs: passes over `num_train` images.
        batch_size: images per step.
        bank: masks, foregrounds and backgrounds kept; see `BankSource`.
        refresh: of these, replaced at each step.
        num_train: images per epoch, at most 50 000.
        num_test: test images, at most 10 000.
        precision: see `ClassifierConfig`.

    Raises:
        ArgumentError: a value that cannot be used.

    Examples:
        >>> from train_generator.mnist import DownstreamConfig
        >>> DownstreamConfig(num_epochs=2).bank
        2000
    """

    num_epochs: int = 10
    batch_size: int = 64
    bank: int = 2000
    refresh: int = 8
    num_train: int = 50_000
    num_test: int = 10_000
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "refresh", least=0)
        require_counts(self, "num_epochs", "batch_size", "bank", "num_train", "num_test")
        # ClassifierConfig checks the precision.


@dataclass(frozen=True)
class DownstreamResult:
    """What a classifier came to. Accuracies are of the last epoch, in [0, 1].

    Attributes:
        variant: of the data.
        trained_on: name of the row of the table.
        seed: of weights, order and counterfactuals.
        test_accuracy: on all test images.
        visible_accuracy: on those whose digit has another colour than the background.
        epochs: what each epoch came to.
    """

    variant: str
    trained_on: str
    seed: int
    test_accuracy: float
    visible_accuracy: float
    epochs: tuple[EpochResult, ...]


def write_record(
    path: Path, settings: Mapping[str, object], result: DownstreamResult | None, device: str
) -> None:
    """Writes a run's .json file, whole or not at all; its folder is made if it is missing."""
    record = {
        "settings": settings,
        "result": None if result is None else asdict(result),
        "versions": {name: version(name) for name in ("cgn-augment", "torch")},
        "device": device,
        "threads": torch.get_num_threads(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def read_record(path: Path, settings: Mapping[str, object]) -> DownstreamResult | None:
    """Reads the result of a run; None where there is no file, or the run is under way.

    Raises:
        CheckpointError: the file is of other settings, or is damaged.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        before = dict(record["settings"])
        result = None if record["result"] is None else _parse(record["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no run, or is cut off: delete it") from error
    changed = describe_differences(before, settings)
    if changed:
        raise CheckpointError(
            f"{path} was run with other settings ({changed}): repeat the command as it "
            "was, or name another folder"
        )
    return result


def _parse(result: Mapping[str, Any]) -> DownstreamResult:
    epochs = tuple(EpochResult(**epoch) for epoch in result["epochs"])
    return DownstreamResult(**{**result, "epochs": epochs})
