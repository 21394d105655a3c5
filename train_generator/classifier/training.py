"""Trains the MNIST classifier on any stream of batches; can be interrupted and resumed.

Settings of Sauer and Geiger, ICLR 2021, appendix: Adadelta at learning rate 1, which falls by 0.7
an epoch; 10 epochs of 50 000 images in batches of 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cgn_augment import CounterfactualDataset
from cgn_augment.arguments import require_choice
from cgn_augment.errors import ArgumentError, CheckpointError, StateError
from cgn_augment.files import first_line, replacing, unpickle
from train_generator.interrupt import Interrupt, deferred_interrupt
from train_generator.precision import PRECISIONS, Precision, warn_of_slow_precision


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is trained.

    Attributes:
        num_epochs: passes over the stream.
        learning_rate: of Adadelta, in the first epoch.
        decay: factor of the learning rate after each epoch.
        precision: of convolutions while training: no is float32; bf16 is nearly twice as fast
            where the processor knows it. Weights and tests are float32.

    Raises:
        ArgumentError: a value that cannot be used.
    """

    num_epochs: int = 10
    learning_rate: float = 1.0
    decay: float = 0.7
    precision: Precision = "no"

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise ArgumentError(f"num_epochs must be 1 or more, got {self.num_epochs}")
        for name in ("learning_rate", "decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ArgumentError(f"{name} must be above 0, got {value}")
        require_choice("precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: counted from 1.
        loss: mean over the images of the epoch.
        train_accuracy: of those images, each at the time it was trained on; in [0, 1].
        test_accuracy: after the epoch, in [0, 1].
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float


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
        optimizer: of the model's parameters.
        images: (B, 3, H, W) float32.
        labels: (B,) int64.
        precision: see `ClassifierConfig`.

    Returns:
        The mean loss and the number of images that were classified correctly, both scalars.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        log_probabilities = model(images)
    loss = F.nll_loss(log_probabilities, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (log_probabilities.argmax(dim=1) == labels).sum()


@torch.no_grad()
def measure_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Returns the share of images whose most likely class is their label.

    Args:
        model: returns scores (B, classes); it is in eval mode meanwhile.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Raises:
        ArgumentError: there are no images.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    num_correct = num_images = 0
    for images, labels in batches:
        predicted = model(images.to(device)).argmax(dim=1)
        num_correct += int((predicted == labels.to(device)).sum())
        num_images += len(labels)
    model.train(was_training)
    if num_images == 0:
        raise ArgumentError("there are no images to measure the accuracy on")
    return num_correct / num_images


class ClassifierRun:
    """A classifier in training, and all that its checkpoint holds.

    Args:
        model: returns log probabilities; on the stream's device.
        stream: what it is trained on.
        config: settings.
        checkpoint: written after each epoch, and on an interruption in the middle of one. None
            keeps nothing.

    Attributes:
        results: one `EpochResult` for each completed epoch.

    Raises:
        ArgumentError: there is a checkpoint already: `resume` it, or name another path.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset, SmallCGN
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
        config: ClassifierConfig | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.model, self.stream, self.checkpoint = model, stream, checkpoint
        self.config = config or ClassifierConfig()
        self.optimizer = torch.optim.Adadelta(model.parameters(), lr=self.config.learning_rate)
        self.results: list[EpochResult] = []
        self._sums = {"loss": 0.0, "correct": 0.0, "images": 0.0}
        self._resumed = False

    def resume(self) -> None:
        """Goes on from the checkpoint.

        Raises:
            CheckpointError: it is missing, damaged or of another kind.
            StateError: it is of another configuration.
        """
        path = self.checkpoint
        if path is None or not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path} to resume: start without resume")
        try:
            state: Any = unpickle(path)
            config = ClassifierConfig(**state["config"])
        except Exception as error:
            raise CheckpointError(
                f"{path} is no checkpoint of a classifier, or is cut off: delete it and start "
                f"again ({first_line(error)})"
            ) from error
        if config != self.config:
            raise StateError(
                f"{path} was trained with {config} and now {self.config} is asked for: resume with "
                "the settings it was started with, or write to another folder"
            )
        self.stream.load_state_dict(state["stream"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.results = [EpochResult(**result) for result in state["results"]]
        self._sums = state["sums"]
        self._resumed = True

    def train(
        self, test: Iterable[tuple[Tensor, Tensor]], *, progress: bool = True
    ) -> list[EpochResult]:
        """Trains the epochs that are left.

        Args:
            test: batches to measure the accuracy on after each epoch.
            progress: shows a bar on standard error.

        Returns:
            The results of all epochs, those before a resume too.
        """
        if self.checkpoint is not None and self.checkpoint.exists() and not self._resumed:
            raise ArgumentError(
                f"{self.checkpoint} exists: resume it, or write to another folder, or delete it"
            )
        warn_of_slow_precision(self.config.precision, self.stream.device)
        with deferred_interrupt() as interrupt:
            while len(self.results) < self.config.num_epochs:
                if self._train_epoch(interrupt, progress):
                    self._finish_epoch(measure_accuracy(self.model, test))
                self._save()
                if interrupt.requested:
                    raise KeyboardInterrupt
        return self.results

    def _train_epoch(self, interrupt: Interrupt, progress: bool) -> bool:
        """Trains to the end of the epoch, or to an interruption; returns whether it was the end."""
        self.model.train()
        epoch = len(self.results)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.decay**epoch
        bar = tqdm(
            desc=f"epoch {epoch + 1}/{self.config.num_epochs}",
            total=len(self.stream),
            initial=self.stream.state_dict()["step"],
            disable=not progress,
        )
        with bar:
            for images, labels in self.stream:
                loss, num_correct = train_step(
                    self.model, self.optimizer, images, labels, self.config.precision
                )
                self._sums["loss"] += float(loss) * len(labels)
                self._sums["correct"] += float(num_correct)
                self._sums["images"] += len(labels)
                bar.set_postfix_str(f"loss {float(loss):.3f}", refresh=False)
                bar.update()
                if interrupt.requested:
                    return False
        return True

    def _finish_epoch(self, test_accuracy: float) -> None:
        images = self._sums["images"]
        result = EpochResult(
            epoch=len(self.results) + 1,
            loss=self._sums["loss"] / images,
            train_accuracy=self._sums["correct"] / images,
            test_accuracy=test_accuracy,
        )
        self.results.append(result)
        self._sums = dict.fromkeys(self._sums, 0.0)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        state = {
            "config": asdict(self.config),
            "stream": self.stream.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "results": [asdict(result) for result in self.results],
            "sums": self._sums,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)
