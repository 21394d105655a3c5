"""The stage that trains both texture mechanisms on real images in which masks were found.

Adversarial training alone draws nearly the same texture whatever the noise. Here the mechanisms are
the decoders of two autoencoders, given the class (Kingma and Welling, Auto-Encoding Variational
Bayes, ICLR 2014): encoders see a real image's object, or its background, and the mechanisms must
draw just that from the code; so every texture of the data has a code. The codes are not standard
normal; a mechanism's flow learns to make them from noise, by maximum likelihood (as in Dai and
Wipf, Diagnosing and Enhancing VAE Models, ICLR 2019). Later a discriminator judges what is drawn
from noise (as in Larsen et al., Autoencoding beyond pixels using a learned similarity metric, ICML
2016, who have it judge what is drawn again, too).
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cgn_augment import SmallCGN
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import compose, move_images
from train_generator.average import update_average
from train_generator.losses import kl_loss, masked_square_loss
from train_generator.recipes.adversary import Adversary, Batch
from train_generator.recipes.batches import RealImages
from train_generator.recipes.codes import draw_codes, flow_loss
from train_generator.recipes.config import TexturesConfig
from train_generator.recipes.masker import set_learning_rate
from train_generator.trainer import descend

LOG_VARIANCE_RANGE = (-8.0, 2.0)
SLOPE = 0.2

Part = tuple[Tensor, Tensor]
"""Images (B, 3, 32, 32) and (B, 1, 32, 32), 1 where they are to be seen."""


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
        cgn: whose texture and background mechanisms are trained; its `texture_network` is "deep".
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
        self.mechanisms = cgn.f_text1, cgn.f_text2
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
        images, y, masks = self._real_batch(step)
        judged = step >= config.adversarial_start * self.num_steps
        num = config.batch_size // 2 if judged else config.batch_size  # the rest is from noise

        seen = self._look(images[:num], masks[:num], generator)
        codes, losses = self._encode(seen, y[:num], generator)
        others = self._draw_classes(config.batch_size - num, generator)
        classes = torch.cat([y[:num], others])
        textures = self._draw(codes, classes, generator)
        losses["reconstruction"] = config.reconstruction_weight * sum(
            masked_square_loss(texture[:num], *part)
            for texture, part in zip(textures, seen, strict=True)
        )
        if judged:
            drawn = self._compose(*(texture[num:] for texture in textures), others, generator)
            noise = left * config.instance_noise
            losses["adversarial"] = self.adversary.generator_loss(drawn, generator, noise)
        self.optimizers["encoders"].zero_grad()
        descend(self.accelerator, self.optimizers["textures"], sum(losses.values()))
        self.optimizers["encoders"].step()
        if judged:
            losses["discriminator"] = self.adversary.discriminator_loss(
                (images, y), drawn, generator, noise
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

    def _look(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> list[Part]:
        """Returns the objects, moved, and the backgrounds of real images.

        Objects are in the centre, so that the borders of foregrounds would never be seen, and the
        digit's place would be learned with them.
        """
        most = self.config.max_move
        offsets = torch.randint(-most, most + 1, (len(images), 2), generator=generator)
        moved = move_images(images, offsets), move_images(masks, offsets)
        return [moved, (images, 1 - masks)]

    def _encode(
        self, seen: list[Part], y: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns codes of foregrounds and of backgrounds, and the losses on them."""
        codes, kl, flow = [], [], []
        embedding = self.cgn.label_emb(y).detach()
        for encoder, mechanism, part in zip(self.encoders, self.mechanisms, seen, strict=True):
            with self.accelerator.autocast():
                mean, log_variance = encoder(*part, y)
            codes.append(draw_codes(mean, log_variance, generator))
            kl.append(kl_loss(mean, log_variance))
            flow.append(flow_loss(mechanism[0], codes[-1], embedding))
        return codes, {
            "kl": self.config.kl_weight * torch.stack(kl).sum(),
            "flow": torch.stack(flow).sum(),
        }

    def _draw(self, codes: list[Tensor], y: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Draws textures from the codes, followed by as many from noise as there are classes."""
        embedding, textures = self.cgn.label_emb(y).detach(), []
        for mechanism, code in zip(self.mechanisms, codes, strict=True):
            noise = self.cgn.draw_noise(len(y) - len(code), generator)
            with torch.no_grad():  # a flow learns from codes alone
                inputs = mechanism[0](torch.cat([noise, embedding[len(code) :]], dim=1))
            inputs = torch.cat([torch.cat([code, embedding[: len(code)]], dim=1), inputs])
            with self.accelerator.autocast():
                textures.append(mechanism[1:](inputs).float())
        return textures

    def _draw_classes(self, num: int, generator: torch.Generator) -> Tensor:
        y = torch.randint(self.cgn.num_classes, (num,), generator=generator)
        return y.to(self.cgn.device)

    def _compose(
        self, foreground: Tensor, background: Tensor, y: Tensor, generator: torch.Generator
    ) -> Batch:
        """Returns images of found masks of the classes, and the classes."""
        return compose(self.drawn_masks.draw(y, generator), foreground, background), y

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
