"""Trains the invariant ensemble on real images and counterfactuals.

After Sauer and Geiger, ICLR 2021, section 4.2: real images train the average of the three heads on
their class, counterfactuals train each head on the class of its factor, and the losses are summed.
Published: SGD at learning rate 0.001 with momentum 0.9, 45 epochs, BatchNorm in eval mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
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
    learning_rate_at,
)
from train_generator.classifier.epochs import EpochRun, num_processes, process_rank
from train_generator.training.precision import warn_of_slow_precision
from train_generator.training.trainer import CHECKPOINT

CLASSIFIER_FILE = "classifier.safetensors"
RESULTS_FILE = "results.json"
CURVES_FILE = "curves.png"

_COLORS = {
    "real": "C0",
    "average": "C0",
    "shape": "C1",
    "texture": "C2",
    "background": "C3",
    "background free": "C4",
}


class EnsembleLosses(NamedTuple):
    """The losses of a step, scalars.

    Attributes:
        real: of the average of the heads, on real images.
        shape: of the shape head, on counterfactuals; 0 where there are none.
        texture: of the texture head.
        background: of the background head.
    """

    real: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor

    def total(self) -> Tensor:
        """Returns the sum."""
        return self.real + self.shape + self.texture + self.background


def ensemble_loss(
    real_logits: HeadLogits, real_labels: Tensor, cf_logits: HeadLogits, cf_labels: Tensor
) -> EnsembleLosses:
    """Returns the mean cross-entropies of a step (paper, section 4.2).

    Args:
        real_logits: of real images, each head (B, C) float32.
        real_labels: (B,) int64.
        cf_logits: of counterfactuals, each head (N, C) float32; N may be 0.
        cf_labels: (N, 3) int64 labels of shape, texture and background.

    Example:
        >>> import torch
        >>> from train_generator.classifier import HeadLogits, ensemble_loss
        >>> even = HeadLogits(*torch.zeros(3, 2, 4))
        >>> losses = ensemble_loss(even, torch.tensor([0, 1]), even, torch.zeros(2, 3).long())
        >>> round(losses.total().item(), 4), round(4 * torch.log(torch.tensor(4.0)).item(), 4)
        (5.5452, 5.5452)
    """
    real = F.cross_entropy(real_logits.average(), real_labels)
    if len(cf_labels) == 0:
        return EnsembleLosses(real, *(real.new_zeros(3)))
    heads = zip(cf_logits, cf_labels.unbind(1), strict=True)
    return EnsembleLosses(real, *(F.cross_entropy(logits, labels) for logits, labels in heads))


def use_batch_statistics(model: nn.Module, use: bool) -> None:
    """Makes each BatchNorm take its statistics from the batch, and remember them, or not.

    Args:
        model: its other modules stay in their modes.
        use: False normalises with the running statistics and leaves these as they are.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(use)


def forward_parts(
    model: InvariantEnsemble, real: Tensor, made: Tensor, policy: BatchNormPolicy
) -> tuple[HeadLogits, HeadLogits]:
    """Runs the ensemble on real images and on counterfactuals; see `EnsembleConfig.batch_norm`.

    Args:
        model: in train mode; its BatchNorms are put into the modes of the policy.
        real: (B, 3, H, W) float32.
        made: (N, 3, H, W) float32; N may be 0.
        policy: eval, real or train.

    Returns:
        The logits of both.
    """
    if policy == "real" and len(made):
        use_batch_statistics(model, True)
        real_logits = model(real)
        use_batch_statistics(model, False)
        return real_logits, model(made)
    use_batch_statistics(model, policy != "eval")
    logits: HeadLogits = model(torch.cat([real, made]))
    sizes = [len(real), len(made)]
    real_rows, made_rows = zip(*(torch.split(head, sizes) for head in logits), strict=True)
    return HeadLogits(*real_rows), HeadLogits(*made_rows)


@torch.no_grad()
def count_correct(
    model: InvariantEnsemble, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, int]:
    """Counts the images whose most likely class is their label.

    Args:
        model: it is in eval mode meanwhile.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Returns:
        By "shape", "texture", "background", "average" and "background_free" how many images are
        right, and by "images" how many there are.

    Example:
        >>> import torch
        >>> from train_generator.classifier import count_correct, make_ensemble
        >>> model = make_ensemble("shufflenet_v2_x0_5", num_classes=2, pretrained=False)
        >>> count_correct(model, [(torch.zeros(3, 3, 32, 32), torch.zeros(3).long())])["images"]
        3
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    counts = dict.fromkeys([*FACTORS, "average", "background_free", "images"], 0)
    for images, labels in batches:
        targets = labels.to(device)
        for name, logits in model(images.to(device)).predictions().items():
            counts[name] += int((logits.argmax(dim=1) == targets).sum())
        counts["images"] += len(labels)
    model.train(was_training)
    return counts


def draw_curves(results: Sequence[EnsembleResult]) -> Figure:
    """Draws losses and validation accuracies over the epochs."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [result.epoch for result in results]
    for axes, names, suffix, scale in (
        (losses, ("real", *FACTORS), "_loss", 1),
        (accuracies, ("", "background_free_", *(f"{name}_" for name in FACTORS)), "accuracy", 100),
    ):
        for name in names:
            values = [scale * getattr(result, f"{name}{suffix}") for result in results]
            label = name.replace("_", " ").strip() or "average"
            axes.plot(epochs, values, marker="o", ms=3, color=_COLORS[label], label=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)
    losses.set(xlabel="epoch", ylabel="loss in training", ylim=(0, None))
    accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 100))
    return figure


class EnsembleRun(EpochRun[EnsembleConfig, EnsembleResult]):
    """An ensemble in training.

    The folder gets `classifier.safetensors` (`load_ensemble` reads it), `results.json` and
    `curves.png` after each epoch, `checkpoint.pt` after each epoch, at every `save_every` steps and
    on Ctrl-C, and TensorBoard's event file. Under torch.distributed each process trains on its part
    of the stream, and the first one writes. A resumed training goes on bit for bit.

    Args:
        model: on the stream's device.
        stream: with `mix="separate"` and `label="all"`.
        config: settings.
        folder: where everything is written; made if it is missing. None keeps nothing.
        classes: names of the classes, by label; their numbers by default.
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; may change on a resume.
        log_every: steps between two entries in TensorBoard.

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
        super().__init__(
            model,
            optimizer,
            stream,
            config,
            EnsembleResult,
            None if folder is None else folder / CHECKPOINT,
            settings=settings,
            save_every=save_every,
            log_every=log_every,
        )
        self.folder = folder
        self.classes = tuple(classes or map(str, range(model.num_classes)))
        self._parts: nn.Module = _TwoParts(model, config.batch_norm)
        if num_processes() > 1:
            at = [stream.device] if stream.device.type == "cuda" else None
            self._parts = DistributedDataParallel(self._parts, device_ids=at)
        self._steps_per_epoch = self._num_steps()
        self._writer: SummaryWriter | None = None
        self._announce: Callable[[EnsembleResult], None] | None = None
        warn_of_slow_precision(config.precision, stream.device)

    def train(
        self,
        test: Iterable[tuple[Tensor, Tensor]],
        *,
        progress: bool = True,
        announce: Callable[[EnsembleResult], None] | None = None,
    ) -> list[EnsembleResult]:
        """Trains the epochs that are left; see `EpochRun.train`.

        Args:
            test: batches to test the model on after each epoch; of this process alone.
            progress: shows bars on standard error.
            announce: called with what each epoch came to.
        """
        self._announce = announce
        if self.folder is None or process_rank() > 0:
            return super().train(test, progress=progress)
        self.folder.mkdir(parents=True, exist_ok=True)
        first = self._total(len(self.results), self.stream.state_dict()["step"])
        with SummaryWriter(str(self.folder), purge_step=first) as self._writer:
            return super().train(test, progress=progress)

    def _total(self, epoch: int, step: int) -> int:
        """Returns the steps of all epochs before a step."""
        return epoch * (self._steps_per_epoch or 0) + step

    def _learning_rate(self, epoch: int, step: int) -> float:
        # Where the length of an epoch is unknown, it changes from epoch to epoch alone.
        done = step / self._steps_per_epoch if self._steps_per_epoch else 0.0
        return learning_rate_at(self.config, epoch + done)

    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        (real, labels), (made, made_labels) = (
            find_layout(part, self.stream.keys).take(part) for part in batch
        )
        labels = labels[:, 0]  # a real image shows its class in all three factors
        device = self.stream.device
        seed = step_seed(Purpose.TRAINING, self.stream.seed, epoch, step, process_rank())
        with isolated_rng(seed, device):  # for dropout, which knows the global generators alone
            with self._autocast():
                real_logits, made_logits = self._parts(real, made)
            losses = ensemble_loss(real_logits, labels, made_logits, made_labels)
            self.optimizer.zero_grad()
            losses.total().backward()
            self.optimizer.step()
        correct = (real_logits.average().argmax(dim=1) == labels).sum()
        return {
            "loss": losses.total().detach() * len(real),
            "images": torch.tensor(len(real)),
            "made images": torch.tensor(len(made)),
            "correct": correct,
            "real": losses.real.detach() * len(real),
            **{name: getattr(losses, name).detach() * len(made) for name in FACTORS},
        }

    def _autocast(self) -> Any:
        if self.config.precision == "no":
            return nullcontext()
        return torch.autocast(self.stream.device.type, torch.bfloat16)

    def _log(self, epoch: int, step: int, sums: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        total = self._total(epoch, step)
        for name, value in _mean_losses(sums).items():
            self._writer.add_scalar(f"train/{name}", value, total)
        self._writer.add_scalar("train/learning_rate", self._learning_rate(epoch, step), total)
        self._writer.flush()

    def _finish_epoch(self, sums: Mapping[str, float], test: Any, progress: bool) -> EnsembleResult:
        if num_processes() > 1:
            for buffer in self.model.buffers():  # each process has seen other images
                dist.broadcast(buffer, src=0)
        shown = progress and process_rank() == 0
        counts = count_correct(self.model, tqdm(test, "validation", leave=False, disable=not shown))
        right = self._sum_over_processes({name: float(num) for name, num in counts.items()})
        num = right.pop("images")
        if num == 0:
            raise ArgumentError("there are no validation images to measure the accuracy on")
        names = {"average": "accuracy", **{n: f"{n}_accuracy" for n in right if n != "average"}}
        result = EnsembleResult(
            epoch=len(self.results) + 1,
            train_accuracy=sums["correct"] / sums["images"],
            **_mean_losses(sums),
            **{names[name]: value / num for name, value in right.items()},
        )
        if self.folder is not None and process_rank() == 0:
            self._write(self.folder, result)
        if self._announce is not None:
            self._announce(result)
        return result

    def _write(self, folder: Path, result: EnsembleResult) -> None:
        results = [*self.results, result]
        if self._writer is not None:
            total = self._total(result.epoch, 0)
            for name, value in asdict(result).items():
                if name.endswith("accuracy"):
                    self._writer.add_scalar(f"validation/{name}", value, total)
            self._writer.flush()
        preprocessing = asdict(self.model.preprocessing)
        save_ensemble(
            self.model,
            folder / CLASSIFIER_FILE,
            classes=self.classes,
            **preprocessing,
            settings=self.settings,
            result=asdict(result),
        )
        with replacing(folder / RESULTS_FILE) as temporary:
            record = {
                "backbone": self.model.name,
                "origin": self.model.origin,
                "epochs": [asdict(each) for each in results],
            }
            temporary.write_text(json.dumps(record, indent=2) + "\n")
        save_figure(draw_curves(results), folder / CURVES_FILE)


class _TwoParts(nn.Module):
    """A step's forward passes in one module, which is what DistributedDataParallel needs."""

    def __init__(self, model: InvariantEnsemble, policy: BatchNormPolicy) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(self, real: Tensor, made: Tensor) -> tuple[HeadLogits, HeadLogits]:
        return forward_parts(self.model, real, made, self.policy)


def _mean_losses(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the losses as means over images; `loss` is the sum of the other four."""
    real = sums["real"] / sums["images"]
    heads = [sums[name] / max(sums["made images"], 1) for name in FACTORS]
    names = [f"{name}_loss" for name in FACTORS]
    return {"loss": real + sum(heads), "real_loss": real, **dict(zip(names, heads, strict=True))}


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
