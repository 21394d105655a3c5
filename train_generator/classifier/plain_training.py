"""Trains a plain classifier on real images and counterfactuals, or by an established method.

The label of each image is that of its shape, as in any training loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError
from cgn_augment.images.image_table import Groups
from train_generator.classifier.ensemble_config import EnsembleConfig
from train_generator.classifier.ensemble_losses import use_batch_statistics
from train_generator.classifier.image_training import (
    ImageRun,
    group_lines,
    plot_epochs,
    require_classes,
)
from train_generator.classifier.last_layer import Retrained, collect_features, retrain_last_layer
from train_generator.classifier.peers import PeerConfig, make_cutmix, make_weights, require_groups
from train_generator.classifier.plain import PLAIN_FILE, PlainClassifier, save_classifier
from train_generator.classifier.training import EpochResult, GroupResult, find_right
from train_generator.training.stages import descend


class PlainRun(ImageRun[EpochResult]):
    """A plain classifier in training, on batches of real images and counterfactuals.

    The folder gets `classifier.pt` (see `save_classifier`), `results.json` and `curves.png` after
    each epoch, and the files of the `Trainer`. `checkpoint.pt` is written after each epoch, every
    `save_every` steps and on Ctrl-C. Under torch.distributed each process trains on its part of the
    stream, and the first one writes. A resumed training continues bit for bit.

    Args:
        model: the classifier, on the stream's device.
        stream: a stream of images with one label each; for GroupDRO of images, labels and groups.
            Without counterfactuals, labels may be shares (N, C) of the classes, as from CutMix.
        config: settings; `batch_norm` is "train" or "eval".
        folder: where to write everything; created if missing. None writes nothing.
        classes: names of the classes, by label; their numbers by default.
        peer: the method used besides counterfactuals, and which epoch's weights to keep. Last-layer
            retraining (`dfr`) reads the test batches once more.
        train_groups: groups of the stream's images, for GroupDRO.
        test_groups: groups of the test images, in their order over all processes; each epoch then
            gives a `GroupResult`.
        settings: further plain values that a checkpoint must agree with.
        save_every: steps between checkpoints within an epoch; may change on a resume.
        log_every: steps between two readings of the losses.

    Attributes:
        results: one `EpochResult` or `GroupResult` for each completed epoch.
        best: the epoch whose weights are in the file and, after training, in the model.
        retrained: the result of retraining the last layer, if it was retrained.

    Raises:
        ArgumentError: the stream or the BatchNorm policy is of another kind, or a method lacks
            something it needs.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.classifier import EnsembleConfig, PlainRun, make_classifier
        >>> digits = TensorDataset(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8))
        >>> stream = CounterfactualDataset(digits, SmallCGN(width=4).freeze(), batch_size=4)
        >>> model = make_classifier("resnet10_w32", num_classes=10, pretrained=False)
        >>> run = PlainRun(model, stream, EnsembleConfig(num_epochs=1, batch_norm="train"))
        >>> [result] = run.train([digits[:]], progress=False)
        >>> 0 <= result.test_accuracy <= 1
        True
    """

    model: PlainClassifier

    def __init__(
        self,
        model: PlainClassifier,
        stream: CounterfactualDataset,
        config: EnsembleConfig | None = None,
        folder: Path | None = None,
        *,
        classes: Sequence[str] | None = None,
        peer: PeerConfig | None = None,
        train_groups: Groups | None = None,
        test_groups: Groups | None = None,
        settings: Mapping[str, Any] | None = None,
        save_every: int = 500,
        log_every: int = 20,
    ) -> None:
        config = config or EnsembleConfig()
        self.peer = peer or PeerConfig()
        _require_one_label(stream)
        if config.batch_norm == "real":
            raise ArgumentError(
                "batch_norm='real' tells real images from counterfactuals, and a plain classifier "
                "does not: take 'train', or 'eval' with pretrained weights"
            )
        require_classes(stream, model.num_classes)
        require_groups(self.peer, train_groups, test_groups)
        self.retrained: Retrained | None = None
        self._weights = make_weights(self.peer, train_groups, stream.device)
        self._cutmix = make_cutmix(self.peer, model.num_classes)
        super().__init__(
            model,
            stream,
            config,
            EpochResult if test_groups is None else GroupResult,
            folder,
            classes=classes,
            settings={**(settings or {}), "peer": asdict(self.peer)},
            save_every=save_every,
            log_every=log_every,
            select=self.peer.select,
            test_groups=test_groups,
            state={} if self._weights is None else {"q": self._weights},
        )
        if self.ranks.num > 1 and self.peer.method in ("groupdro", "dfr"):
            raise ArgumentError(
                f"{self.peer.method} looks at all groups at once and trains in one process: start "
                "it without torchrun"
            )
        self._network = self._share(model)

    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        images, labels, *further = batch
        use_batch_statistics(self.model, self.config.batch_norm == "train")
        with self._step(epoch, step) as precision:
            if self._cutmix is not None:
                images, labels = self._cutmix(images, labels)
            with precision:
                scores = self._network(images)
            if self._weights is None:
                loss = F.cross_entropy(scores, labels)
            else:
                losses = F.cross_entropy(scores, labels, reduction="none")
                loss = self._weights.weigh(losses, further[0])
            descend(None, self.optimizer, loss)
        known = labels if labels.dim() == 1 else labels.argmax(dim=1)
        return {
            "loss": loss.detach() * len(images),
            "correct": (scores.argmax(dim=1) == known).sum(),
            "images": torch.tensor(len(images)),
        }

    def _mean_losses(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": sums["loss"] / sums["images"]}

    def _finish(self) -> None:
        """Gives the model the weights that are kept; retrains its last layer for `dfr`."""
        super()._finish()
        if self.peer.method == "dfr" and self.test_groups is not None:
            last, groups = self.model.last_layer, torch.tensor(self.test_groups.numbers)
            features, labels = collect_features(self.model, last, self._validation())
            names, seed = self.test_groups.names, self.stream.seed
            groups = groups.to(features.device)
            self.retrained = retrain_last_layer(last, features, labels, groups, names, seed)
            if self.folder is not None:
                save_classifier(self.model, self.folder / PLAIN_FILE)
                self._record(self.results, self.folder)

    def _find_right(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {"test_accuracy": find_right(self.model, batches)}

    def _save(self, result: EpochResult, folder: Path) -> None:
        save_classifier(self.model, folder / PLAIN_FILE)

    def _describe(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            **asdict(self.model.preprocessing),
            "method": self.peer.method,
            **super()._describe(),
            "retrained": None if self.retrained is None else asdict(self.retrained),
        }

    def _draw(self, results: Sequence[EpochResult]) -> Figure:
        accuracies = {
            "test_accuracy": ("validation", "C0"),
            "train_accuracy": ("training", "C1"),
        }
        accuracies |= group_lines(results, self.test_groups)
        kept = None if self.peer.select == "last" else self.best.epoch
        return plot_epochs(results, {"loss": ("cross-entropy", "C0")}, accuracies, "accuracy", kept)


def _require_one_label(stream: CounterfactualDataset) -> None:
    if stream.mix == "separate" or stream.label == "all":
        raise ArgumentError(
            "a plain classifier is trained on one batch with one label an image: take "
            f"mix='append' and label='shape', got mix={stream.mix!r} and label={stream.label!r}"
        )
