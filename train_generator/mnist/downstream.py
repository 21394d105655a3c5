"""The downstream task: the paper's CNN, trained through `CounterfactualDataset`.

It trains on the counterfactuals of a generator, or on decorrelated real images, the upper bound
(Sauer and Geiger, ICLR 2021, table 2 and appendix). Each run is one JSON file in a folder, so
several processes with different seeds can share a folder. A stopped run continues where it was; a
complete one is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, TensorDataset

from cgn_augment import BankSource, CounterfactualDataset, Parts, RealShapeSource
from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.files import owning_file
from cgn_augment.functional import isolated_rng
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.types import Mechanisms, Source
from train_generator.classifier import (
    ClassifierConfig,
    ClassifierRun,
    MNISTClassifier,
    measure_accuracy,
)
from train_generator.mnist.appearance import hash_textures
from train_generator.mnist.records import (
    DownstreamConfig,
    DownstreamResult,
    read_record,
    write_record,
)
from train_generator.mnist.textures import Textures, procedural_textures
from train_generator.mnist.variants import VariantData, check_variant, make_variant

_NAME = re.compile(r"[a-z0-9_]+")
_TEST_BATCH = 500


@dataclass(frozen=True, eq=False)
class DownstreamRun:
    """One classifier of the table: its data, its seed, its file.

    Attributes:
        folder: holds `VARIANT-TRAINED_ON-seedSEED.json` and, until it is complete, a checkpoint.
        variant: "colored", "double_colored" or "wildlife".
        trained_on: name of the row: small letters, digits and underscores.
        cgn: the CGN whose counterfactuals to train on; None trains on decorrelated real images or,
            with a masker, on recombinations of the biased ones; see `Parts`.
        seed: seed of weights, order and counterfactuals, as in `examples/invariant_mnist.py`.
        config: settings common to all runs.
        textures: for wildlife; None takes the procedural ones.
        device: device for training on real images; otherwise that of the CGN is used.
        masker: finds the shapes of the real training images, which then replace the CGN's own; see
            `RealShapeSource`.

    Raises:
        ArgumentError: a value cannot be used.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.mnist import DownstreamConfig, DownstreamRun, run_downstream
        >>> config = DownstreamConfig(num_epochs=1, num_train=32, num_test=20, bank=10)
        >>> folder, cgn = getfixture("tmp_path"), SmallCGN(width=4).freeze()
        >>> run = DownstreamRun(folder, "colored", "mine", cgn, seed=0, config=config)
        >>> [result] = run_downstream([run], progress=False)
        >>> result.trained_on, run.path.name
        ('mine', 'colored-mine-seed0.json')
    """

    folder: Path
    variant: str
    trained_on: str
    cgn: Mechanisms | None
    seed: int
    config: DownstreamConfig
    textures: Textures | None = None
    device: torch.device | str = "cpu"
    masker: MaskerNetwork | None = None

    def __post_init__(self) -> None:
        check_variant(self.variant, self.textures)
        require_count("seed", self.seed, least=0)
        if not _NAME.fullmatch(self.trained_on):
            raise ArgumentError(
                "a row's name is made of small letters, digits and underscores, got "
                f"{self.trained_on!r}"
            )

    @property
    def path(self) -> Path:
        """The file of settings and results."""
        return self.folder / f"{self.variant}-{self.trained_on}-seed{self.seed}.json"

    @property
    def checkpoint(self) -> Path:
        """The file of the training under way, which one process owns."""
        return self.path.with_suffix(".pt")

    @property
    def is_biased(self) -> bool:
        """Whether the training images are the biased ones."""
        return self.cgn is not None or self.masker is not None

    @property
    def _classifier_config(self) -> ClassifierConfig:
        return ClassifierConfig(num_epochs=self.config.num_epochs, precision=self.config.precision)

    @cached_property
    def settings(self) -> dict[str, object]:
        """Everything that the results depend on."""
        textures = None
        if self.variant == "wildlife":
            textures = hash_textures(self.textures or procedural_textures())
        return {
            **asdict(self.config),
            **asdict(self._classifier_config),
            "seed": self.seed,
            "textures": textures,
            "cgn": None if self.cgn is None else self.cgn.fingerprint,
            "masker": None if self.masker is None else self.masker.fingerprint,
        }

    def read(self) -> DownstreamResult | None:
        """Returns the results, or None if the run is not complete.

        Raises:
            CheckpointError: the file belongs to other settings, or is damaged.
        """
        return read_record(self.path, self.settings)

    def train(
        self,
        data: VariantData,
        test: VariantData,
        parts: Parts | None,
        *,
        progress: bool,
    ) -> DownstreamResult:
        """Trains from the start or from where it was stopped, and writes the results.

        Args:
            data: the biased or the decorrelated training images; see `is_biased`.
            test: decorrelated test images.
            parts: parts of the training images, if counterfactuals are recombined from them.
            progress: shows a bar on standard error.

        Raises:
            CheckpointError: the run's checkpoint is damaged, or belongs to other settings.
        """
        run = self._make_classifier(data, parts)
        checkpoint = self.checkpoint
        if checkpoint.is_file():
            run.resume()
        epochs = run.train(DataLoader(test.dataset(), batch_size=_TEST_BATCH), progress=progress)
        visible = TensorDataset(test.images[test.visible], test.labels[test.visible])
        result = DownstreamResult(
            variant=self.variant,
            trained_on=self.trained_on,
            seed=self.seed,
            test_accuracy=epochs[-1].test_accuracy,
            visible_accuracy=measure_accuracy(
                run.model, DataLoader(visible, batch_size=_TEST_BATCH)
            ),
            epochs=tuple(epochs),
        )
        self.write(result)
        checkpoint.unlink(missing_ok=True)
        return result

    def write(self, result: DownstreamResult | None) -> None:
        """Writes the file; without results while the run is in progress.

        Args:
            result: the results, or None.
        """
        device = self.device if self.cgn is None else self.cgn.device
        write_record(self.path, self.settings, result, str(device))

    def _make_classifier(self, data: VariantData, parts: Parts | None) -> ClassifierRun:
        config = self.config
        with isolated_rng(self.seed, torch.device("cpu")):
            model = MNISTClassifier()
        source: Source = RealOnly()
        cgn = parts if self.cgn is None else self.cgn
        if cgn is not None:
            source = bank = BankSource(cgn, config.bank, config.refresh, seed=self.seed)
            if self.masker is not None:
                source = RealShapeSource(self.masker, bank, cache_masks=True)
        stream = CounterfactualDataset(
            data.dataset(),
            source,
            batch_size=config.batch_size,
            fraction=1.0 if self.is_biased else 0.0,
            mix="replace",
            device=None if self.is_biased else self.device,
            seed=self.seed,
            prefetch=2,
        )
        return ClassifierRun(
            # On a CPU, convolutions are a third faster in this order.
            model.to(stream.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            stream,
            self._classifier_config,
            self.checkpoint,
        )


class RealOnly:
    """A source for streams that draw nothing from it.

    Examples:
        >>> from train_generator.mnist.downstream import RealOnly
        >>> RealOnly().fingerprint
        'real images only'
    """

    fingerprint = "real images only"

    def sample(self, *_: object) -> NoReturn:
        """Must never be called."""
        raise ArgumentError("this stream has real images only: its ratio must be 0")


def run_downstream(
    runs: Sequence[DownstreamRun],
    *,
    progress: bool = True,
    announce: Callable[[DownstreamRun], None] | None = None,
) -> list[DownstreamResult]:
    """Trains incomplete runs, and returns the results of all runs in their order.

    Args:
        runs: all are checked before the first is trained. Runs of one variant follow each other, so
            its images and parts are made once.
        progress: shows bars on standard error.
        announce: called with each run before it is trained.

    Raises:
        ArgumentError: two runs have the same file.
        CheckpointError: a file belongs to other settings, or is damaged; nothing was trained.
        UsageError: another process trains one of the runs; those before it are written.
    """
    paths = [run.path for run in runs]
    if len(set(paths)) < len(paths):
        raise ArgumentError("two runs have the same variant, row and seed: list each once")
    complete = {run.path: result for run in runs if (result := run.read()) is not None}
    # Keep only what the next run shares with this one.
    render, take_apart = lru_cache(maxsize=2)(make_variant), lru_cache(maxsize=1)(_take_apart)
    for run in runs:
        if run.path in complete:
            continue
        with owning_file(run.checkpoint):
            result = run.read()  # again: another process may have ended it just now
            if result is None:
                result = _train(run, render, take_apart, progress, announce)
            complete[run.path] = result
    return [complete[path] for path in paths]


def _train(
    run: DownstreamRun,
    render: Callable[..., VariantData],
    take_apart: Any,
    progress: bool,
    announce: Callable[[DownstreamRun], None] | None,
) -> DownstreamResult:
    run.write(None)  # what cannot be written is known before all else
    if announce is not None:
        announce(run)
    config, textures = run.config, run.textures
    data, test = (
        render(run.variant, split, textures=textures, decorrelated=decorrelated, num=num)
        for split, decorrelated, num in (
            ("train", not run.is_biased, config.num_train),
            ("test", True, config.num_test),
        )
    )
    parts = None
    if run.cgn is None and run.masker is not None:
        parts = take_apart(data, run.masker, run.device)
    else:
        take_apart.cache_clear()
    return run.train(data, test, parts, progress=progress)


def _take_apart(data: VariantData, masker: MaskerNetwork, device: torch.device | str) -> Parts:
    return Parts.from_images(data.images.to(device), data.labels.to(device), masker)
