"""Trains a small CGN from images and their labels alone."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.generators.sheet import draw_cgn
from cgn_augment.masks import UNetMasker
from cgn_augment.parts.textures import whole_textures
from cgn_augment.types import Mechanisms
from train_generator.losses.perceptual import PerceptualFeatures, make_features
from train_generator.small.adversary import make_discriminator
from train_generator.small.batches import RealImages
from train_generator.small.blobs import teach_blobs
from train_generator.small.config import SmallConfig
from train_generator.small.factors import FactorsStage
from train_generator.small.images import LabelledImages
from train_generator.small.initialization import initialize
from train_generator.small.masker import drawn_parts, find_masks, masker_stages
from train_generator.small.shapes import MaskClassifier, MaskEncoder, ShapesStage, sharpen
from train_generator.small.textures import TextureEncoder, TexturesStage
from train_generator.training.machine import CGN_FILE, make_accelerator, versions, write_settings
from train_generator.training.trainer import Stage, Trainer, check_folder


class SmallTraining:
    """The networks and stages of a training; `train` runs them.

    Everything drawn is a function of settings and images. So two trainings with the same ones, on
    the same machine and number of threads, end with the same weights, interrupted or not.

    Args:
        config: settings.
        data: the images to learn from; nothing else is used.
        folder: where to write everything.
        resume: continues the training in the folder.
        progress: shows bars on standard error.
        save_every: steps between checkpoints; may change from one resume to the next.

    Raises:
        ArgumentError: the folder holds a training while `resume` is False, or settings do not fit.
        CheckpointError: there is nothing to resume, it is damaged, or it belongs to other settings
            or images.
        UsageError: the device does not exist.

    Examples:
        >>> import torch
        >>> from train_generator.small.config import FactorsConfig, MaskerConfig
        >>> from train_generator.small.config import ShapesConfig, SmallConfig, TexturesConfig
        >>> from train_generator.small.images import LabelledImages
        >>> from train_generator.small.training import SmallTraining
        >>> config = SmallConfig(
        ...     factors=FactorsConfig(num_steps=1, batch_size=8, blob_steps=1),
        ...     masker=MaskerConfig(num_steps=0),
        ...     texturing=TexturesConfig(num_steps=0),
        ...     shapes=ShapesConfig(num_steps=0),
        ... )
        >>> images, labels = torch.rand(16, 3, 32, 32) * 2 - 1, torch.arange(16) % 2
        >>> data = LabelledImages(images, labels, ("cat", "dog"), "two kinds of noise")
        >>> SmallTraining(config, data, getfixture("tmp_path"), progress=False).train().name
        'cgn.safetensors'
    """

    def __init__(
        self,
        config: SmallConfig,
        data: LabelledImages,
        folder: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        save_every: int = 200,
    ) -> None:
        check_folder(folder, resume)  # before anything slow
        _check_batches(config, len(data.labels))
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.accelerator = make_accelerator(config.device, config.precision)
        device, num_classes = self.accelerator.device, data.num_classes
        self.real = RealImages(data.images, data.labels, config.seed, device)
        self.cgn = make_cgn(config, num_classes)
        self.average = copy.deepcopy(self.cgn).eval().requires_grad_(False)
        with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed, 1), torch.device("cpu")):
            self.discriminator = make_discriminator(config.factors, num_classes)
            self.maskers = UNetMasker(), UNetMasker()  # a round trains one with the other's masks
            self.encoder, self.classifier = MaskEncoder(num_classes), MaskClassifier(num_classes)
            self.texture_encoders = TextureEncoder(num_classes), TextureEncoder(num_classes)
        self.features = self._make_features()
        modules: dict[str, nn.Module] = {
            "cgn": self.cgn,
            "average": self.average,
            "discriminator": self.discriminator,
            "even masker": self.maskers[0],
            "odd masker": self.maskers[1],
            "foreground encoder": self.texture_encoders[0],
            "background encoder": self.texture_encoders[1],
            "encoder": self.encoder,
            "classifier": self.classifier,
        }
        if self.features is not None:
            modules["features"] = self.features
        layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
        for module in modules.values():
            module.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.trainer = Trainer(
            folder,
            modules,
            self._stages(),
            {**json.loads(json.dumps(asdict(config))), "images": data.fingerprint},  # plain values
            seed=config.seed,
            draw=self.draw,
            resume=resume,
            save_every=save_every,
        )

    def train(self) -> Path:
        """Takes all remaining steps and writes the generator.

        Returns:
            The generator's file, which `load_cgn` reads.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; `resume` continues.
        """
        data = self.data
        about = {"description": data.description, "classes": list(data.classes), **data.facts}
        with self.trainer.owning():
            write_settings(self.config, self.folder, self.accelerator, images=about)
            self.trainer.train(progress=self.progress)
            return self._write(about)

    def _write(self, about: dict[str, Any]) -> Path:
        path = self.folder / CGN_FILE
        cgn = copy.deepcopy(self.average)
        if self.config.shapes.num_steps:
            sharpen(cgn, self.config.shapes.sharpness)
        save_cgn(
            cgn.half(),
            path,
            recipe=asdict(self.config),
            seconds=round(self.trainer.seconds),
            versions=versions(),
            **about,
        )
        return path

    def draw(self, cgn: Mechanisms | None = None) -> Figure:
        """Draws real images and samples of a generator, by default the averaged one.

        Args:
            cgn: a frozen generator; by default the averaged one.
        """
        data = self.data
        columns = min(20, data.num_classes * math.ceil(8 / data.num_classes))
        first = data.first_of_each()[:columns]
        real = data.images[first], data.labels[first]
        return draw_cgn(cgn or self.average, columns, self.config.seed, real)

    def find_masks(self, most: int | None = None) -> Tensor:
        """Returns the masks (N, 1, 32, 32) bool that the last round's masker finds.

        Args:
            most: number of images to use, from the first; all by default.
        """
        masker = self.maskers[self.config.masker.rounds % 2]
        return find_masks(masker, self.data.images[:most], self.accelerator)

    def _make_features(self) -> PerceptualFeatures | None:
        factors = self.config.factors
        if factors.features == "none":
            return None
        return make_features(
            factors.features,
            path=factors.features_file,
            seed=self.config.seed,
            images=self.data.images,
            labels=self.data.labels,
            progress=self.progress,
        )

    def _stages(self) -> dict[str, Callable[[], Stage]]:
        config, data = self.config, self.data
        shared = self.cgn, self.average, self.accelerator

        def factors() -> Stage:
            others = self.discriminator, self.real, self.features
            return FactorsStage(config.factors, *shared, *others)

        def textures() -> Stage:
            masks, num = self.find_masks(), config.texturing.num_textures
            whole = whole_textures(data.images, data.labels, masks, num)
            return TexturesStage(config.texturing, *shared, self.texture_encoders, whole)

        def shapes() -> Stage:
            masks, device = self.find_masks(), self.accelerator.device
            found = RealImages(masks, data.labels, config.seed, device)
            return ShapesStage(config.shapes, *shared, self.encoder, self.classifier, found)

        stages: dict[str, Callable[[], Stage]] = {"factors": factors}
        if config.masker.num_steps:
            real = data.images, data.labels
            drawn = partial(drawn_parts, self.average, config.masker.num_factors, config.seed)
            stages |= masker_stages(config.masker, self.maskers, drawn, real, self.accelerator)
        if config.texturing.num_steps:
            stages["textures"] = textures
        if config.shapes.num_steps:
            stages["shapes"] = shapes
        return stages


def make_cgn(config: SmallConfig, num_classes: int) -> SmallCGN:
    """Returns a new CGN with the initial weights of the training.

    Args:
        config: settings.
        num_classes: number of classes.
    """
    with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed, 0), torch.device("cpu")):
        cgn = SmallCGN(
            num_classes,
            shape_network=config.shape_network,
            texture_network=config.texture_network,
        )
    generator = step_generator(Purpose.WEIGHTS, config.seed, 2)
    factors = config.factors
    if factors.initialization != "default":
        initialize(cgn, factors.initialization, factors.gain, generator=generator)
    if factors.blob_steps:
        teach_blobs(cgn, factors.blob_steps, generator)
    return cgn


def _check_batches(config: SmallConfig, num_images: int) -> None:
    """Raises `ArgumentError` if the batch of a used stage is larger than the data."""
    for name in ("factors", "shapes"):
        stage = getattr(config, name)
        if stage.num_steps and stage.batch_size > num_images:
            raise ArgumentError(
                f"{name}.batch_size ({stage.batch_size}) must not be above the number of images "
                f"({num_images}): lower it, or give more images"
            )
