"""The common part of trainings on photographs, whatever the heads are."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.images.image_table import Groups
from cgn_augment.pictures.sheets import save_figure
from train_generator.classifier.ensemble_config import (
    EnsembleConfig,
    make_optimizer,
    make_schedule,
)
from train_generator.classifier.epochs import EpochRun, Result, count_steps
from train_generator.classifier.selection import BestWeights, Select
from train_generator.metrics.groups import GroupAccuracies
from train_generator.training.stages import Stateful

RESULTS_FILE = "results.json"
CURVES_FILE = "curves.png"


class ImageRun(EpochRun[Result]):
    """A classifier of photographs in training; a subclass has its losses and its file.

    Args:
        model: on the stream's device, with `num_classes`, and `name` and `origin` of its backbone.
        stream: the stream to train on.
        config: settings.
        result_type: see `EpochRun`.
        folder: where to write everything; created if missing. None writes nothing.
        classes: names of the classes, by label; their numbers by default.
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; may change on a resume.
        log_every: steps between two readings of the losses.
        select: which epoch's weights to keep.
        test_groups: groups of the test images, in their order over all processes; results then
            have `GroupFields`.
        state: further contents of a checkpoint, by name.

    Attributes:
        best: the epoch whose weights are in the file and, after training, in the model.
    """

    config: EnsembleConfig

    def __init__(
        self,
        model: Any,
        stream: CounterfactualDataset,
        config: EnsembleConfig,
        result_type: type[Result],
        folder: Path | None,
        *,
        classes: Sequence[str] | None,
        settings: Mapping[str, Any] | None,
        save_every: int,
        log_every: int,
        select: Select,
        test_groups: Groups | None,
        state: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.best, self.test_groups = BestWeights(model, select), test_groups
        optimizer = make_optimizer(config, model)
        num_steps = count_steps(stream)  # if unknown, the rate changes per epoch
        super().__init__(
            model,
            optimizer,
            make_schedule(config, optimizer, num_steps),
            stream,
            config,
            result_type,
            folder,
            settings=settings,
            save_every=save_every,
            log_every=log_every,
            by_step=num_steps is not None,
            state={"best": self.best, **(state or {})},
        )
        self.folder = folder
        self.classes = tuple(classes or map(str, range(model.num_classes)))

    @abstractmethod
    def _find_right(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Finds the correct images, (N,) bool, by the accuracy's name in the result.

        The first accuracy is the classifier's own, which is also measured by group.
        """

    @abstractmethod
    def _save(self, result: Result, folder: Path) -> None:
        """Writes the classifier after an epoch."""

    @abstractmethod
    def _draw(self, results: Sequence[Result]) -> Figure:
        """Draws the results of the epochs."""

    def _describe(self) -> dict[str, Any]:
        """Returns facts about the classifier that its own file does not hold."""
        return {"select": self.best.select, "kept_epoch": self.best.epoch}

    def _share(self, module: nn.Module) -> nn.Module:
        """Returns the module with gradients averaged over the processes."""
        if self.ranks.num == 1:
            return module
        at = [self.stream.device] if self.stream.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=at)

    @contextmanager
    def _step(self, epoch: int, step: int) -> Iterator[torch.autocast]:
        """Seeds the global random generators for dropout, which uses only those.

        Yields:
            The context of the forward pass.
        """
        device = self.stream.device
        seed = step_seed(Purpose.TRAINING, self.stream.seed, epoch, step, self.ranks.rank)
        is_half = self.config.precision == "bf16"
        with isolated_rng(seed, device):
            yield torch.autocast(device.type, torch.bfloat16, enabled=is_half)

    def _validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields this process's part of the validation images, with a bar."""
        if self.ranks.num > 1:
            for buffer in self.model.buffers():  # each process has seen other images
                dist.broadcast(buffer, src=0)
        yield from tqdm(self._test, "validation", leave=False, disable=not self._progress)

    def _measure(self) -> dict[str, Any]:
        right = self._find_right(self._validation())
        own, groups = next(iter(right.values())), self.test_groups
        counts = {"images": len(own), **{name: int(part.sum()) for name, part in right.items()}}
        if groups is not None:
            numbers = torch.tensor(groups.numbers[self.ranks.rank :: self.ranks.num])
            for g in range(len(groups.names)):
                part = own[numbers == g]
                counts |= {f"images {g}": len(part), f"right {g}": int(part.sum())}
        found = self.ranks.sum(counts)
        if found["images"] == 0:
            raise ArgumentError("there are no validation images to measure the accuracy on")
        measured = {name: found[name] / found["images"] for name in right}
        return measured if groups is None else measured | _describe_groups(groups, found)

    def _finish(self) -> None:
        """Gives the model the weights that are kept."""
        self.best.restore()

    def _write(self, result: Result) -> None:
        is_best = self.best.offer(result)  # on every process
        if self.folder is None or not self.ranks.is_main:
            return
        results = [*self.results, result]
        if is_best:
            self._save(result, self.folder)
        self._record(results, self.folder)
        save_figure(self._draw(results), self.folder / CURVES_FILE)

    def _record(self, results: Sequence[Result], folder: Path) -> None:
        """Writes the results of the epochs."""
        record = {
            "backbone": self.model.name,
            "origin": self.model.origin,
            **self._describe(),
            "epochs": [asdict(each) for each in results],
        }
        with replacing(folder / RESULTS_FILE) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")


def _describe_groups(groups: Groups, counts: Mapping[str, float]) -> dict[str, Any]:
    """Returns `GroupFields` from the number of images of each group, and of correct ones."""
    images, right = (
        tuple(int(counts[f"{kind} {g}"]) for g in range(len(groups.names)))
        for kind in ("images", "right")
    )
    found = GroupAccuracies(groups.names, images, right, groups.train_counts)
    return {
        "worst_group_accuracy": found.worst[1],
        "adjusted_accuracy": found.adjusted_average,
        "group_accuracies": dict(zip(found.names, found.accuracies, strict=True)),
    }


def require_classes(stream: CounterfactualDataset, num_classes: int) -> None:
    """Raises unless the labels of a stream are those of a classifier.

    Args:
        stream: a stream of real images and counterfactuals.
        num_classes: classes of the classifier.

    Raises:
        ArgumentError: the labels differ.
    """
    if stream.class_map is not None:
        labels = stream.class_map.to_label(torch.tensor(stream.class_map.classes))
        if int(labels.max()) >= num_classes:
            raise ArgumentError(
                f"class_map has the label {int(labels.max())} and the classifier only the labels 0 "
                f"to {num_classes - 1}: give the labels of your images, counted from 0"
            )
        return
    drawn = getattr(stream.source, "num_classes", num_classes)
    if drawn != num_classes:
        raise ArgumentError(
            f"the CGN draws {drawn} classes and the images have {num_classes}: say with class_map "
            "which classes of the CGN show each of your labels"
        )


def group_lines(results: Sequence[Any], groups: Groups | None) -> dict[str, tuple[str, str]]:
    """Returns the accuracies for `plot_epochs` if validation images have groups."""
    if groups is None:
        return {}
    lines = {"worst_group_accuracy": ("validation, worst group", "C5")}
    if any(result.adjusted_accuracy is not None for result in results):
        lines["adjusted_accuracy"] = ("validation, adjusted average", "C6")
    return lines


def plot_epochs(
    results: Sequence[Any],
    losses: Mapping[str, tuple[str, str]],
    accuracies: Mapping[str, tuple[str, str]],
    measured: str = "validation accuracy",
    kept: int | None = None,
) -> Figure:
    """Draws losses and accuracies over the epochs.

    Args:
        results: one per epoch, with its number as `epoch`.
        losses: fields of the results, with the label and colour of each.
        accuracies: likewise; None, for a value that could not be measured, leaves a gap.
        measured: what the accuracies are.
        kept: the epoch whose weights are kept, if it is not the last.
    """
    figure = Figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [result.epoch for result in results]
    for axes, fields, scale in ((left, losses, 1), (right, accuracies, 100)):
        for name, (label, color) in fields.items():
            found = (getattr(result, name) for result in results)
            values = [math.nan if value is None else scale * value for value in found]
            axes.plot(epochs, values, marker="o", ms=3, color=color, label=label, clip_on=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(epochs) == 1:  # the axis is so short that it shows no other integer
            axes.set_xticks(epochs)
    if kept is not None:
        right.axvline(kept, color="0.5", linestyle=":", linewidth=1, label=f"kept: epoch {kept}")
    left.legend(fontsize=7)
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))  # it may be long
    highest = left.get_ylim()[1]
    left.set(xlabel="epoch", ylabel="loss in training", ylim=(0, 1.05 * highest))
    right.set(xlabel="epoch", ylabel=f"{measured} (%)", ylim=(0, 100))
    return figure
