"""The adversarial stage: the three mechanisms against a discriminator of whole images.

With the settings in `paper/` this is the complete training of Sauer and Geiger, ICLR 2021,
appendix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cgn_augment.functional import compose, roll_randomly
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.small import MASK_MAX, MASK_MIN
from train_generator.losses.functional import mask_border_loss, mask_entropy_loss, mask_size_loss
from train_generator.losses.perceptual import (
    PerceptualFeatures,
    perceptual_loss,
    released_gram_weights,
)
from train_generator.small.adversary import Adversary
from train_generator.small.batches import RealImages
from train_generator.small.blobs import weights_outside_flow
from train_generator.small.config import FactorsConfig
from train_generator.small.initialization import BATCH_NORMS
from train_generator.training.average import update_average
from train_generator.training.stages import descend


@dataclass(eq=False)
class FactorsStage:
    """Trains `cgn` and `discriminator`, and keeps `average` up to date; see `Stage`.

    A flow in a mechanism is left as it is; at the start it has no effect. Textures are moved around
    the torus, so that they cannot carry a shape, whatever `SmallCGN.shuffle` does later.

    Args:
        config: settings.
        cgn: the network to train.
        average: a copy of it that gets the running average of the weights.
        accelerator: knows device and precision.
        discriminator: see `make_discriminator`.
        real: the biased images.
        features: features of the Gram loss; None leaves it out.
    """

    config: FactorsConfig
    cgn: SmallCGN
    average: SmallCGN
    accelerator: Accelerator
    discriminator: nn.Module
    real: RealImages
    features: PerceptualFeatures | None

    name = "factors"

    def __post_init__(self) -> None:
        config, prepare = self.config, self.accelerator.prepare
        self.num_steps = config.num_steps
        self.adversary = Adversary(self.discriminator, config.adversarial, self.accelerator)
        self.gram_weights = released_gram_weights(config.gram_weights)
        adam = partial(torch.optim.Adam, betas=(0.5, config.beta2), fused=True)
        judge = adam(self.discriminator.parameters(), config.discriminator_learning_rate)
        self.optimizers: Mapping[str, Any] = {
            "generator": prepare(adam(self._generator_groups())),
            "discriminator": prepare(judge),
        }

    def _generator_groups(self) -> list[dict[str, Any]]:
        """Returns the generator's weights with their learning rates."""
        rate, factor = self.config.learning_rate, self.config.normalization_rate
        norms = [part for part in self.cgn.modules() if isinstance(part, BATCH_NORMS)]
        scales = {id(weight) for norm in norms for weight in norm.parameters()}
        weights = weights_outside_flow(self.cgn)
        return [
            {"params": [w for w in weights if id(w) not in scales], "lr": rate},
            {"params": [w for w in weights if id(w) in scales], "lr": rate * factor},
        ]

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the generator, then the discriminator, on one batch; see `Stage.step`."""
        config = self.config
        self.cgn.train()
        images, labels = self.real.batch(step, config.batch_size)
        y = self._draw_classes(generator)
        mask, foreground, background = self._draw_factors(y, generator)
        generated = compose(mask, foreground, background)

        drawn, noise = (generated, y), config.instance_noise
        losses = {
            "adversarial": self.adversary.generator_loss(drawn, generator, noise),
            **self._mask_losses(mask, step),
        }
        if self.features is not None:
            losses["gram"] = perceptual_loss(self.features, generated, images, self.gram_weights)
        loss = sum(losses.values(), torch.zeros(()))
        descend(self.accelerator, self.optimizers["generator"], loss)

        losses["discriminator"] = self.adversary.discriminator_loss(
            (images, labels), drawn, generator, noise
        )
        descend(self.accelerator, self.optimizers["discriminator"], losses["discriminator"])
        update_average(self.average, self.cgn, config.average, step)
        return {name: loss.detach() for name, loss in losses.items()}

    def _draw_classes(self, generator: torch.Generator) -> Tensor:
        share = self.config.images_per_texture
        num = self.config.batch_size // share
        y = torch.randint(self.cgn.num_classes, (num,), generator=generator)
        return y.repeat_interleave(share).to(self.cgn.device)

    def _draw_factors(self, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Runs each mechanism on its own noise; neighbours share textures."""
        cgn, share = self.cgn, self.config.images_per_texture
        with self.accelerator.autocast():
            mask = cgn.shape(cgn.draw_noise(len(y), generator), y)
            textures = [
                mechanism(cgn.draw_noise(len(y) // share, generator), y[::share])
                for mechanism in (cgn.texture, cgn.background)
            ]
        foreground, background = (
            roll_randomly(texture.float().repeat_interleave(share, dim=0), generator)
            for texture in textures
        )
        return mask.float().clamp(MASK_MIN, MASK_MAX), foreground, background

    def _mask_losses(self, mask: Tensor, step: int) -> dict[str, Tensor]:
        config = self.config
        warmup = min(1.0, (step + 1) / config.entropy_warmup) if config.entropy_warmup else 1.0
        losses = {"entropy": config.entropy_weight * warmup * mask_entropy_loss(mask)}
        if config.size_weight:
            size = mask_size_loss(mask, config.size_low, config.size_high)
            losses["size"] = config.size_weight * size
        if config.border_weight:
            losses["border"] = config.border_weight * mask_border_loss(mask, config.border)
        return losses
