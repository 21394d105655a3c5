"""Trains a reduced BigGAN-deep on the scenes: the "pretrained" generator of the reduced problem.

It replaces the BigGAN that DeepMind trained on ImageNet for days. To finish in an hour on one CPU
thread, pairs help the game against a discriminator (hinge losses, projection of the class, spectral
norms): a fixed map takes the noise to the codes of a scene, so that for each noise and class one
real scene is the target, except for its details. Only the discriminator judges these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.scenes.batch_statistics import TrainableBigGAN
from benchmarks.scenes.images import (
    IMAGE_SIZE,
    NUM_CLASSES,
    SCENE_CODES,
    Scenes,
    render_scenes,
)
from benchmarks.scenes.training import (
    to_bytes,
    to_floats,
    write_state,
)
from cgn_augment.checks import require_counts, require_positive, require_shares
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.generators import BigGANConfig
from cgn_augment.generators.biggan import SETTLING
from cgn_augment.generators.truncation import NOISE_LIMIT, draw_truncated
from cgn_augment.pictures.sheets import draw_sheet
from train_generator.losses.discriminators import PatchDiscriminator
from train_generator.small.adversary import Adversary
from train_generator.small.batches import RealImages
from train_generator.small.masker import rise_and_fall
from train_generator.training.average import update_average
from train_generator.training.stages import descend
from train_generator.training.trainer import Stage, Trainer, check_folder

PRIOR_FILE = "biggan.bin"

LAYERS = (
    (False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 4),
    (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1),
)  # fmt: skip
"""Every second block doubles the size, as in the published generators; 64 pixels."""

COARSE_BLOCKS, COARSE_SIZE = 4, 16
"""The blocks that make 16 pixels."""


@dataclass(frozen=True)
class ReducedPriorConfig:
    """Settings of the reduced prior.

    Args:
        channel_width: of the generator; a multiple of 4.
        noise_dim: SCENE_CODES or more; what is more has no scene to follow.
        num_statistics: truncations that batch statistics are written for.
        num_images: pairs of noise and scene that are drawn before the training.
        coarse_steps: steps of the first stage, in which the blocks up to 16 pixels learn alone.
        coarse_batch_size: images of such a step.
        coarse_rate: learning rate of such a step; down to 0 in the second half.
        num_steps: steps of the second stage, in which all learn.
        batch_size: images of such a step.
        learning_rate: of the generator, Adam; down to 0 in the second half.
        discriminator_learning_rate: likewise.
        discriminator_width: see `PatchDiscriminator`.
        pair_weights: of the mean absolute difference to the scene that is wanted, at full
            resolution, at half, at a quarter, and so on.
        adversarial_from: the step from which on the discriminator is trained and takes part; before
            it, pairs alone teach what is where.
        average: decay of the running average of the weights, in [0, 1).
        seed: of everything that is drawn.

    Raises:
        ArgumentError: a number that cannot be used.
    """

    channel_width: int = 16
    noise_dim: int = 32
    num_statistics: int = 51
    num_images: int = 8192
    coarse_steps: int = 1500
    coarse_batch_size: int = 64
    coarse_rate: float = 2e-3
    num_steps: int = 2500
    batch_size: int = 16
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 5e-4
    discriminator_width: int = 24
    pair_weights: tuple[float, ...] = (4.0, 8.0, 16.0)
    adversarial_from: int = 500
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "coarse_steps", "seed", "adversarial_from", least=0)
        require_counts(self, "num_images", "num_steps", "discriminator_width")
        require_counts(self, "batch_size", "coarse_batch_size", least=2)
        require_counts(self, "noise_dim", least=SCENE_CODES)
        require_positive(self, "coarse_rate", "learning_rate", "discriminator_learning_rate")
        require_shares(self, "average")
        if not 1 <= len(self.pair_weights) <= 5 or min(self.pair_weights) < 0:
            raise ArgumentError(
                f"pair_weights must be one to five of 0 or more, got {self.pair_weights}"
            )
        object.__setattr__(self, "pair_weights", tuple(map(float, self.pair_weights)))
        _ = self.biggan

    @property
    def biggan(self) -> BigGANConfig:
        """The sizes of the generator."""
        sizes = NUM_CLASSES, self.noise_dim, self.channel_width, LAYERS
        return BigGANConfig(*sizes, attention_at=4, num_statistics=self.num_statistics)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Noise, classes and the biased scenes that belong to them.

    Attributes:
        noise: (N, noise_dim) float32.
        y: (N,) int64.
        images: (N, 3, 64, 64) uint8.
    """

    noise: Tensor
    y: Tensor
    images: Tensor


def codes_of_noise(noise: Tensor, seed: int = 0) -> Tensor:
    """Maps noise to the codes of scenes: a rotation, of which the first numbers are kept.

    So no number of the noise stands for one factor of the scenes.

    Args:
        noise: (N, SCENE_CODES or more) float32.
        seed: of the rotation.

    Returns:
        (N, SCENE_CODES) float32 in [-2, 2].

    Examples:
        >>> import torch
        >>> from benchmarks.scenes.prior import codes_of_noise
        >>> codes_of_noise(torch.zeros(2, 32)).abs().max().item()
        0.0
    """
    dim = noise.shape[1]
    square = torch.randn(dim, dim, generator=step_generator(Purpose.WEIGHTS, seed, dim))
    rotation = torch.linalg.qr(square.double()).Q.float()
    codes: Tensor = (noise @ rotation)[:, :SCENE_CODES]
    return codes.clamp(-NOISE_LIMIT, NOISE_LIMIT)


def scenes_of_noise(noise: Tensor, y: Tensor, generator: torch.Generator, seed: int = 0) -> Scenes:
    """Draws the biased scenes that belong to noise and classes; see `codes_of_noise`."""
    images, masks = render_scenes(codes_of_noise(noise, seed), y, y, y, generator)
    return Scenes(images, masks, y, y, y)


@lru_cache(maxsize=1)
def draw_pairs(num: int, noise_dim: int, seed: int = 0) -> Pairs:
    """Draws pairs of all classes alike; the last ones that were drawn are kept for a second call.

    Args:
        num: of pairs.
        noise_dim: of the noise.
        seed: of the noise and the scenes.
    """
    generator = step_generator(Purpose.SOURCE, seed, num)
    noise, y = draw_truncated(num, noise_dim, generator), torch.arange(num) % NUM_CLASSES
    images = [
        to_bytes(scenes_of_noise(*part, generator, seed).images)
        for part in zip(torch.split(noise, 256), torch.split(y, 256), strict=True)
    ]
    return Pairs(noise, y, torch.cat(images))


def pair_loss(drawn: Tensor, wanted: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Mean absolute difference of images at several resolutions, each half of the one before.

    Args:
        drawn: (B, 3, H, W) float32 in [-1, 1].
        wanted: likewise.
        weights: of the resolutions, the full one first.

    Returns:
        Scalar of 0 or more.

    Examples:
        >>> import torch
        >>> from benchmarks.scenes.prior import pair_loss
        >>> pair_loss(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), (1.0, 0.5)).item()
        1.5
    """
    losses = []
    for number, weight in enumerate(weights):
        if number:
            drawn, wanted = F.avg_pool2d(drawn, 2), F.avg_pool2d(wanted, 2)
        losses.append(weight * F.l1_loss(drawn, wanted))
    return torch.stack(losses).sum()


class CoarseStage:
    """Trains the lower blocks of `biggan` to draw the scenes at 16 pixels; see `Stage`.

    What is where is learned from four times as many images in the same time so (Karras et al.,
    Progressive Growing of GANs, ICLR 2018). The loss is the mean squared difference: where a place
    is uncertain, the mean absolute one would draw no object at all.
    """

    name = "coarse"

    def __init__(
        self,
        config: ReducedPriorConfig,
        biggan: TrainableBigGAN,
        head: nn.Module,
        pairs: Pairs,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.num_steps = config, config.coarse_steps
        self.biggan, self.head, self.pairs = biggan, head, pairs
        self.accelerator = accelerator
        self.order = RealImages(pairs.images, pairs.y, config.seed)
        factor = IMAGE_SIZE // COARSE_SIZE
        parts = [F.avg_pool2d(to_floats(part), factor) for part in torch.split(pairs.images, 256)]
        self.wanted = torch.cat(parts)
        weights = [*biggan.parameters(), *head.parameters()]
        adam = torch.optim.Adam(weights, betas=(0.9, 0.99))
        self.optimizers: Mapping[str, Any] = {"coarse": accelerator.prepare(adam)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains on one batch; see `Stage.step`."""
        config, optimizer = self.config, self.optimizers["coarse"]
        rise_and_fall(optimizer, config.coarse_rate, step, config.coarse_steps)
        chosen = self.order.choose(step, min(config.coarse_batch_size, len(self.pairs.y)))
        self.biggan.train()
        features = self.biggan.coarse_features(
            self.pairs.noise[chosen], self.pairs.y[chosen], COARSE_BLOCKS
        )
        loss = F.mse_loss(self.head(features), self.wanted[chosen])
        descend(self.accelerator, optimizer, loss)
        return {"squared error": loss.detach()}


class PriorStage:
    """Trains `biggan` and `discriminator`, and keeps `average` up to date; see `Stage`."""

    name = "prior"

    def __init__(
        self,
        config: ReducedPriorConfig,
        biggan: nn.Module,
        average: nn.Module,
        discriminator: nn.Module,
        pairs: Pairs,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.biggan, self.average, self.pairs = biggan, average, pairs
        self.accelerator = accelerator
        self.order = RealImages(pairs.images, pairs.y, config.seed)
        self.adversary = Adversary(discriminator, "hinge", accelerator)
        self.optimizers: Mapping[str, Any] = {
            name: accelerator.prepare(torch.optim.Adam(part.parameters(), betas=(0.5, 0.99)))
            for name, part in (("biggan", biggan), ("discriminator", discriminator))
        }

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the generator, then the discriminator, on one batch; see `Stage.step`."""
        config = self.config
        rates = config.learning_rate, config.discriminator_learning_rate
        for optimizer, rate in zip(self.optimizers.values(), rates, strict=True):
            rise_and_fall(optimizer, rate, step, config.num_steps)
        chosen = self.order.choose(step, config.batch_size)
        noise, y = self.pairs.noise[chosen], self.pairs.y[chosen]
        real = to_floats(self.pairs.images[chosen])
        self.biggan.train()
        drawn = self.biggan(noise, y)
        losses = {"pairs": pair_loss(drawn, real, config.pair_weights)}
        plays = step >= config.adversarial_from
        if plays:
            losses["adversarial"] = self.adversary.generator_loss((drawn, y), generator)
        loss = torch.stack(list(losses.values())).sum()
        descend(self.accelerator, self.optimizers["biggan"], loss)
        if plays:
            losses["discriminator"] = self.adversary.discriminator_loss(
                (real, y), (drawn, y), generator
            )
            descend(self.accelerator, self.optimizers["discriminator"], losses["discriminator"])
        update_average(self.average, self.biggan, config.average, step)
        return {name: loss.detach() for name, loss in losses.items()}


class ReducedPriorTraining:
    """The training of the reduced prior; `train` takes it through.

    Args:
        config: settings.
        folder: where everything is written.
        resume: goes on with the training that the folder holds.
        progress: shows a bar on standard error.
        save_every: steps between checkpoints.
        sheet_every: steps between sheets.

    Raises:
        ArgumentError: the folder is a file, or holds a training and `resume` is False.
        CheckpointError: there is nothing to resume, it is damaged, or of other settings.

    Examples:
        >>> from benchmarks.scenes.prior import (
        ...     ReducedPriorConfig,
        ...     ReducedPriorTraining,
        ... )
        >>> config = ReducedPriorConfig(channel_width=4, discriminator_width=4)
        >>> training = ReducedPriorTraining(config, getfixture("tmp_path"))
        >>> training.trainer.finished
        False
    """

    def __init__(
        self,
        config: ReducedPriorConfig,
        folder: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        save_every: int = 200,
        sheet_every: int = 500,
    ) -> None:
        check_folder(folder, resume)
        self.config, self.folder, self.progress = config, folder, progress
        self.accelerator = Accelerator(cpu=True)
        with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed), torch.device("cpu")):
            self.biggan, self.average = (TrainableBigGAN(config.biggan) for _ in range(2))
            nn.init.normal_(self.biggan.embeddings.weight)
            self.discriminator = PatchDiscriminator(
                3, NUM_CLASSES, config.discriminator_width, IMAGE_SIZE
            )
            self.head = make_coarse_head(4 * config.channel_width)
        self.average.load_state_dict(self.biggan.state_dict())
        self.average.requires_grad_(False)
        modules = {
            "biggan": self.biggan,
            "average": self.average,
            "discriminator": self.discriminator,
            "head": self.head,
        }
        for module in modules.values():
            module.to(memory_format=torch.channels_last)
        self.trainer = Trainer(
            folder,
            modules,
            {"coarse": self._coarse_stage, "prior": self._stage},
            asdict(config),
            seed=config.seed,
            draw=self.draw,
            resume=resume,
            save_every=save_every,
            sheet_every=sheet_every,
        )

    def train(self, num_images: int = 256) -> Path:
        """Takes all steps that are left, and writes the generator as the published ones are.

        Args:
            num_images: that the batch statistics of each truncation are taken over.

        Returns:
            The generator's file, which `load_biggan` reads.
        """
        self.trainer.train(progress=self.progress)
        biggan = self._settled().with_standing_statistics(num_images, self.config.seed)
        return write_state(biggan, self.folder / PRIOR_FILE)

    @torch.no_grad()
    def draw(self) -> Figure:
        """Draws scenes, and what the averaged generator makes of their noise."""
        num = 8 * NUM_CLASSES
        generator = step_generator(Purpose.MEASURE, self.config.seed)
        noise = draw_truncated(num, self.config.noise_dim, generator)
        y = torch.arange(num) % NUM_CLASSES
        wanted = scenes_of_noise(noise, y, generator, self.config.seed).images
        drawn = self._settled()(noise, y)
        rows: dict[str, Tensor] = {}
        for row in range(3):
            part = slice(NUM_CLASSES * row, NUM_CLASSES * (row + 1))
            rows |= {f"scene {row + 1}": wanted[part], f"drawn {row + 1}": drawn[part]}
        return draw_sheet(rows)

    def _settled(self) -> TrainableBigGAN:
        """Returns a copy of the averaged generator with singular vectors of length 1 again."""
        biggan = TrainableBigGAN(self.config.biggan).eval()
        biggan.load_state_dict(self.average.state_dict())
        biggan.settle_norms(SETTLING)
        return biggan.to(memory_format=torch.channels_last)

    def _coarse_stage(self) -> Stage:
        return CoarseStage(self.config, self.biggan, self.head, self._pairs(), self.accelerator)

    def _stage(self) -> Stage:
        parts = self.biggan, self.average, self.discriminator
        return PriorStage(self.config, *parts, self._pairs(), self.accelerator)

    def _pairs(self) -> Pairs:
        config = self.config
        return draw_pairs(config.num_images, config.noise_dim, config.seed)


def make_coarse_head(channels: int) -> nn.Module:
    """Returns what makes images (B, 3, H, W) in [-1, 1] of features (B, channels, H, W)."""
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 3, 3, padding=1), nn.Tanh()
    )
