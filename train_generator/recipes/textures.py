"""The stage that trains both texture mechanisms on real images in which masks were found.

Adversarial training alone draws nearly the same texture whatever the noise. Here half of a batch is
an autoencoder's: encoders see a real image's object, or its background, and the mechanisms must
draw just that from the code; so every texture of the data has a code. The other half is drawn from
noise, and a discriminator judges both halves (Larsen et al., Autoencoding beyond pixels using a
learned similarity metric, ICML 2016).
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cgn_augment import SmallCGN
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import compose, roll_images
from train_generator.average import update_average
from train_generator.losses import kl_loss, masked_square_loss
from train_generator.recipes.adversary import Adversary, draw_normal
from train_generator.recipes.batches import RealImages
from train_generator.recipes.config import TexturesConfig
from train_generator.recipes.masker import set_learning_rate
from train_generator.trainer import descend

LOG_VARIANCE_RANGE = (-8.0, 2.0)
SLOPE = 0.2


class TextureEncoder(nn.Module):
    """Maps the visible part of a texture and its class to mean and log variance of a code.

    Args:
        code_dim: length of a code.
        num_classes: classes.
        width: channels of the first convolution.

    Example:
        >>> import torch
        >>> from train_generator.recipes.textures import TextureEncoder
        >>> images, visible = torch.zeros(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
        >>> mean, log_variance = TextureEncoder()(images, visible, torch.tensor([3, 4]))
        >>> mean.shape
        torch.Size([2, 32])
    """

    def __init__(self, code_dim: int = 32, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dim_in, dim_out in ((4, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                nn.Conv2d(dim_in, dim_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(dim_out),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classes = nn.Embedding(num_classes, 64)
        self.head = nn.Sequential(
            nn.Linear(4 * width * 16 + 64, 256),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(256, 2 * code_dim),
        )

    def forward(self, images: Tensor, visible: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes what is visible of each image.

        Args:
            images: (B, 3, 32, 32) float32 in [-1, 1].
            visible: (B, 1, 32, 32) float32, 1 where the texture is.
            y: (B,) int64 classes.

        Returns:
            Mean and logarithm of the variance, each (B, code_dim) float32.
        """
        features = self.features(torch.cat([images * visible, visible], dim=1))
        codes = self.head(torch.cat([features, self.classes(y)], dim=1)).float()
        mean, log_variance = codes.chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class TexturesStage:
    """Trains the texture mechanisms of `cgn`, two encoders and the discriminator; see `Stage`.

    The embeddings of the classes, which the shape mechanism shares, stay as they are.

    Args:
        config: settings.
        cgn: whose texture and background mechanisms are trained.
        average: a copy of it that gets the running average of the weights.
        encoders: of foregrounds and of backgrounds.
        adversary: judges whole images.
        real: the biased images.
        found: (N, 1, 32, 32) bool masks of these images.
        accelerator: knows device and precision.

    Raises:
        ArgumentError: another number of masks than of images.
    """

    name = "textures"

    def __init__(
        self,
        config: TexturesConfig,
        cgn: SmallCGN,
        average: SmallCGN,
        encoders: tuple[TextureEncoder, TextureEncoder],
        adversary: Adversary,
        real: RealImages,
        found: Tensor,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.cgn, self.average, self.encoders = cgn, average, encoders
        self.adversary, self.real, self.accelerator = adversary, real, accelerator
        self.masks, self.drawn_masks = found, FoundMasks(found, real.labels)
        textures = [*cgn.f_text1.parameters(), *cgn.f_text2.parameters()]
        encoding = [weight for encoder in encoders for weight in encoder.parameters()]
        judging = list(adversary.discriminator.parameters())
        self.rates = {
            "textures": config.learning_rate,
            "encoders": config.encoder_learning_rate,
            "discriminator": config.discriminator_learning_rate,
        }
        weights = {"textures": textures, "encoders": encoding, "discriminator": judging}
        self.optimizers = {
            name: accelerator.prepare(
                torch.optim.Adam(weights[name], rate, betas=(0.5, 0.99), fused=True)
            )
            for name, rate in self.rates.items()
        }

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains mechanisms and encoders, then the discriminator, on one batch; see `Stage`."""
        config, left = self.config, self._left(step)
        for name, rate in self.rates.items():
            set_learning_rate(self.optimizers[name], left * rate)
        for network in (self.cgn, *self.encoders):
            network.train()
        images, labels, masks = self._real_batch(step)
        half = config.batch_size // 2
        offsets = self._draw_offsets(half, generator)
        codes, kl = self._encode(images[:half], masks[:half], labels[:half], offsets, generator)
        y = torch.randint(self.cgn.num_classes, (half,), generator=generator).to(labels.device)
        foreground, background = self._draw(codes, torch.cat([labels[:half], y]), generator)

        back = roll_images(foreground[:half], -offsets)
        again = compose(masks[:half], back, background[:half])
        others = compose(
            self.drawn_masks.draw(y, generator),
            self.cgn.shuffle(foreground[half:], generator),
            self.cgn.shuffle(background[half:], generator),
        )
        drawn = torch.cat([again, others]), torch.cat([labels[:half], y])
        noise = left * config.instance_noise
        losses = {
            "adversarial": self.adversary.generator_loss(drawn, generator, noise),
            "reconstruction": config.reconstruction_weight
            * self._reconstruction(again, images[:half], masks[:half]),
            "kl": config.kl_weight * kl,
        }
        self.optimizers["encoders"].zero_grad()
        descend(self.accelerator, self.optimizers["textures"], sum(losses.values()))
        self.optimizers["encoders"].step()

        losses["discriminator"] = self.adversary.discriminator_loss(
            (images, labels), drawn, generator, noise
        )
        descend(self.accelerator, self.optimizers["discriminator"], losses["discriminator"])
        self._update_average(step)
        return {name: loss.detach() for name, loss in losses.items()}

    def _left(self, step: int) -> float:
        """The share of learning rates and noise: down to 0 in the last two fifths."""
        return min(1.0, (self.num_steps - step) / max(1.0, 0.4 * self.num_steps))

    def _real_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns a step's images and labels, and the masks that were found in these images."""
        chosen = self.real.choose(step, self.config.batch_size)
        images, labels = self.real.batch(step, self.config.batch_size)
        return images, labels, self.masks[chosen].float().to(images.device)

    def _draw_offsets(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns how far each object is moved around the torus before it is encoded.

        Objects are in the centre, so that the borders of foregrounds would never be seen.
        """
        return torch.randint(self.cgn.image_size, (num, 2), generator=generator)

    def _encode(
        self,
        images: Tensor,
        masks: Tensor,
        y: Tensor,
        offsets: Tensor,
        generator: torch.Generator,
    ) -> tuple[list[Tensor], Tensor]:
        """Returns the codes of moved foregrounds and of backgrounds, and their divergence."""
        moved = roll_images(images, offsets), roll_images(masks, offsets)
        codes, kl = [], images.new_zeros(())
        for encoder, seen in zip(self.encoders, (moved, (images, 1 - masks)), strict=True):
            with self.accelerator.autocast():
                mean, log_variance = encoder(*seen, y)
            codes.append(mean + draw_normal(mean, generator) * (log_variance / 2).exp())
            kl = kl + kl_loss(mean, log_variance)
        return codes, kl

    def _draw(
        self, codes: list[Tensor], y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws textures from the codes, followed by as many from noise, in one pass each."""
        textures = []
        for mechanism, code in zip((self.cgn.texture, self.cgn.background), codes, strict=True):
            noise = self.cgn.draw_noise(len(y) - len(code), generator)
            with self.accelerator.autocast():
                textures.append(mechanism(torch.cat([code, noise]), y).float())
        foreground, background = textures
        return foreground, background

    def _reconstruction(self, again: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """The error of the object and that of the background; both count the same."""
        return masked_square_loss(again, images, masks) + masked_square_loss(
            again, images, 1 - masks
        )

    def _update_average(self, step: int) -> None:
        for name in ("f_text1", "f_text2"):
            mean, now = getattr(self.average, name), getattr(self.cgn, name)
            update_average(mean, now, self.config.average, step)


class FoundMasks:
    """Masks that were found in real images, to be drawn by class.

    Args:
        masks: (N, 1, H, W) bool.
        labels: (N,) int64 classes of the images.

    Raises:
        ArgumentError: another number of labels, or none.
    """

    def __init__(self, masks: Tensor, labels: Tensor) -> None:
        if len(masks) != len(labels) or len(labels) == 0:
            raise ArgumentError(
                f"masks and labels must be as many, got {len(masks)} and {len(labels)}"
            )
        order = labels.argsort(stable=True)
        self.masks = masks[order]
        self.counts = labels.bincount()
        self.known = set(labels.tolist())
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a random mask of each class, (B, 1, H, W) float32 on the classes' device."""
        classes = y.cpu()
        if not set(classes.tolist()) <= self.known:
            raise ArgumentError("there is no found mask of one of the classes: use more images")
        place = torch.rand(len(classes), generator=generator, dtype=torch.float64)
        index = self.starts[classes] + (place * self.counts[classes]).long()
        return self.masks[index].float().to(y.device)
