"""Runs the stages of a training: progress, TensorBoard, pictures, checkpoints, resume.

A stage knows what a step does and nothing of the rest; the trainer knows nothing of losses. Every
step draws from a generator that is a function of (seed, stage, step), so a checkpoint needs no
random state, and a resumed training goes on bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line, replacing, unpickle
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.pictures.sheets import save_figure
from train_generator.training.checkpoints import CHECKPOINT, check_folder, differences
from train_generator.training.interrupt import Interrupt, deferred_interrupt
from train_generator.training.measures import MEASURES, read_measures, write_measures
from train_generator.training.ranks import Ranks
from train_generator.training.stages import Stage, StepAbandonedError, descend

__all__ = [
    "CHECKPOINT",
    "Stage",
    "StepAbandonedError",
    "Trainer",
    "check_folder",
    "descend",
]


class Trainer:
    """Takes the stages of a training one after the other, and can be interrupted at any time.

    The folder gets `checkpoint.pt`, TensorBoard's event file, and a sheet at every `sheet_every`
    steps. Ctrl-C ends the step under way, writes the checkpoint and raises `KeyboardInterrupt`.
    Of several processes all take every step, and the first one alone writes; the folder must be one
    that all of them see.

    Args:
        folder: where everything is written; made if it is missing.
        modules: by name, every network that a checkpoint must hold.
        stages: by name, what makes a stage. It is called when the stage begins, or when a training
            is resumed in it, and must then depend only on the settings and on modules that the
            stage leaves as they are.
        settings: plain values; a checkpoint of other settings is refused.
        seed: of everything that is drawn.
        draw: makes a sheet of samples; None draws nothing.
        save_every: steps between checkpoints.
        sheet_every: steps between sheets.
        log_every: steps between two entries in TensorBoard.
        measure: returns what is measured by name, on all processes; it goes to `metrics.jsonl` and
            TensorBoard. None measures nothing.
        measure_every: steps between two measurements, the first before the first step.
        ranks: the processes that train together; one by default.

    Attributes:
        seconds: that the steps took so far, those before a resume too.

    Raises:
        ArgumentError: the folder holds a checkpoint and `resume` was not asked for; or a number of
            steps that cannot be used.

    Example:
        >>> import torch
        >>> from train_generator.training.trainer import Trainer
        >>> class Line:
        ...     name, num_steps = "line", 3
        ...     def __init__(self, layer):
        ...         self.layer = layer
        ...         self.optimizers = {"layer": torch.optim.SGD(layer.parameters(), lr=0.1)}
        ...     def step(self, step, generator):
        ...         loss = self.layer(torch.randn(4, 1, generator=generator)).square().mean()
        ...         self.optimizers["layer"].zero_grad()
        ...         loss.backward()
        ...         self.optimizers["layer"].step()
        ...         return {"loss": loss.detach()}
        >>> layer = torch.nn.Linear(1, 1)
        >>> folder = getfixture("tmp_path")
        >>> trainer = Trainer(folder, {"layer": layer}, {"line": lambda: Line(layer)}, {})
        >>> trainer.train(progress=False)
        >>> trainer.finished
        True
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, nn.Module],
        stages: Mapping[str, Callable[[], Stage]],
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        draw: Callable[[], Figure] | None = None,
        resume: bool = False,
        save_every: int = 200,
        sheet_every: int = 500,
        log_every: int = 20,
        measure: Callable[[], Mapping[str, float]] | None = None,
        measure_every: int = 500,
        ranks: Ranks | None = None,
    ) -> None:
        for name, every in (
            ("save_every", save_every),
            ("sheet_every", sheet_every),
            ("log_every", log_every),
            ("measure_every", measure_every),
        ):
            if every < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {every}")
        self.folder, self.modules, self.stages = folder, modules, stages
        self.settings, self.seed, self.draw = dict(settings), seed, draw
        self.save_every, self.sheet_every, self.log_every = save_every, sheet_every, log_every
        self.measure, self.measure_every, self.ranks = measure, measure_every, ranks or Ranks()
        self.seconds = 0.0
        self._interrupt: Interrupt | None = None
        self._position = (0, 0)  # the stage and the step in it that come next
        self._steps_before = 0  # of all stages, for TensorBoard
        self._optimizers: dict[str, Any] = {}
        check_folder(folder, resume)
        if resume:
            self._load()

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is."""
        return self.folder / CHECKPOINT

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        return self._position[0] >= len(self.stages)

    def train(self, *, progress: bool = True) -> None:
        """Takes all steps that are left.

        Args:
            progress: shows a bar with the losses on standard error.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written.
        """
        if self.finished:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with deferred_interrupt() as interrupt, self._write_events() as writer:
            self._interrupt = interrupt
            while not self.finished:
                self._train_stage(writer, progress and self.ranks.is_main)
        self._interrupt = None

    def stops(self) -> bool:
        """Returns whether Ctrl-C was pressed, on any process; all ask at the same place."""
        return self.ranks.any(self._interrupt is not None and self._interrupt.requested)

    def _write_events(self) -> AbstractContextManager[SummaryWriter | None]:
        if not self.ranks.is_main:
            return nullcontext()
        writer: AbstractContextManager[SummaryWriter] = SummaryWriter(
            str(self.folder), purge_step=self._steps_before + 1
        )
        return writer

    def _train_stage(self, writer: SummaryWriter | None, progress: bool) -> None:
        number, first = self._position
        stage = list(self.stages.values())[number]()
        for name, state in self._optimizers.items():
            stage.optimizers[name].load_state_dict(state)
        self._optimizers = {}
        label = f"{number + 1}/{len(self.stages)} {stage.name}"
        with tqdm(desc=label, total=stage.num_steps, initial=first, disable=not progress) as bar:
            for step in range(first, stage.num_steps):
                if self._steps_before % self.measure_every == 0:
                    self._measure(writer)
                start = time.perf_counter()
                try:
                    losses = self._step(stage, number, step)
                except StepAbandonedError:
                    self._save(stage.optimizers)
                    raise KeyboardInterrupt from None
                self.seconds += time.perf_counter() - start
                self._steps_before += 1
                self._position = (number, step + 1)
                stop = self.stops()  # asked once: Ctrl-C comes at any time
                saves = stop or (step + 1) % self.save_every == 0
                if saves or step % self.log_every == 0 or step + 1 == stage.num_steps:
                    self._log(writer, bar, stage.name, losses)
                bar.update()
                if saves:
                    self._save(stage.optimizers)
                if stop:
                    raise KeyboardInterrupt("the same command with --resume goes on")
                if (step + 1) % self.sheet_every == 0:
                    self._draw(writer)
        self._position = (number + 1, 0)
        if self.finished:
            self._measure(writer)
        self._save({})
        self._draw(writer)

    def _step(self, stage: Stage, number: int, step: int) -> dict[str, Tensor]:
        seed = step_seed(Purpose.TRAINING, self.seed, number, step)
        device = next(next(iter(self.modules.values())).parameters()).device
        with isolated_rng(seed, device):
            return stage.step(step, torch.Generator().manual_seed(seed))

    def _log(
        self, writer: SummaryWriter | None, bar: tqdm[Any], stage: str, losses: Mapping[str, Tensor]
    ) -> None:
        values = self.ranks.mean(losses)
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise CheckpointError(
                f"the losses {broken} of stage {stage} are not finite: the training has "
                f"diverged. The last checkpoint is in {self.folder}; lower the learning rate and "
                "start again in another folder"
            )
        if writer is not None:
            for name, value in values.items():
                writer.add_scalar(f"{stage}/{name}", value, self._steps_before)
            writer.flush()  # so that a kill loses no entry that a checkpoint is past
        bar.set_postfix_str(" ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def _measure(self, writer: SummaryWriter | None) -> None:
        """Measures, unless that was done after as many steps already."""
        path, step = self.folder / MEASURES, self._steps_before
        if self.measure is None or self.ranks.any(_is_measured(path, step)):
            return
        values = self.measure()
        if writer is not None:
            write_measures(path, step, values)
            for name, value in values.items():
                writer.add_scalar(f"metrics/{name}", value, step)
            writer.flush()

    def _draw(self, writer: SummaryWriter | None) -> None:
        if self.draw is not None and writer is not None:
            folder = self.folder / "sheets"
            folder.mkdir(exist_ok=True)
            figure = self.draw()
            save_figure(figure, folder / f"{self._steps_before:07}.png")
            writer.add_figure("samples", figure, self._steps_before)

    def _save(self, optimizers: Mapping[str, Any]) -> None:
        state = {
            "settings": self.settings,
            "stages": list(self.stages),
            "position": self._position,
            "steps_before": self._steps_before,
            "seconds": self.seconds,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: value.state_dict() for name, value in optimizers.items()},
        }
        if self.ranks.is_main:
            with replacing(self.checkpoint) as temporary:
                torch.save(state, temporary)
        self.ranks.wait()

    def _load(self) -> None:
        try:
            state: Any = unpickle(self.checkpoint)
            settings, stages = state["settings"], state["stages"]
        except Exception as error:
            raise CheckpointError(
                f"{self.checkpoint} is no checkpoint of a training, or is cut off: start again in "
                f"another folder ({first_line(error)})"
            ) from error
        changed = differences(settings, self.settings)
        if changed or stages != list(self.stages):
            raise CheckpointError(
                f"{self.checkpoint} was made with other settings ({', '.join(changed)}): resume "
                "with those it was started with, or write to another folder"
            )
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.checkpoint} holds other networks than this version trains: start again in "
                f"another folder ({first_line(error)})"
            ) from error
        self._position = tuple(state["position"])
        self._steps_before, self.seconds = state["steps_before"], state["seconds"]
        self._optimizers = state["optimizers"]


def _is_measured(path: Path, step: int) -> bool:
    """Whether the last line of the measures is that of a step."""
    lines = read_measures(path)
    return bool(lines) and lines[-1]["step"] == step
