"""Epochs over a stream as stages of the trainer, for any kind of network."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cgn_augment import CounterfactualDataset
from train_generator.training.precision import warn_of_slow_precision
from train_generator.training.ranks import Ranks
from train_generator.training.stages import Stateful
from train_generator.training.trainer import Trainer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Result = TypeVar("Result", bound="DataclassInstance")


class EpochRun(ABC, Generic[Result]):
    """A network in training, and all that its checkpoint holds; a subclass defines a step.

    Under torch.distributed all processes take the same steps and stop at the same one, and only the
    first one writes.

    Args:
        model: the network, on the stream's device.
        optimizer: optimizer of its parameters.
        schedule: schedule of the learning rate.
        stream: the stream to train on.
        config: dataclass of settings, with `num_epochs` and `precision`; a checkpoint with other
            settings is refused.
        result_type: dataclass of plain values for the result of an epoch.
        folder: see `Trainer`.
        settings: further plain values that a checkpoint must agree with.
        by_step: whether the schedule counts steps; otherwise epochs.
        state: further contents of a checkpoint, by name.
        options: options of the `Trainer`.

    Raises:
        ArgumentError: a number of steps cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        stream: CounterfactualDataset,
        config: Any,
        result_type: type[Result],
        folder: Path | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        by_step: bool = False,
        state: Mapping[str, Stateful] | None = None,
        **options: Any,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.stream, self.config = stream, config
        self.settings = {**asdict(config), **(settings or {})}
        self.ranks = Ranks()
        self._result_type = result_type
        self._test: Any = ()
        self._announce: Callable[[Result], None] | None = None
        self._progress, self._by_step = False, by_step
        self._trainer = Trainer(
            folder,
            {"model": model},
            {f"epoch {n + 1}": partial(_Epoch, self, n) for n in range(config.num_epochs)},
            self.settings,
            seed=stream.seed,
            ranks=self.ranks,
            state={
                "stream": stream,
                "optimizer": optimizer,
                "schedule": schedule,
                **(state or {}),
            },
            **options,
        )
        warn_of_slow_precision(config.precision, stream.device)

    @property
    def results(self) -> list[Result]:
        """The result of each completed epoch."""
        return [self._result_type(**result) for result in self._trainer.results]

    @property
    def checkpoint(self) -> Path | None:
        """Path of the checkpoint."""
        return self._trainer.checkpoint

    def resume(self) -> None:
        """Continues from the checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or belongs to other settings or another
                network.
        """
        self._trainer.resume()

    def train(
        self,
        test: Iterable[tuple[Tensor, Tensor]],
        *,
        progress: bool = True,
        announce: Callable[[Result], None] | None = None,
    ) -> list[Result]:
        """Trains the remaining epochs.

        Args:
            test: batches to test the model on after each epoch; only those of this process.
            progress: shows bars on standard error.
            announce: called with the result of each epoch.

        Returns:
            The results of all epochs, including those before a resume.

        Raises:
            ArgumentError: there is a checkpoint that was not resumed.
            KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written.
            CheckpointError: the training has diverged.
        """
        self._test, self._announce = test, announce
        self._progress = progress and self.ranks.is_main
        self._trainer.train(progress=progress)
        self._finish()
        return self.results

    @abstractmethod
    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        """Trains on one batch of the stream; `epoch` and `step` in it are counted from 0.

        Returns:
            Sums over the images of the batch by name, scalars; also "images" and "correct" ones.
        """

    @abstractmethod
    def _mean_losses(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns means over the images from such sums; numbers or scalars."""

    @abstractmethod
    def _measure(self) -> dict[str, Any]:
        """Tests the model after an epoch; returns accuracies by their names in the result."""

    def _finish(self) -> None:
        """Does what is left to do when all epochs are trained."""

    def _write(self, result: Result) -> None:
        """Writes the result of an epoch."""


def count_steps(stream: CounterfactualDataset) -> int | None:
    """Returns the steps of an epoch, or None if the stream does not know them."""
    try:
        return len(stream)
    except TypeError:
        return None


class _Epoch:
    """A pass over a run's stream; see `EpochStage`."""

    name = "train"

    def __init__(self, run: EpochRun[Any], number: int) -> None:
        self.run, self.number = run, number
        self.num_steps = count_steps(run.stream)
        self.optimizers = {"sums": self}  # the run's optimizer outlives the epoch
        self._sums: dict[str, Tensor | float] = {}  # over its images so far, on this process
        self._batches: Iterator[Any] | None = None
        self._batch: Any = None

    def fetch(self) -> bool:
        if self._batches is None:
            self.run.model.train()
            self._batches = iter(self.run.stream)
        self._batch = next(self._batches, None)
        return self._batch is not None

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        run = self.run
        rate = run.optimizer.param_groups[0]["lr"]
        sums = run._train_batch(self._batch, self.number, step)
        if run._by_step:
            run.schedule.step()
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        return {**run._mean_losses(sums), "learning_rate": torch.tensor(rate)}

    def finish(self) -> dict[str, Any]:
        run, sums = self.run, self.state_dict()
        result = run._result_type(
            epoch=self.number + 1,
            train_accuracy=sums["correct"] / sums["images"],
            **run._mean_losses(sums),
            **run._measure(),
        )
        run._write(result)
        if run._announce is not None:
            run._announce(result)
        if not run._by_step:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # there was no step yet, if resumed here
                run.schedule.step()
        return asdict(result)

    def state_dict(self) -> dict[str, float]:
        return self.run.ranks.sum(self._sums)

    def load_state_dict(self, state: Any, /) -> None:
        self._sums = {k: v if self.run.ranks.is_main else 0.0 for k, v in state.items()}
