"""A discriminator and the two losses of the adversarial game."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train_generator.losses.discriminators import (
    ConvDiscriminator,
    LinearDiscriminator,
    PatchDiscriminator,
)
from train_generator.losses.functional import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
)
from train_generator.small.config import AdversarialName, FactorsConfig

LOSSES = {
    "hinge": (hinge_generator_loss, hinge_discriminator_loss),
    "lsgan": (lsgan_generator_loss, lsgan_discriminator_loss),
}

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W) float32 in [-1, 1] and their classes (B,) int64."""


class Adversary:
    """Compares the images of a generator with real ones.

    Args:
        discriminator: maps images and classes to scores, or to several of them.
        adversarial: name of the losses.
        accelerator: knows device and precision.

    Examples:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from train_generator.losses.discriminators import PatchDiscriminator
        >>> from train_generator.small.adversary import Adversary
        >>> adversary = Adversary(PatchDiscriminator(), "hinge", Accelerator(cpu=True))
        >>> drawn = torch.zeros(2, 3, 32, 32), torch.tensor([3, 4])
        >>> adversary.generator_loss(drawn, torch.Generator()).shape
        torch.Size([])
    """

    def __init__(
        self, discriminator: nn.Module, adversarial: AdversarialName, accelerator: Accelerator
    ) -> None:
        self.discriminator, self.accelerator = discriminator, accelerator
        self._generator_loss, self._discriminator_loss = LOSSES[adversarial]

    def generator_loss(
        self, drawn: Batch, generator: torch.Generator, noise: float = 0.0
    ) -> Tensor:
        """Returns a scalar that is low if drawn images pass for real ones.

        Args:
            drawn: drawn images; only they get gradients, not the discriminator.
            generator: draws the noise.
            noise: standard deviation of Gaussian noise added to all inputs of the discriminator.
        """
        self.discriminator.requires_grad_(False)
        loss = self._judge(self._generator_loss, generator, noise, drawn)
        self.discriminator.requires_grad_(True)
        return loss

    def discriminator_loss(
        self, real: Batch, drawn: Batch, generator: torch.Generator, noise: float = 0.0
    ) -> Tensor:
        """Returns a scalar that is low if real and drawn images are told apart.

        Args:
            real: real images.
            drawn: drawn images; they get no gradients.
            generator: draws the noise.
            noise: see `generator_loss`.
        """
        images, y = drawn
        batches = real, (images.detach(), y)
        return self._judge(self._discriminator_loss, generator, noise, *batches)

    def _judge(
        self, loss: Callable[..., Tensor], generator: torch.Generator, noise: float, *batches: Batch
    ) -> Tensor:
        """Returns the sum of a loss over the heads of the discriminator."""
        scores = []
        for images, y in batches:
            if noise:
                images = images + noise * draw_normal(images, generator)
            with self.accelerator.autocast():
                scores.append(self.discriminator(images, y))
        heads = [score if isinstance(score, tuple) else (score,) for score in scores]
        each = [loss(*(score.float() for score in head)) for head in zip(*heads, strict=True)]
        return torch.stack(each).sum()


def draw_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns standard normal float32 noise with the shape and device of `like`."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def make_discriminator(config: FactorsConfig, num_classes: int = 10) -> nn.Module:
    """Returns the discriminator for the settings, with weights from the global generator."""
    kinds = {"patch": PatchDiscriminator, "linear": LinearDiscriminator, "conv": ConvDiscriminator}
    kind: Callable[..., nn.Module] = kinds[config.discriminator]
    return kind(num_classes=num_classes, width=config.discriminator_width)
