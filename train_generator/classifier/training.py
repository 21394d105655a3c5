"""The classifier of the MNIST experiments, and its training on any stream of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from cgn_augment import CounterfactualDataset
from cgn_augment.checks import MAX_EPOCHS, require_choices, require_counts, require_positive
from cgn_augment.errors import ArgumentError
from train_generator.classifier.epochs import EpochRun
from train_generator.metrics.groups import require_finite_scores
from train_generator.training.precision import Precision
from train_generator.training.stages import descend

Descent = tuple[torch.optim.Optimizer, LRScheduler]


class MNISTClassifier(nn.Sequential):
    """A small CNN for 32x32 images, after Kim et al., Learning Not to Learn, CVPR 2019.

    Takes images (B, 3, 32, 32) float32 in [-1, 1] and returns (B, num_classes) float32 log
    probabilities. 70 thousand parameters.

    Args:
        num_classes: number of labels.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import MNISTClassifier
        >>> MNISTClassifier()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(7),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns log probabilities (B, num_classes) of images (B, 3, 32, 32).

        Args:
            images: (B, 3, 32, 32) float32 in [-1, 1].
        """
        scores: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        # In float32 even under autocast: bfloat16 keeps two digits of a log probability.
        return F.log_softmax(scores, dim=1, dtype=torch.float32)


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings for training a classifier with Adadelta.

    The defaults are the published ones (Sauer and Geiger, ICLR 2021, appendix), for 50 000 images
    in batches of 64.

    Attributes:
        num_epochs: passes over the stream.
        learning_rate: learning rate of Adadelta in the first epoch.
        decay: factor of the learning rate after each epoch.
        precision: precision of convolutions in training: no is float32; bf16 is nearly twice as
            fast if the processor supports it. Weights and tests are float32.

    Raises:
        ArgumentError: a value cannot be used.
    """

    num_epochs: int = 10
    learning_rate: float = 1.0
    decay: float = 0.7
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "num_epochs", most=MAX_EPOCHS)
        require_positive(self, "learning_rate", "decay")
        require_choices(self, precision=Precision)

    by_step: ClassVar[bool] = False
    """Whether the learning rate changes with each step; otherwise with each epoch."""

    def make_optimizer(self, model: nn.Module, num_steps: int) -> Descent:
        """Returns the optimizer of a model and the schedule of its learning rate.

        Args:
            model: what is trained.
            num_steps: of an epoch.
        """
        optimizer = torch.optim.Adadelta(model.parameters(), lr=self.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda epoch: self.decay**epoch)


@dataclass(frozen=True)
class OneCycleConfig:
    """How a classifier is trained in a few minutes: AdamW, one cycle of its learning rate.

    Smith and Topin, Super-Convergence, 2018. The learning rate rises over the first four tenths of
    all steps and falls to zero by the last. Batches of 32 fit these defaults.

    Attributes:
        num_epochs: passes over the stream.
        learning_rate: the highest.
        precision: see `ClassifierConfig`.

    Raises:
        ArgumentError: a value that cannot be used.
    """

    num_epochs: int = 4
    learning_rate: float = 3e-3
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "num_epochs", most=MAX_EPOCHS)
        require_positive(self, "learning_rate")
        require_choices(self, precision=Precision)

    by_step: ClassVar[bool] = True

    def make_optimizer(self, model: nn.Module, num_steps: int) -> Descent:
        """Returns the optimizer of a model and the schedule of its learning rate.

        Args:
            model: what is trained.
            num_steps: of an epoch.
        """
        optimizer = torch.optim.AdamW(
            model.parameters(), self.learning_rate, (0.9, 0.99), weight_decay=0.0, fused=True
        )
        total = self.num_epochs * num_steps
        one_cycle = OneCycleLR(
            optimizer, self.learning_rate, total, pct_start=0.4, cycle_momentum=False
        )
        return optimizer, one_cycle


@dataclass(frozen=True)
class EpochResult:
    """The result of an epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean over the images of the epoch.
        train_accuracy: accuracy on those images, each measured when it was trained on; in [0, 1].
        test_accuracy: accuracy after the epoch, in [0, 1].
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class GroupFields:
    """The part of an epoch's result that needs groups of validation images.

    Attributes:
        worst_group_accuracy: lowest accuracy of a group, in [0, 1].
        adjusted_accuracy: mean of the groups' accuracies, weighted by their training images; None
            if these are unknown, or a group with training images has no validation image.
        group_accuracies: by name of the group; None for one without validation images.
    """

    worst_group_accuracy: float
    adjusted_accuracy: float | None
    group_accuracies: dict[str, float | None]


@dataclass(frozen=True)
class GroupResult(GroupFields, EpochResult):
    """The result of an epoch whose validation images have groups."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    precision: Precision = "no",
) -> tuple[Tensor, Tensor]:
    """Trains on one batch.

    Args:
        model: returns log probabilities (B, classes).
        optimizer: optimizer of the model's parameters.
        images: (B, 3, H, W) float32.
        labels: (B,) int64.
        precision: see `ClassifierConfig`.

    Returns:
        The mean loss and the number of correctly classified images, both scalars.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        log_probabilities = model(images)
    loss = F.nll_loss(log_probabilities, labels)
    descend(None, optimizer, loss)
    return loss.detach(), (log_probabilities.argmax(dim=1) == labels).sum()


def measure_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Returns the share of images whose most likely class is their label.

    Args:
        model: returns scores (B, classes); in eval mode meanwhile.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Raises:
        ArgumentError: there are no images, or a score is NaN or infinite.
    """
    num_correct, num_images = count_right(model, batches)
    if num_images == 0:
        raise ArgumentError("there are no images to measure the accuracy on")
    return num_correct / num_images


def count_right(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """Returns the number of images whose most likely class is their label, and of all images.

    Arguments and errors are those of `find_right`.
    """
    right = find_right(model, batches)
    return int(right.sum()), len(right)


@torch.no_grad()
def find_right(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns for each image whether its label is the most likely class, (N,) bool on the CPU.

    Args:
        model: returns scores (B, classes); in eval mode meanwhile.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Raises:
        ArgumentError: a score is NaN or infinite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    right = [torch.zeros(0, dtype=torch.bool)]
    for images, labels in batches:
        scores = require_finite_scores(model(images.to(device)))
        right.append((scores.argmax(dim=1) == labels.to(device)).cpu())
    model.train(was_training)
    return torch.cat(right)


class ClassifierRun(EpochRun[EpochResult]):
    """A classifier in training, and all that its checkpoint holds.

    Args:
        model: returns log probabilities; on the stream's device.
        stream: the stream to train on.
        config: settings; a `OneCycleConfig` for a short training.
        checkpoint: a file written after each epoch, and when an epoch is interrupted. None writes
            nothing.

    Attributes:
        results: one `EpochResult` for each completed epoch.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.classifier import ClassifierConfig, ClassifierRun, MNISTClassifier
        >>> digits = TensorDataset(torch.rand(16, 3, 32, 32) * 2 - 1, torch.arange(16) % 10)
        >>> stream = CounterfactualDataset(digits, SmallCGN().freeze(), batch_size=8)
        >>> run = ClassifierRun(MNISTClassifier(), stream, ClassifierConfig(num_epochs=1))
        >>> len(run.train([digits[:]], progress=False))
        1
    """

    def __init__(
        self,
        model: nn.Module,
        stream: CounterfactualDataset,
        config: ClassifierConfig | OneCycleConfig | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        config = config or ClassifierConfig()
        optimizer, schedule = config.make_optimizer(model, len(stream))
        options: dict[str, Any] = {
            "checkpoint": checkpoint,
            "save_every": None,
            "by_step": config.by_step,
        }
        super().__init__(model, optimizer, schedule, stream, config, EpochResult, **options)

    def _train_batch(
        self, batch: tuple[Tensor, Tensor], epoch: int, step: int
    ) -> dict[str, Tensor]:
        images, labels = batch
        loss, num_correct = train_step(
            self.model, self.optimizer, images, labels, self.config.precision
        )
        return {
            "loss": loss.double() * len(labels),
            "correct": num_correct,
            "images": torch.tensor(len(labels)),
        }

    def _mean_losses(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": sums["loss"] / sums["images"]}

    def _measure(self) -> dict[str, float]:
        return {"test_accuracy": measure_accuracy(self.model, self._test)}
