"""Runs the stages of a training: progress, curves, pictures, checkpoints, resume.

A stage only knows what a step does; the trainer knows nothing about losses. Each step draws from a
generator that is a function of (seed, stage, step). So a checkpoint needs no random state, and a
resumed training continues bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cgn_augment.checks import require_count, require_counts
from cgn_augment.errors import CheckpointError
from cgn_augment.files import owning, owning_file
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.generators.tensors import require_finite, save_pickle
from cgn_augment.pictures.sheets import save_figure
from train_generator.training.checkpoints import (
    CHECKPOINT,
    Place,
    check_folder,
    loading,
    read_checkpoint,
)
from train_generator.training.interrupt import deferred_interrupt
from train_generator.training.measures import LOSSES, MEASURES, Curves
from train_generator.training.ranks import Ranks
from train_generator.training.stages import EpochStage, Stage, Stateful, StepAbandonedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CHECKPOINT", "Stage", "Trainer", "check_folder"]


class Trainer:
    """Runs the stages of a training one after the other; can be interrupted at any time.

    The folder gets `checkpoint.pt`, `train.jsonl` with the losses, TensorBoard's event file if it
    is installed, and a sheet every `sheet_every` steps. Ctrl-C finishes the current step, writes
    the checkpoint and raises `KeyboardInterrupt`. With several processes all take every step, and
    only the first one writes; all must see the folder.

    Args:
        folder: where to write everything; created if missing. None writes nothing.
        modules: by name, every network that a checkpoint must hold.
        stages: by name, a function that makes a stage. It is called when the stage begins, or when
            a training is resumed in it, and may then depend only on the settings and on modules
            that the stage does not change.
        settings: plain values; a checkpoint with other settings is refused.
        seed: seed of every draw.
        draw: makes a sheet of samples; None draws nothing.
        resume: continues the training in the folder.
        save_every: steps between checkpoints within a stage; None writes none.
        sheet_every: steps between sheets.
        log_every: steps between two readings of the losses.
        measure: returns measures by name, on all processes; they go to `metrics.jsonl` and
            TensorBoard. None measures nothing.
        measure_every: steps between two measurements, the first before the first step.
        ranks: the processes that train together; by default only this one.
        state: by name, further state that a checkpoint must hold beyond the end of a stage.
        checkpoint: a file for the checkpoint alone, if there is no folder.

    Attributes:
        seconds: duration of the steps so far, including those before a resume.
        results: the result of each `EpochStage` that is done.

    Raises:
        ArgumentError: a number of steps cannot be used.
        CheckpointError: `resume` is on, but there is nothing to resume, it is damaged, or it
            belongs to other settings.

    Examples:
        >>> import torch
        >>> from train_generator.training.stages import descend
        >>> from train_generator.training.trainer import Trainer
        >>> class Line:
        ...     name, num_steps = "line", 3
        ...     def __init__(self, layer):
        ...         self.layer = layer
        ...         self.optimizers = {"layer": torch.optim.SGD(layer.parameters(), lr=0.1)}
        ...     def step(self, step, generator):
        ...         loss = self.layer(torch.randn(4, 1, generator=generator)).square().mean()
        ...         descend(None, self.optimizers["layer"], loss)
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
        folder: Path | None,
        modules: Mapping[str, nn.Module],
        stages: Mapping[str, Callable[[], Stage]],
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        draw: Callable[[], Figure] | None = None,
        resume: bool = False,
        save_every: int | None = 200,
        sheet_every: int = 500,
        log_every: int = 20,
        measure: Callable[[], Mapping[str, float]] | None = None,
        measure_every: int = 500,
        ranks: Ranks | None = None,
        state: Mapping[str, Stateful] | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.folder, self.modules, self.stages = folder, modules, stages
        self.settings, self.seed, self.draw = dict(settings), seed, draw
        self.save_every, self.sheet_every, self.log_every = save_every, sheet_every, log_every
        self.measure, self.measure_every = measure, measure_every
        require_counts(self, "sheet_every", "log_every", "measure_every")
        if save_every is not None:
            require_count("save_every", save_every)
        self.ranks = ranks or Ranks(alone=True)
        self.checkpoint = checkpoint or (None if folder is None else folder / CHECKPOINT)
        self.seconds = 0.0
        self.results: list[dict[str, Any]] = []
        self._state = state or {}
        self._interrupt = Event()
        self._position = (0, 0)  # the stage, and the step in it, that come next
        self._at_end = False  # whether all steps of the stage are taken
        self._steps_before = 0  # over all stages, for the curves
        self._optimizers: dict[str, Any] = {}
        self._begun = False
        if resume:
            self.resume()

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        return self._position[0] >= len(self.stages)

    def resume(self) -> None:
        """Continues from the checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or belongs to other settings or networks.
        """
        if self.checkpoint is None:
            raise CheckpointError("this training keeps no checkpoint to resume: give it a folder")
        check_folder(self.checkpoint.parent, True, self.checkpoint.name)
        self._load(self.checkpoint)
        self._begun = True

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Keeps other trainings out of the folder until the block ends; blocks may be nested.

        Raises:
            ArgumentError: there is a checkpoint that was not resumed.
            UsageError: another process trains in the folder.
        """
        with ExitStack() as stack:
            self._check_folder()
            if self.checkpoint is not None and self.ranks.is_main:
                alone = self.folder is None  # a checkpoint in a folder that several may fill
                place = self.checkpoint if alone else self.checkpoint.parent
                stack.enter_context((owning_file if alone else owning)(place))
            self._check_folder()  # again, since another training may have ended just now
            self._begun = True
            yield

    def _check_folder(self) -> None:
        if not self._begun and self.checkpoint is not None:
            check_folder(self.checkpoint.parent, False, self.checkpoint.name)

    def train(self, *, progress: bool = True) -> None:
        """Takes all remaining steps.

        Args:
            progress: shows a bar with the losses on standard error.

        Raises:
            ArgumentError: there is a checkpoint that was not resumed.
            CheckpointError: the training has diverged; the last checkpoint stays.
            FileError: the disk is full; the last checkpoint stays.
            UsageError: another process trains in the folder.
            KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written.
        """
        if self.finished:
            return
        folder = self.folder if self.ranks.is_main else None
        with (
            self.owning(),
            deferred_interrupt() as interrupt,
            closing(Curves(folder, self._steps_before)) as curves,
        ):
            self._interrupt = interrupt
            while not self.finished:
                self._train_stage(curves, progress and self.ranks.is_main)

    def stops(self) -> bool:
        """Returns whether any process got Ctrl-C; all must call this at the same point."""
        return self.ranks.any(self._interrupt.is_set())

    def _train_stage(self, curves: Curves, progress: bool) -> None:
        number = self._position[0]
        stage = list(self.stages.values())[number]()
        with loading(self.checkpoint):
            for name, state in self._optimizers.items():
                stage.optimizers[name].load_state_dict(state)
        self._optimizers = {}
        if not self._at_end:
            self._take_steps(stage, curves, progress)
        if isinstance(stage, EpochStage):
            self._at_end = True
            self._save(stage)  # the end may take long, and a second Ctrl-C interrupts it
            self.results.append(dict(stage.finish()))
            curves.add(MEASURES, self._steps_before, self.results[-1])
        self._position, self._at_end = (number + 1, 0), False
        if self.finished:
            self._measure(curves)
        self._save(None)
        self._draw(curves)
        if isinstance(stage, EpochStage) and self.stops():
            raise self._interrupted()

    def _take_steps(self, stage: Stage, curves: Curves, progress: bool) -> None:
        number, step = self._position
        label = f"{number + 1}/{len(self.stages)} {stage.name}"
        losses: Mapping[str, Tensor] | None = None  # not read yet
        with tqdm(desc=label, total=stage.num_steps, initial=step, disable=not progress) as bar:
            while _has_step(stage, step):
                if self._steps_before % self.measure_every == 0:
                    self._measure(curves)
                losses = self._step(stage, number, step)
                stop = self.stops()  # called once, since Ctrl-C may come at any time
                saves = stop or (self.save_every and (step + 1) % self.save_every == 0)
                if saves or step % self.log_every == 0:
                    self._log(curves, bar, stage, losses)
                    losses = None
                bar.update()
                step += 1
                if saves:
                    self._save(stage)
                if stop:
                    raise self._interrupted()
                if step % self.sheet_every == 0:
                    self._draw(curves)
            if losses is not None:
                self._log(curves, bar, stage, losses)

    def _step(self, stage: Stage, number: int, step: int) -> Mapping[str, Tensor]:
        seed = step_seed(Purpose.TRAINING, self.seed, number, step)
        device = next(next(iter(self.modules.values())).parameters()).device
        start = time.perf_counter()
        try:
            with isolated_rng(seed, device):
                losses = stage.step(step, torch.Generator().manual_seed(seed))
        except StepAbandonedError:
            self._save(stage)
            raise self._interrupted() from None
        self.seconds += time.perf_counter() - start
        self._steps_before += 1
        self._position = (number, step + 1)
        return losses

    def _interrupted(self) -> KeyboardInterrupt:
        return KeyboardInterrupt(
            "the same command with --resume goes on" if self.checkpoint else ""
        )

    def _log(
        self,
        curves: Curves,
        bar: tqdm[Any],
        stage: Stage,
        losses: Mapping[str, Tensor],
    ) -> None:
        values = self.ranks.mean(losses)
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise self._diverged(f"the losses {broken} of stage {stage.name} are not finite")
        named = {f"{stage.name}/{name}": value for name, value in values.items()}
        curves.add(LOSSES, self._steps_before, named)
        bar.set_postfix_str(" ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def _measure(self, curves: Curves) -> None:
        """Measures, unless that was done at this step before."""
        step = self._steps_before
        if self.measure is not None and not self.ranks.any(curves.is_measured(step)):
            curves.add(MEASURES, step, self.measure())

    def _draw(self, curves: Curves) -> None:
        if self.draw is not None and curves.folder is not None:
            folder = curves.folder / "sheets"
            folder.mkdir(exist_ok=True)
            figure = self.draw()
            save_figure(figure, folder / f"{self._steps_before:07}.png")
            curves.add_sheet(self._steps_before, figure)

    def _diverged(self, what: str) -> CheckpointError:
        kept = self.checkpoint is not None and self.checkpoint.is_file()
        last = f"The last good checkpoint is {self.checkpoint}; " if kept else ""
        return CheckpointError(
            f"{what} after step {self._steps_before}: the training has diverged. {last}lower the "
            "learning rate and start again in another folder"
        )

    def _require_finite(self) -> None:
        """Raises instead of overwriting good weights with NaN."""
        broken = [
            f"{name}.{key}"
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
            if value.is_floating_point() and not torch.isfinite(value).all()
        ]
        if self.ranks.any(bool(broken)):
            where = ", ".join(broken[:3]) or "of another process"
            raise self._diverged(f"the weights {where} hold NaN or infinity")

    def _save(self, stage: Stage | None) -> None:
        self._require_finite()
        if self.checkpoint is None:
            return
        optimizers: Mapping[str, Any] = {} if stage is None else stage.optimizers
        state = {
            "settings": self.settings,
            "stages": list(self.stages),
            "position": self._position,
            "at_end": self._at_end,
            "steps_before": self._steps_before,
            "seconds": self.seconds,
            "results": self.results,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "state": {name: value.state_dict() for name, value in self._state.items()},
            "optimizers": {name: value.state_dict() for name, value in optimizers.items()},
        }
        if self.ranks.is_main:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            save_pickle(state, self.checkpoint)
        self.ranks.wait()

    def _load(self, path: Path) -> None:
        state = read_checkpoint(path, self.settings, self.stages)
        with loading(path):
            place = Place.read(state, len(self.stages))
            for name in self.modules:
                require_finite(state["modules"][name], path)
            for kind, things in (("modules", self.modules), ("state", self._state)):
                for name, thing in things.items():
                    thing.load_state_dict(state[kind][name])
            self._optimizers = dict(state["optimizers"])
        self._position, self._at_end = place.position, place.at_end
        self._steps_before, self.seconds = place.steps_before, place.seconds
        self.results = list(place.results)


def _has_step(stage: Stage, step: int) -> bool:
    return stage.fetch() if isinstance(stage, EpochStage) else step < (stage.num_steps or 0)
