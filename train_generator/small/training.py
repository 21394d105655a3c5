"""Trains a small CGN from nothing but the biased images of an MNIST variant."""

from __future__ import annotations

import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment import SmallCGN, save_cgn
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.masks import UNetMasker
from cgn_augment.parts.fill import whole_textures
from cgn_augment.pictures.sheets import draw_cgn
from train_generator.losses.perceptual import PerceptualFeatures, make_features
from train_generator.mnist.textures import load_textures
from train_generator.mnist.variants import VariantData, make_variant
from train_generator.small.adversary import make_discriminator
from train_generator.small.batches import RealImages
from train_generator.small.blobs import teach_blobs
from train_generator.small.config import SmallConfig
from train_generator.small.factors import FactorsStage
from train_generator.small.initialization import initialize
from train_generator.small.masker import MaskerStage, drawn_parts, find_masks, next_round
from train_generator.small.shapes import MaskClassifier, MaskEncoder, ShapesStage, sharpen
from train_generator.small.textures import TextureEncoder, TexturesStage
from train_generator.training.machine import CGN_FILE, make_accelerator, versions, write_settings
from train_generator.training.trainer import Stage, Trainer, check_folder


class SmallTraining:
    """The networks and stages of a training; `train` takes them through.

    Everything that is drawn is a function of the settings, so two trainings of the same settings
    on the same machine and number of threads end with the same weights, interrupted or not.

    Args:
        config: settings.
        folder: where everything is written.
        resume: goes on with the training that the folder holds.
        progress: shows bars on standard error.
        save_every: steps between checkpoints; may change from one resume to the next.

    Raises:
        ArgumentError: the folder holds a training and `resume` is False, or settings that do not
            fit.
        CheckpointError: there is nothing to resume, or it is damaged.
        CheckpointError: what is there was made with other settings.
        UsageError: the device is not there.

    Example:
        >>> from train_generator.small.config import FactorsConfig, MaskerConfig
        >>> from train_generator.small.config import ShapesConfig, SmallConfig, TexturesConfig
        >>> from train_generator.small.training import SmallTraining
        >>> config = SmallConfig(
        ...     "colored",
        ...     num_train=64,
        ...     factors=FactorsConfig(num_steps=1, batch_size=8, blob_steps=1),
        ...     masker=MaskerConfig(num_steps=0),
        ...     texturing=TexturesConfig(num_steps=0),
        ...     shapes=ShapesConfig(num_steps=0),
        ... )
        >>> SmallTraining(config, getfixture("tmp_path"), progress=False).train().name
        'cgn.safetensors'
    """

    def __init__(
        self,
        config: SmallConfig,
        folder: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        save_every: int = 200,
    ) -> None:
        check_folder(folder, resume)  # before anything that takes long
        self.config, self.folder, self.progress = config, folder, progress
        self.accelerator = make_accelerator(config)
        device = self.accelerator.device
        self.data = make_data(config)
        self.real = RealImages(self.data.images, self.data.labels, config.seed, device)
        self.cgn = make_cgn(config)
        self.average = copy.deepcopy(self.cgn).eval().requires_grad_(False)
        with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed, 1), torch.device("cpu")):
            self.discriminator = make_discriminator(config.factors)
            self.maskers = UNetMasker(), UNetMasker()  # a round trains one with the other's masks
            self.encoder, self.classifier = MaskEncoder(), MaskClassifier()
            self.texture_encoders = TextureEncoder(), TextureEncoder()
        self.features = self._make_features()
        modules = {
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
            module.to(device, memory_format=layout)
        self.trainer = Trainer(
            folder,
            modules,
            self._stages(),
            {**asdict(config), "factors": _plain(config.factors)},
            seed=config.seed,
            draw=self.draw,
            resume=resume,
            save_every=save_every,
        )

    def train(self) -> Path:
        """Takes all steps that are left, and writes the generator.

        Returns:
            The generator's file, which `load_cgn` reads.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; `resume` goes on.
        """
        write_settings(self.config, self.folder, self.accelerator)
        self.trainer.train(progress=self.progress)
        path = self.folder / CGN_FILE
        cgn = copy.deepcopy(self.average)
        if self.config.shapes.num_steps:
            sharpen(cgn, self.config.shapes.sharpness)
        cgn = cgn.half()
        save_cgn(
            cgn,
            path,
            variant=self.config.variant,
            textures=describe_textures(self.config),
            recipe=asdict(self.config),
            seconds=round(self.trainer.seconds),
            versions=versions(),
        )
        return path

    def draw(self) -> Figure:
        """Draws real images, and what the averaged generator makes."""
        labels = self.data.labels
        first = [int((labels == y).nonzero()[0]) for y in labels.unique()]
        real = (self.data.images[first], labels[first])
        return draw_cgn(self.average, seed=self.config.seed, real=real)

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

    def _stages(self) -> dict[str, Any]:
        config = self.config
        stages: dict[str, Any] = {"factors": self._factors_stage}
        if config.masker.num_steps:
            stages["masker"] = self._masker_stage
            for number in range(1, config.masker.rounds + 1):
                stages[f"masker {number}"] = partial(self._next_masker_stage, number)
        if config.texturing.num_steps:
            stages["textures"] = self._textures_stage
        if config.shapes.num_steps:
            stages["shapes"] = self._shapes_stage
        return stages

    def _factors_stage(self) -> Stage:
        return FactorsStage(
            self.config.factors,
            self.cgn,
            self.average,
            self.discriminator,
            self.real,
            self.features,
            self.accelerator,
        )

    def _masker_stage(self) -> Stage:
        config = self.config.masker
        parts = drawn_parts(self.average, config.num_factors, self.config.seed)
        return MaskerStage(config, self.maskers[0], parts, self.accelerator)

    def _next_masker_stage(self, number: int) -> Stage:
        masker, before = self.maskers[number % 2], self.maskers[(number - 1) % 2]
        data = self.data
        return next_round(
            self.config.masker, masker, before, data.images, data.labels, self.accelerator
        )

    def _textures_stage(self) -> Stage:
        config = self.config.texturing
        found = self._find(self.config.masker.rounds)
        images, labels = self.data.images, self.data.labels
        textures = whole_textures(images, labels, found, config.num_textures)
        return TexturesStage(
            config, self.cgn, self.average, self.texture_encoders, textures, self.accelerator
        )

    def _shapes_stage(self) -> Stage:
        masks = self._find(self.config.masker.rounds)
        found = RealImages(masks, self.data.labels, self.config.seed, self.accelerator.device)
        return ShapesStage(
            self.config.shapes,
            self.cgn,
            self.average,
            self.encoder,
            self.classifier,
            found,
            self.accelerator,
        )

    def _find(self, number: int) -> Tensor:
        """Returns the masks of the real images that a round's masker finds."""
        return find_masks(self.maskers[number % 2], self.data.images, self.accelerator)


def make_data(config: SmallConfig) -> VariantData:
    """Renders the biased training images of the settings."""
    textures = None if config.textures is None else load_textures(config.textures)
    return make_variant(
        config.variant, "train", seed=config.seed, textures=textures, num=config.num_train
    )


def make_cgn(config: SmallConfig) -> SmallCGN:
    """Returns a new CGN with the weights that the training starts from."""
    with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed, 0), torch.device("cpu")):
        cgn = SmallCGN(shape_network=config.shape_network, texture_network=config.texture_network)
    generator = step_generator(Purpose.WEIGHTS, config.seed, 2)
    factors = config.factors
    if factors.initialization != "default":
        initialize(cgn, factors.initialization, factors.gain, generator=generator)
    if factors.blob_steps:
        teach_blobs(cgn, factors.blob_steps, generator)
    return cgn


def describe_textures(config: SmallConfig) -> str:
    """Says where the textures of the variant are from."""
    if config.variant != "wildlife":
        return "none"
    return "procedural" if config.textures is None else "folder"


def _plain(config: Any) -> dict[str, Any]:
    """Returns settings as values that a checkpoint can be compared by."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(config).items()
    }
