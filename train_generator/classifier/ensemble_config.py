"""How an ensemble is trained, and what an epoch of it came to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

from cgn_augment.checks import require_choices, require_counts, require_positive, require_weights
from cgn_augment.errors import ArgumentError
from train_generator.training.precision import Precision

Schedule = Literal["constant", "step", "cosine"]
BatchNormPolicy = Literal["eval", "real", "train"]

_FIRST_FACTOR = 0.01  # of the learning rate, where the warm-up begins


@dataclass(frozen=True)
class EnsembleConfig:
    """How an ensemble is trained, with SGD; the defaults are the published settings.

    Attributes:
        num_epochs: passes over the real images.
        learning_rate: the highest one.
        momentum: of SGD.
        weight_decay: of all weights. The published value is not known; 1e-4 is what torchvision
            trained its ResNet-50 with.
        schedule: constant; step, which multiplies the learning rate by `step_factor` after every
            `step_epochs` epochs; or cosine, down to 0 at the end.
        step_epochs: see `schedule`.
        step_factor: see `schedule`.
        warmup_epochs: in which the learning rate rises in a straight line from a hundredth.
        batch_norm: where BatchNorm has its statistics from. eval (published): they stay as they
            were; real: from real images alone, and counterfactuals are normalised with the running
            ones; train: from each step's real images and counterfactuals together.
        precision: no is float32; bf16 computes in bfloat16 what tolerates it, in training alone.

    Raises:
        ArgumentError: a value that cannot be used.

    Example:
        >>> from train_generator.classifier import EnsembleConfig
        >>> EnsembleConfig(schedule="cosine").learning_rate
        0.001
    """

    num_epochs: int = 45
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "constant"
    step_epochs: int = 15
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    batch_norm: BatchNormPolicy = "eval"
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "num_epochs", "step_epochs")
        require_positive(self, "learning_rate", "step_factor")
        require_weights(self, "momentum", "weight_decay", "warmup_epochs")
        if self.momentum >= 1:
            raise ArgumentError(f"momentum must be below 1, got {self.momentum}")
        if self.warmup_epochs >= self.num_epochs:
            raise ArgumentError(
                f"warmup_epochs must be below num_epochs, got {self.warmup_epochs} of "
                f"{self.num_epochs}"
            )
        require_choices(self, schedule=Schedule, batch_norm=BatchNormPolicy, precision=Precision)


@dataclass(frozen=True)
class EnsembleResult:
    """What an epoch came to. Losses are means over its images, accuracies are in [0, 1].

    Attributes:
        epoch: counted from 1.
        loss: the sum of the four.
        real_loss: of the average of the heads, on real images.
        shape_loss: of the shape head, on counterfactuals.
        texture_loss: of the texture head.
        background_loss: of the background head.
        train_accuracy: of the average on the epoch's real images, each at the time it was trained
            on.
        accuracy: of the average on the validation images, after the epoch.
        background_free_accuracy: there, of the mean of shape and texture head.
        shape_accuracy: there, of the shape head.
        texture_accuracy: there, of the texture head.
        background_accuracy: there, of the background head.
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


def learning_rate_at(config: EnsembleConfig, epoch: float) -> float:
    """Returns the learning rate at a time, counted in epochs from 0.

    Example:
        >>> from train_generator.classifier import EnsembleConfig, learning_rate_at
        >>> config = EnsembleConfig(learning_rate=1.0, schedule="step", step_epochs=4)
        >>> [round(learning_rate_at(config, epoch), 3) for epoch in (0, 3.9, 4, 8)]
        [1.0, 1.0, 0.1, 0.01]
    """
    return config.learning_rate * _share_at(config, epoch)


def make_schedule(
    config: EnsembleConfig, optimizer: torch.optim.Optimizer, num_steps: int | None
) -> LambdaLR:
    """Returns the scheduler of the learning rate; see `learning_rate_at`.

    Args:
        config: settings.
        optimizer: whose learning rate is that of the settings.
        num_steps: of an epoch: the scheduler counts steps; None: it counts epochs.

    Example:
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
    if config.schedule == "step":
        return config.step_factor ** int(epoch // config.step_epochs)
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / (config.num_epochs - config.warmup_epochs)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return 1.0
