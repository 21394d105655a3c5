"""Epochs over a stream, whatever is trained in them: Ctrl-C, checkpoints, resume, processes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line, replacing, unpickle
from train_generator.training.interrupt import Interrupt, deferred_interrupt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class EpochConfig(Protocol):
    """Settings of a run: a frozen dataclass of plain values, with a number of epochs."""

    @property
    def num_epochs(self) -> int:
        """Passes over the stream."""


Config = TypeVar("Config", bound=EpochConfig)
Result = TypeVar("Result", bound="DataclassInstance")


class EpochRun(ABC, Generic[Config, Result]):
    """A network in training, and all that its checkpoint holds; a subclass says what a step is.

    Under torch.distributed all processes go through the same steps and stop at the same one, and
    the first of them alone writes.

    Args:
        model: on the stream's device.
        optimizer: of its parameters.
        stream: what it is trained on.
        config: settings; a checkpoint of others is refused.
        result_type: dataclass of plain values that says what an epoch came to.
        checkpoint: written after each epoch, and on an interruption in the middle of one. None
            keeps nothing.
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; None writes none.
        log_every: steps between two looks at the losses.

    Attributes:
        results: one for each completed epoch.

    Raises:
        ArgumentError: a number of steps that cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stream: CounterfactualDataset,
        config: Config,
        result_type: type[Result],
        checkpoint: Path | None,
        *,
        settings: Mapping[str, Any] | None = None,
        save_every: int | None = None,
        log_every: int = 20,
    ) -> None:
        for name, every in (("save_every", save_every), ("log_every", log_every)):
            if every is not None and every < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {every}")
        self.model, self.optimizer, self.stream = model, optimizer, stream
        self.config, self.checkpoint = config, checkpoint
        self.settings = {**asdict(config), **(settings or {})}  # type: ignore[call-overload]
        self.save_every, self.log_every = save_every, log_every
        self.results: list[Result] = []
        self._result_type = result_type
        self._sums: dict[str, Tensor | float] = {}
        self._awaits_test = False
        self._resumed = False
        self._group: Any = dist.new_group(backend="gloo") if num_processes() > 1 else None

    @abstractmethod
    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        """Trains on one batch of the stream.

        Returns:
            Sums over the images of the batch by name, scalars. "loss" and "images" are among them.
        """

    @abstractmethod
    def _learning_rate(self, epoch: int, step: int) -> float:
        """Returns the learning rate of a step of an epoch, both counted from 0."""

    @abstractmethod
    def _finish_epoch(self, sums: Mapping[str, float], test: Any, progress: bool) -> Result:
        """Tests the model after an epoch, of which `sums` are the sums over all its images."""

    def _log(self, epoch: int, step: int, sums: Mapping[str, float]) -> None:
        """Takes note of the sums of one step; nothing by default."""

    def resume(self) -> None:
        """Goes on from the checkpoint.

        Raises:
            CheckpointError: it is missing, damaged or of another kind.
            CheckpointError: it is of another configuration.
        """
        path = self.checkpoint
        if path is None or not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path} to resume: start without resume")
        try:
            state: Any = unpickle(path)
            settings = dict(state["config"])
            results = [self._result_type(**result) for result in state["results"]]
        except Exception as error:
            raise CheckpointError(
                f"{path} is no checkpoint of a classifier, or is cut off: delete it and start "
                f"again ({first_line(error)})"
            ) from error
        changed = [
            name
            for name in {**settings, **self.settings}
            if settings.get(name) != self.settings.get(name)
        ]
        if changed:
            then, now = (
                ", ".join(f"{name}={values.get(name)!r}" for name in changed)
                for values in (settings, self.settings)
            )
            raise CheckpointError(
                f"{path} was trained with {then} and now {now} is asked for: resume with "
                "the settings it was started with, or write to another folder"
            )
        self.stream.load_state_dict(state["stream"])
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} holds another network than the one to be trained: start again in another "
                f"folder ({first_line(error)})"
            ) from error
        self.results = results
        # They are those of all processes together.
        self._sums = {k: v if process_rank() == 0 else 0.0 for k, v in state["sums"].items()}
        self._awaits_test = bool(state.get("awaits_test"))
        self._resumed = True

    def train(self, test: Any, *, progress: bool = True) -> list[Result]:
        """Trains the epochs that are left.

        Args:
            test: batches to test the model on after each epoch; of this process alone.
            progress: shows a bar on standard error.

        Returns:
            The results of all epochs, those before a resume too.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written.
            CheckpointError: the training has diverged.
        """
        if self.checkpoint is not None and self.checkpoint.exists() and not self._resumed:
            raise ArgumentError(
                f"{self.checkpoint} exists: resume it, or write to another folder, or delete it"
            )
        with deferred_interrupt() as interrupt:
            while len(self.results) < self.config.num_epochs:
                shown = progress and process_rank() == 0
                if self._awaits_test or self._train_epoch(interrupt, shown):
                    self._awaits_test = True
                    self._save()  # the tests may take long, and a second Ctrl-C breaks them off
                    self.results.append(self._finish_epoch(self._all_sums(), test, progress))
                    self._sums, self._awaits_test = {}, False
                self._save()
                if self._asked_of_one(interrupt):
                    raise KeyboardInterrupt
        return self.results

    def _train_epoch(self, interrupt: Interrupt, progress: bool) -> bool:
        """Trains to the end of the epoch, or to an interruption; returns whether it was the end."""
        self.model.train()
        epoch = len(self.results)
        step = self.stream.state_dict()["step"]
        bar = tqdm(
            desc=f"epoch {epoch + 1}/{self.config.num_epochs}",
            total=self._num_steps(),
            initial=step,
            disable=not progress,
        )
        with bar:
            for batch in self.stream:
                for group in self.optimizer.param_groups:
                    group["lr"] = self._learning_rate(epoch, step)
                sums = self._train_batch(batch, epoch, step)
                for name, value in sums.items():
                    self._sums[name] = self._sums.get(name, 0.0) + value.double()
                if step % self.log_every == 0:
                    self._show(bar, epoch, step, sums)
                step += 1
                bar.update()
                if self._asked_of_one(interrupt):
                    return False
                if self.save_every is not None and step % self.save_every == 0:
                    self._save()
        return True

    def _num_steps(self) -> int | None:
        """Returns the steps of an epoch, or None where the stream does not know them."""
        try:
            return len(self.stream)
        except TypeError:
            return None

    def _show(self, bar: tqdm[Any], epoch: int, step: int, sums: Mapping[str, Tensor]) -> None:
        values = {name: float(value) for name, value in sums.items()}
        self._require_finite(values)
        bar.set_postfix_str(f"loss {values['loss'] / values['images']:.3f}", refresh=False)
        self._log(epoch, step, values)

    def _require_finite(self, values: Mapping[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise CheckpointError(
                f"{', '.join(broken)} of epoch {len(self.results) + 1} is not finite: the training "
                "has diverged. The last checkpoint is of before; lower the learning rate and start "
                "again in another folder"
            )

    def _asked_of_one(self, interrupt: Interrupt) -> bool:
        """Whether Ctrl-C has reached one of the processes, so that all stop at the same step."""
        return self._sum_over_processes({"asked": float(interrupt.requested)})["asked"] > 0

    def _all_sums(self) -> dict[str, float]:
        return self._sum_over_processes({name: float(v) for name, v in self._sums.items()})

    def _sum_over_processes(self, values: dict[str, float]) -> dict[str, float]:
        if self._group is None:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return dict(zip(values, total.tolist(), strict=True))

    def _save(self) -> None:
        sums = self._all_sums()
        self._require_finite(sums)
        if self.checkpoint is None or process_rank() > 0:
            return
        state = {
            "config": self.settings,
            "stream": self.stream.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "results": [asdict(result) for result in self.results],
            "sums": sums,
            "awaits_test": self._awaits_test,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)


def num_processes() -> int:
    """Returns how many processes train together under torch.distributed; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Returns which of them this is; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
