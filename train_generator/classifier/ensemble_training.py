"""Trains the invariant ensemble on real images and counterfactuals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from cgn_augment.pictures.sheets import save_figure
from cgn_augment.stream.batches import find_layout
from cgn_augment.types import FACTORS
from train_generator.classifier.ensemble import HeadLogits, InvariantEnsemble, save_ensemble
from train_generator.classifier.ensemble_config import (
    BatchNormPolicy,
    EnsembleConfig,
    EnsembleResult,
    make_schedule,
)
from train_generator.classifier.ensemble_losses import count_correct, ensemble_loss, forward_parts
from train_generator.classifier.epochs import EpochRun, count_steps
from train_generator.training.stages import descend

CLASSIFIER_FILE = "classifier.safetensors"
RESULTS_FILE = "results.json"
CURVES_FILE = "curves.png"


def draw_curves(results: Sequence[EnsembleResult]) -> Figure:
    """Draws losses and validation accuracies over the epochs."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [result.epoch for result in results]
    heads = [f"{name}_" for name in FACTORS]
    for axes, names, colors, suffix, scale in (
        (losses, ["real_", *heads], "0123", "loss", 1),
        (accuracies, ["", "background_free_", *heads], "04123", "accuracy", 100),
    ):
        for name, color in zip(names, colors, strict=True):
            values = [scale * getattr(result, f"{name}{suffix}") for result in results]
            label = name.replace("_", " ").strip() or "average"
            axes.plot(epochs, values, marker="o", ms=3, color=f"C{color}", label=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)
    losses.set(xlabel="epoch", ylabel="loss in training", ylim=(0, None))
    accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 100))
    return figure


class EnsembleRun(EpochRun[EnsembleResult]):
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
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; may change on a resume.
        log_every: steps between two looks at the losses.

    Attributes:
        results: one `EnsembleResult` for each completed epoch.

    Raises:
        ArgumentError: a stream of another kind, or whose labels are not those of the ensemble.

    Example:
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
        settings: Mapping[str, Any] | None = None,
        save_every: int = 500,
        log_every: int = 20,
    ) -> None:
        config = config or EnsembleConfig()
        require_fitting(stream, model.num_classes)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        num_steps = count_steps(stream)  # the rate changes from epoch to epoch if it is unknown
        super().__init__(
            model,
            optimizer,
            make_schedule(config, optimizer, num_steps),
            stream,
            config,
            EnsembleResult,
            folder,
            settings=settings,
            save_every=save_every,
            log_every=log_every,
            by_step=num_steps is not None,
        )
        self.folder = folder
        self.classes = tuple(classes or map(str, range(model.num_classes)))
        self._parts: nn.Module = _TwoParts(model, config.batch_norm)
        if self.ranks.num > 1:
            at = [stream.device] if stream.device.type == "cuda" else None
            self._parts = DistributedDataParallel(self._parts, device_ids=at)

    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        (real, labels), (made, made_labels) = (
            find_layout(part, self.stream.keys).take(part) for part in batch
        )
        labels = labels[:, 0]  # a real image shows its class in all three factors
        device = self.stream.device
        seed = step_seed(Purpose.TRAINING, self.stream.seed, epoch, step, self.ranks.rank)
        is_half = self.config.precision == "bf16"
        with isolated_rng(seed, device):  # for dropout, which knows the global generators alone
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
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

    def _measure(self) -> dict[str, float]:
        if self.ranks.num > 1:
            for buffer in self.model.buffers():  # each process has seen other images
                dist.broadcast(buffer, src=0)
        bar = tqdm(self._test, "validation", leave=False, disable=not self._progress)
        right = self.ranks.sum(count_correct(self.model, bar))
        num = right.pop("images")
        if num == 0:
            raise ArgumentError("there are no validation images to measure the accuracy on")
        right[""] = right.pop("average")
        return {f"{name}_accuracy".strip("_"): value / num for name, value in right.items()}

    def _write(self, result: EnsembleResult) -> None:
        if self.folder is None or not self.ranks.is_main:
            return
        results = [*self.results, result]
        save_ensemble(
            self.model,
            self.folder / CLASSIFIER_FILE,
            classes=self.classes,
            **asdict(self.model.preprocessing),
            settings=self.settings,
            result=asdict(result),
        )
        record = {
            "backbone": self.model.name,
            "origin": self.model.origin,
            "epochs": [asdict(each) for each in results],
        }
        with replacing(self.folder / RESULTS_FILE) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")
        save_figure(draw_curves(results), self.folder / CURVES_FILE)


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
    if stream.class_map is not None:
        labels = stream.class_map.to_label(torch.tensor(stream.class_map.classes))
        if int(labels.max()) >= num_classes:
            raise ArgumentError(
                f"class_map has the label {int(labels.max())} and the ensemble only the labels 0 "
                f"to {num_classes - 1}: give the labels of your images, counted from 0"
            )
        return
    drawn = getattr(stream.source, "num_classes", num_classes)
    if drawn != num_classes:
        raise ArgumentError(
            f"the CGN draws {drawn} classes and the images have {num_classes}: say with class_map "
            "which classes of the CGN show each of your labels"
        )
