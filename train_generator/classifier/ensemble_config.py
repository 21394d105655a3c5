"""Settings for training a classifier on a backbone, and the result of an epoch of an ensemble."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from cgn_augment.checks import (
    MAX_EPOCHS,
    require_choices,
    require_counts,
    require_positive,
    require_weights,
)
from cgn_augment.errors import ArgumentError
from train_generator.classifier.training import GroupFields
from train_generator.training.precision import Precision

PRESETS = Path(__file__).parent / "presets"
"""Folder with the settings of published trainings, as YAML files for `--preset`."""

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "one_cycle"]
BatchNormPolicy = Literal["eval", "real", "train"]

_FIRST_FACTOR = 0.01  # of the learning rate, at the start of the warm-up
_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # of one cycle, as in torch's OneCycleLR


@dataclass(frozen=True)
class EnsembleConfig:
    """Settings for training a classifier; the defaults are the published ones of the ensemble.

    Attributes:
        num_epochs: passes over the real images.
        learning_rate: the highest learning rate.
        optimizer: sgd (published) or adamw.
        momentum: momentum of SGD.
        weight_decay: weight decay of all weights. The published value is unknown; torchvision
            trained its ResNet-50 with 1e-4.
        schedule: constant; step, which multiplies the learning rate by `step_factor` after every
            `step_epochs` epochs; cosine, down to 0 at the end; or one_cycle, which rises for three
            tenths of the training and then falls to nearly 0 (Smith and Topin, 2018; the shape of
            torch's `OneCycleLR`, without a cycle of the momentum).
        step_epochs: see `schedule`.
        step_factor: see `schedule`.
        warmup_epochs: epochs in which the learning rate rises linearly from a hundredth; one_cycle
            has its own rise.
        batch_norm: source of BatchNorm's statistics. eval (published): they stay as they were;
            real: from real images alone, and counterfactuals are normalised with the running ones;
                train: from each step's real images and counterfactuals together.
        precision: no is float32; bf16 uses bfloat16 where it is safe, in training only.

    Raises:
        ArgumentError: a value cannot be used.

    Examples:
        >>> from train_generator.classifier import EnsembleConfig
        >>> EnsembleConfig(schedule="cosine").learning_rate
        0.001
    """

    num_epochs: int = 45
    learning_rate: float = 1e-3
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "constant"
    step_epochs: int = 15
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    batch_norm: BatchNormPolicy = "eval"
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "num_epochs", most=MAX_EPOCHS)
        require_counts(self, "step_epochs")
        require_positive(self, "learning_rate", "step_factor")
        require_weights(self, "momentum", "weight_decay", "warmup_epochs")
        if self.momentum >= 1:
            raise ArgumentError(f"momentum must be below 1, got {self.momentum}")
        if self.warmup_epochs >= self.num_epochs:
            raise ArgumentError(
                f"warmup_epochs must be below num_epochs, got {self.warmup_epochs} of "
                f"{self.num_epochs}"
            )
        require_choices(self, optimizer=OptimizerName, schedule=Schedule)
        require_choices(self, batch_norm=BatchNormPolicy, precision=Precision)
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ArgumentError("schedule='one_cycle' has a rise of its own: leave out the warm-up")


@dataclass(frozen=True)
class EnsembleResult:
    """The result of an epoch. Losses are means over its images, accuracies are in [0, 1].

    Attributes:
        epoch: counted from 1.
        loss: sum of the four losses.
        real_loss: loss of the average of the heads, on real images.
        shape_loss: loss of the shape head, on counterfactuals.
        texture_loss: loss of the texture head.
        background_loss: loss of the background head.
        train_accuracy: accuracy of the average on the epoch's real images, each measured when it
            was trained on.
        accuracy: accuracy of the average on the validation images, after the epoch.
        background_free_accuracy: likewise, of the mean of shape and texture head.
        shape_accuracy: likewise, of the shape head.
        texture_accuracy: likewise, of the texture head.
        background_accuracy: likewise, of the background head.
    """

    epoch: int
    loss: float
    real_loss: float
    shape_loss: float
    texture_loss: float
    background_loss: float
    train_accuracy: float
    accuracy: float
    background_free_accuracy: float
    shape_accuracy: float
    texture_accuracy: float
    background_accuracy: float


@dataclass(frozen=True)
class EnsembleGroupResult(GroupFields, EnsembleResult):
    """The result of an epoch with validation groups, whose accuracies are the average's."""


def learning_rate_at(config: EnsembleConfig, epoch: float) -> float:
    """Returns the learning rate at a time, measured in epochs from 0.

    Args:
        config: settings.
        epoch: time in epochs, such as 1.5.

    Examples:
        >>> from train_generator.classifier import EnsembleConfig, learning_rate_at
        >>> config = EnsembleConfig(learning_rate=1.0, schedule="step", step_epochs=4)
        >>> [round(learning_rate_at(config, epoch), 3) for epoch in (0, 3.9, 4, 8)]
        [1.0, 1.0, 0.1, 0.01]
    """
    return config.learning_rate * _share_at(config, epoch)


def make_optimizer(config: EnsembleConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer of a model's parameters.

    Args:
        config: settings.
        model: the model to train.

    Examples:
        >>> import torch
        >>> from train_generator.classifier.ensemble_config import EnsembleConfig, make_optimizer
        >>> type(make_optimizer(EnsembleConfig(optimizer="adamw"), torch.nn.Linear(2, 2))).__name__
        'AdamW'
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(), lr=rate, momentum=config.momentum, weight_decay=decay
    )


def make_schedule(
    config: EnsembleConfig, optimizer: torch.optim.Optimizer, num_steps: int | None
) -> LambdaLR:
    """Returns the scheduler of the learning rate; see `learning_rate_at`.

    Args:
        config: settings.
        optimizer: its learning rate is that of the settings.
        num_steps: steps of an epoch, to count steps; None counts epochs.

    Examples:
        >>> import torch
        >>> from train_generator.classifier.ensemble_config import EnsembleConfig, make_schedule
        >>> config = EnsembleConfig(schedule="step", step_epochs=1, learning_rate=1.0)
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)
        >>> schedule = make_schedule(config, sgd, num_steps=2)
        >>> for step in range(2):
        ...     sgd.step()
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.1]
    """
    num = num_steps or 1
    return LambdaLR(optimizer, lambda count: _share_at(config, count // num + count % num / num))


def _share_at(config: EnsembleConfig, epoch: float) -> float:
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        return _FIRST_FACTOR + (1 - _FIRST_FACTOR) * done
    if config.schedule == "one_cycle":
        done = epoch / config.num_epochs
        if done < _RISE:
            return _between(_START, 1.0, done / _RISE)
        return _between(1.0, _END, (done - _RISE) / (1 - _RISE))
    if config.schedule == "step":
        return config.step_factor ** int(epoch // config.step_epochs)
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / (config.num_epochs - config.warmup_epochs)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return 1.0


def _between(first: float, last: float, share: float) -> float:
    """Interpolates between two values along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
