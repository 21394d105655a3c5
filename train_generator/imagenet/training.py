"""Trains an ImageNet CGN from a pretrained BigGAN and U2-Net, without any data."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from matplotlib.figure import Figure
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators import (
    BigGAN,
    ImageNetCGN,
    continue_imagenet_cgn,
    load_biggan,
    save_cgn,
    start_imagenet_cgn,
)
from cgn_augment.generators.fingerprint import hash_weights
from train_generator.imagenet.config import ImageNetConfig
from train_generator.imagenet.metrics import CGNMeasures
from train_generator.imagenet.sheet import draw_training
from train_generator.imagenet.stage import ImageNetStage
from train_generator.losses.perceptual import PerceptualFeatures, make_features
from train_generator.training.machine import CGN_FILE, make_accelerator, versions, write_settings
from train_generator.training.ranks import Ranks
from train_generator.training.trainer import Stage, Trainer, check_folder

_NOT_COMPARED = ("biggan", "u2net", "start", "device", "metrics")
"""Settings that may change at a resume. For BigGAN, the weights are compared."""

_AT_ONCE = 10


class ImageNetTraining:
    """The networks of a training; `train` runs it.

    Runs on one device, or on several processes of `accelerate launch` or `torchrun`, which share
    the batches of each step. A training may be resumed with another number of processes.

    Args:
        config: settings.
        folder: where to write everything; all processes must see it.
        resume: continues the training in the folder.
        progress: shows bars on standard error.
        save_every: steps between checkpoints; like `sheet_every` it may change at a resume.
        sheet_every: steps between sheets.
        network: replaces Inception-v3 for the metrics; see `InceptionMeasures`.

    Raises:
        ArgumentError: the folder holds a training while `resume` is False, or settings do not fit.
        CheckpointError: there is nothing to resume, it belongs to other settings, or a file is
            damaged or belongs to another network.
        FileError: a file of weights does not exist.
        UsageError: the device does not exist.
        DataError: the folder of real images cannot be used.
        MissingPackageError: the metrics need a package that is not installed.
    """

    def __init__(
        self,
        config: ImageNetConfig,
        folder: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        save_every: int = 10,
        sheet_every: int = 10,
        network: nn.Module | None = None,
    ) -> None:
        check_folder(folder, resume)  # before anything slow
        self.config, self.folder = config, folder
        # Every process has the same buffers already, and gradients need no second copy.
        parallel = DistributedDataParallelKwargs(
            broadcast_buffers=False, gradient_as_bucket_view=True
        )
        self.accelerator = make_accelerator(
            config.device, config.precision, kwargs_handlers=[parallel]
        )
        self.ranks = Ranks()
        self.progress = progress and self.ranks.is_main
        cgn, target = load_networks(config)
        fingerprint = hash_weights(target)
        target.fold()  # so that its norms are computed once
        self.cgn, self.target = self._place(cgn), self._place(target)
        self.average = copy.deepcopy(self.cgn).requires_grad_(False) if config.average else None
        self.features = make_config_features(config, self.cgn, self.target, self.progress)
        if self.features is not None:
            self._place(self.features)
        modules = {"cgn": self.cgn, "average": self.average, "features": self.features}
        measures = None
        if config.metrics.every:
            measures = CGNMeasures(
                config.metrics,
                self.kept,
                seed=config.seed,
                ranks=self.ranks,
                network=network,
                progress=self.progress,
            )
        self.trainer = Trainer(
            folder,
            {name: module for name, module in modules.items() if module is not None},
            {"mechanisms": self._stage},
            {**compared_settings(config), "target": fingerprint},
            seed=config.seed,
            draw=self.draw,
            resume=resume,
            save_every=save_every,
            sheet_every=sheet_every,
            log_every=1,
            measure=measures,
            measure_every=config.metrics.every or 1,
            ranks=self.ranks,
        )

    def train(self) -> Path:
        """Takes all remaining steps and writes the CGN.

        Returns:
            The file of the CGN, which `load_cgn` reads.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; `resume` continues.
        """
        with self.trainer.owning():
            if self.ranks.is_main:
                write_settings(self.config, self.folder, self.accelerator)
            self.trainer.train(progress=self.progress)
            return self._write()

    def _write(self) -> Path:
        path = self.folder / CGN_FILE
        if self.ranks.is_main:
            save_cgn(
                self.kept,
                path,
                recipe=asdict(self.config),
                seconds=round(self.trainer.seconds),
                processes=self.ranks.num,
                versions=versions(),
            )
        self.ranks.wait()
        return path

    @property
    def kept(self) -> ImageNetCGN:
        """The network that is drawn from, measured and written in the end."""
        kept: ImageNetCGN = self.cgn if self.average is None else self.average
        return kept

    def draw(self) -> Figure:
        """Draws a sheet; see `draw_training`."""
        return draw_training(self.kept, self.target, seed=self.config.seed)

    def _stage(self) -> Stage:
        losses = self.config.losses
        return ImageNetStage(
            self.config,
            self.cgn,
            self.average,
            self.target if losses.needs_target else None,
            self.features,
            self.accelerator,
            stops=self.trainer.stops,
            progress=self.progress,
        )

    def _place(self, module: Any) -> Any:
        device = self.accelerator.device
        layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
        return module.to(device, memory_format=layout)


def load_networks(config: ImageNetConfig) -> tuple[ImageNetCGN, BigGAN]:
    """Reads the CGN where the training starts, and the BigGAN of the target images.

    Args:
        config: settings.
    """
    settings: Any = {"truncation": config.truncation, "truncation_lookup": config.truncation_lookup}
    target = load_biggan(config.biggan).requires_grad_(False)
    if config.start is not None:
        cgn = continue_imagenet_cgn(config.start, **settings)
    else:
        cgn = start_imagenet_cgn(config.biggan, str(config.u2net), **settings)
    if cgn.biggan != target.config:
        raise ArgumentError(
            f"{config.start} has mechanisms of other sizes than {config.biggan}: give the BigGAN "
            "that its training started from"
        )
    return cgn.train(), target


def make_config_features(
    config: ImageNetConfig, cgn: ImageNetCGN, target: BigGAN, progress: bool = False
) -> PerceptualFeatures | None:
    """Returns the features for the settings; None if no loss needs them.

    "trained" features learn the classes of images that the target BigGAN draws.

    Args:
        config: settings.
        cgn: the CGN, which draws the noise of these images.
        target: the BigGAN of the target images.
        progress: shows a bar on standard error.
    """
    losses = config.losses
    if not losses.needs_features:
        return None
    images, labels = None, None
    if losses.features == "trained":
        images, labels = draw_targets(cgn, target, losses.num_feature_images, config.seed)
    return make_features(
        losses.features,
        path=losses.features_file,
        seed=config.seed,
        images=images,
        labels=labels,
        progress=progress,
    )


@torch.no_grad()
def draw_targets(
    cgn: ImageNetCGN, target: BigGAN, num: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draws target images (num, 3, H, W) float32 in [-1, 1]; classes (num,) take turns.

    Args:
        cgn: the CGN, which draws the noise.
        target: the BigGAN of the target images.
        num: number of images.
        seed: seed of the noise.
    """
    noise = cgn.draw_noise(num, step_generator(Purpose.WEIGHTS, seed))
    y = torch.arange(num, device=noise.device) % cgn.num_classes
    batches = zip(torch.split(noise, _AT_ONCE), torch.split(y, _AT_ONCE), strict=True)
    images = [target(*batch, cgn.truncation, cgn.truncation_lookup) for batch in batches]
    return torch.cat(images), y


def compared_settings(config: ImageNetConfig) -> dict[str, Any]:
    """Returns the settings that must not change at a resume, as plain values.

    Args:
        config: settings.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_COMPARED}
    del settings["losses"]["features_file"]
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain
