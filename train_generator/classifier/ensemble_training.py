"""Trains the invariant ensemble on real images and counterfactuals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError
from cgn_augment.images.image_table import Groups
from cgn_augment.stream.batches import find_layout
from cgn_augment.types import FACTORS
from train_generator.classifier.ensemble import HeadLogits, InvariantEnsemble, save_ensemble
from train_generator.classifier.ensemble_config import (
    BatchNormPolicy,
    EnsembleConfig,
    EnsembleGroupResult,
    EnsembleResult,
)
from train_generator.classifier.ensemble_losses import ensemble_loss, find_correct, forward_parts
from train_generator.classifier.image_training import (
    ImageRun,
    group_lines,
    plot_epochs,
    require_classes,
)
from train_generator.classifier.peers import PeerConfig, require_groups
from train_generator.classifier.selection import Select
from train_generator.training.stages import descend

CLASSIFIER_FILE = "classifier.safetensors"


def draw_curves(
    results: Sequence[EnsembleResult], groups: Groups | None = None, kept: int | None = None
) -> Figure:
    """Draws losses and validation accuracies over the epochs; see `plot_epochs`."""
    heads = [(f"{name}_", name, f"C{color}") for color, name in enumerate(FACTORS, 1)]
    losses = [("real_", "real", "C0"), *heads]
    average = [("", "average", "C0"), ("background_free_", "background free", "C4")]
    accuracies = {f"{name}accuracy": (label, color) for name, label, color in [*average, *heads]}
    return plot_epochs(
        results,
        {f"{name}loss": (label, color) for name, label, color in losses},
        accuracies | group_lines(results, groups),
        kept=kept,
    )


class EnsembleRun(ImageRun[EnsembleResult]):
    """An ensemble in training.

    The folder gets `classifier.safetensors` (`load_ensemble` reads it), `results.json` and
    `curves.png` after each epoch, and what the `Trainer` writes; `checkpoint.pt` after each epoch,
    at every `save_every` steps and on Ctrl-C. Under torch.distributed each process trains on its
    part of the stream, and the first one writes. A resumed training goes on bit for bit.

    Args:
        model: on the stream's device.
        stream: with `mix="separate"` and `label="all"`.
        config: settings.
        folder: where everything is written; made if it is missing. None keeps nothing.
        classes: names of the classes, by label; their numbers by default.
        select: which epoch's weights are kept, by the average's accuracy.
        test_groups: of the images that it is tested on, in their order on all processes together;
            epochs then end with an `EnsembleGroupResult`.
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; may change on a resume.
        log_every: steps between two looks at the losses.

    Attributes:
        results: one `EnsembleResult` or `EnsembleGroupResult` for each completed epoch.
        best: the epoch whose weights are in the file, and, once trained, in the model.

    Raises:
        ArgumentError: a stream of another kind, or whose labels are not those of the ensemble;
            a choice by groups that are not known.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.classifier import EnsembleConfig, EnsembleRun, make_ensemble
        >>> digits = TensorDataset(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8))
        >>> source = SmallCGN(width=4).freeze()
        >>> options = {"batch_size": 4, "mix": "separate", "label": "all"}
        >>> stream = CounterfactualDataset(digits, source, **options)
        >>> model = make_ensemble("shufflenet_v2_x0_5", num_classes=10, pretrained=False)
        >>> run = EnsembleRun(model, stream, EnsembleConfig(num_epochs=1))
        >>> [result] = run.train([digits[:]], progress=False)
        >>> 0 <= result.background_free_accuracy <= 1
        True
    """

    model: InvariantEnsemble

    def __init__(
        self,
        model: InvariantEnsemble,
        stream: CounterfactualDataset,
        config: EnsembleConfig | None = None,
        folder: Path | None = None,
        *,
        classes: Sequence[str] | None = None,
        select: Select = "last",
        test_groups: Groups | None = None,
        settings: Mapping[str, Any] | None = None,
        save_every: int = 500,
        log_every: int = 20,
    ) -> None:
        require_fitting(stream, model.num_classes)
        require_groups(PeerConfig(select=select), None, test_groups)
        super().__init__(
            model,
            stream,
            config or EnsembleConfig(),
            EnsembleResult if test_groups is None else EnsembleGroupResult,
            folder,
            classes=classes,
            settings={**(settings or {}), "select": select},
            save_every=save_every,
            log_every=log_every,
            select=select,
            test_groups=test_groups,
        )
        self._parts = self._share(_TwoParts(model, self.config.batch_norm))

    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        (real, labels), (made, made_labels) = (
            find_layout(part, self.stream.keys).take(part) for part in batch
        )
        labels = labels[:, 0]  # a real image shows its class in all three factors
        with self._step(epoch, step) as precision:
            with precision:
                real_logits, made_logits = self._parts(real, made)
            losses = ensemble_loss(real_logits, labels, made_logits, made_labels)
            descend(None, self.optimizer, losses.total())
        correct = (real_logits.average().argmax(dim=1) == labels).sum()
        return {
            "loss": losses.total().detach() * len(real),
            "images": torch.tensor(len(real)),
            "made images": torch.tensor(len(made)),
            "correct": correct,
            "real": losses.real.detach() * len(real),
            **{name: getattr(losses, name).detach() * len(made) for name in FACTORS},
        }

    def _mean_losses(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the losses as means over images; `loss` is the sum of the other four."""
        real = sums["real"] / sums["images"]
        heads = {f"{name}_loss": sums[name] / max(sums["made images"], 1) for name in FACTORS}
        return {"loss": real + sum(heads.values()), "real_loss": real, **heads}

    def _find_right(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        right = find_correct(self.model, batches)
        own = right.pop("average")
        return {"accuracy": own, **{f"{name}_accuracy": part for name, part in right.items()}}

    def _save(self, result: EnsembleResult, folder: Path) -> None:
        save_ensemble(
            self.model,
            folder / CLASSIFIER_FILE,
            classes=self.classes,
            **asdict(self.model.preprocessing),
            settings=self.settings,
            result=asdict(result),
        )

    def _draw(self, results: Sequence[EnsembleResult]) -> Figure:
        kept = None if self.best.select == "last" else self.best.epoch
        return draw_curves(results, self.test_groups, kept)


class _TwoParts(nn.Module):
    """A step's forward passes in one module, which is what DistributedDataParallel needs."""

    def __init__(self, model: InvariantEnsemble, policy: BatchNormPolicy) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(self, real: Tensor, made: Tensor) -> tuple[HeadLogits, HeadLogits]:
        return forward_parts(self.model, real, made, self.policy)


def require_fitting(stream: CounterfactualDataset, num_classes: int) -> None:
    """Raises unless a stream's batches are those that an ensemble is trained on.

    Args:
        stream: of real images and counterfactuals.
        num_classes: of the ensemble.

    Raises:
        ArgumentError: its labels are others.
    """
    if stream.mix != "separate" or stream.label != "all":
        raise ArgumentError(
            "an ensemble is trained on a stream with mix='separate' and label='all', got "
            f"mix={stream.mix!r} and label={stream.label!r}"
        )
    require_classes(stream, num_classes)
