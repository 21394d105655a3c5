"""Settings and result of a downstream run, and the file that holds both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cgn_augment.checks import MAX_EPOCHS, require_counts
from cgn_augment.errors import CheckpointError
from cgn_augment.files import parse_json, replacing
from train_generator.classifier import EpochResult
from train_generator.mnist.digits import NUM_DIGITS
from train_generator.training.checkpoints import describe_differences
from train_generator.training.precision import Precision


@dataclass(frozen=True)
class DownstreamConfig:
    """Settings common to all classifiers of a table; the defaults are the paper's schedule.

    Attributes:
        num_epochs: passes over `num_train` images.
        batch_size: images per step.
        bank: masks, foregrounds and backgrounds to keep; see `BankSource`.
        refresh: number of each to replace per step.
        num_train: images per epoch, at most 50 000.
        num_test: test images, at most 10 000.
        precision: see `ClassifierConfig`.

    Raises:
        ArgumentError: a value cannot be used.

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
        require_counts(self, "num_epochs", most=MAX_EPOCHS)
        require_counts(self, "batch_size", "bank")
        require_counts(self, "num_train", most=NUM_DIGITS["train"])
        require_counts(self, "num_test", most=NUM_DIGITS["test"])
        # ClassifierConfig checks the precision.


@dataclass(frozen=True)
class DownstreamResult:
    """The result of a classifier. Accuracies are from the last epoch, in [0, 1].

    Attributes:
        variant: variant of the data.
        trained_on: name of the row of the table.
        seed: seed of weights, order and counterfactuals.
        test_accuracy: accuracy on all test images.
        visible_accuracy: accuracy on those whose digit and background differ in colour.
        epochs: result of each epoch.
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
    """Writes a run's .json file, whole or not at all; its folder is created if missing."""
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
    """Reads the result of a run; None if there is no file, or the run is in progress.

    Raises:
        CheckpointError: the file belongs to other settings, or is damaged.
    """
    if not path.is_file():
        return None
    try:
        record = parse_json(path.read_text())
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
