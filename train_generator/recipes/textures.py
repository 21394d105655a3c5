"""The stage that trains both texture mechanisms on whole textures, made from real images.

In a real image the object covers a part of the background, and shows a small part of its own
texture. With the mask that was found, both are completed to whole images. The mechanisms are the
decoders of two autoencoders of some of these, given the class (Kingma and Welling, Auto-Encoding
Variational Bayes, ICLR 2014), and a mechanism's flow learns to make the codes from noise, by
maximum likelihood (as in Dai and Wipf, Diagnosing and Enhancing VAE Models, ICLR 2019).
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from cgn_augment import SmallCGN
from cgn_augment.errors import ArgumentError
from train_generator.average import update_average
from train_generator.losses import kl_loss
from train_generator.recipes.codes import draw_codes, fit_flow
from train_generator.recipes.completion import complete
from train_generator.recipes.config import TexturesConfig
from train_generator.recipes.masker import rise_and_fall, set_learning_rate
from train_generator.trainer import descend

LOG_VARIANCE_RANGE = (-10.0, 2.0)
SLOPE = 0.2
CODES_PER_TEXTURE = 2
SEARCHED, TOO_LARGE = 25, 0.05
"""Foregrounds: images looked at for each that is wanted, and the share of the largest objects among
them that is left out, where a mask may hold more than the object."""


class TextureEncoder(nn.Module):
    """Maps a texture and its class to mean and logarithm of the variance of a code.

    Args:
        code_dim: length of a code.
        num_classes: classes.
        width: channels of the first convolution.

    Example:
        >>> import torch
        >>> from train_generator.recipes.textures import TextureEncoder
        >>> mean, _ = TextureEncoder()(torch.zeros(2, 3, 32, 32), torch.tensor([3, 4]))
        >>> mean.shape
        torch.Size([2, 32])
    """

    def __init__(self, code_dim: int = 32, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dim_in, dim_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
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

    def forward(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Takes (B, 3, 32, 32) float32 in [-1, 1] and (B,) classes; returns two (B, code_dim)."""
        codes = self.head(torch.cat([self.features(images), self.classes(y)], dim=1)).float()
        mean, log_variance = codes.chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class TexturesStage:
    """Trains the texture mechanisms of `cgn` and two encoders; see `Stage`.

    The embeddings of the classes, which the shape mechanism shares, stay as they are.

    Args:
        config: settings.
        cgn: whose texture and background mechanisms are trained; its `texture_network` is "deep".
        average: a copy of it that gets the running average of the weights.
        encoders: of foregrounds and of backgrounds.
        textures: whole foregrounds and whole backgrounds.
        accelerator: knows device and precision.
        anew: draws the mechanisms' weights anew in the first step: what the adversarial game made
            of them is no start.
    """

    name = "textures"

    def __init__(
        self,
        config: TexturesConfig,
        cgn: SmallCGN,
        average: SmallCGN,
        encoders: tuple[TextureEncoder, TextureEncoder],
        textures: tuple[ClassPool, ClassPool],
        accelerator: Accelerator,
        *,
        anew: bool = True,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.cgn, self.average, self.encoders = cgn, average, encoders
        self.textures, self.accelerator, self.anew = textures, accelerator, anew
        self.mechanisms = cgn.f_text1, cgn.f_text2
        networks = (*self.mechanisms, *encoders)
        trained = [weight for network in networks for weight in network.parameters()]
        adam = torch.optim.Adam(trained, config.learning_rate, fused=True)
        self.optimizers = {"textures": accelerator.prepare(adam)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains autoencoders and flows on one batch of each; see `Stage.step`."""
        if self.anew and step == 0:
            self._forget()
        config = self.config
        for network in (self.cgn, *self.encoders):
            network.train()
        set_learning_rate(
            self.optimizers["textures"], config.learning_rate * rise_and_fall(step, self.num_steps)
        )
        y = torch.randint(self.cgn.num_classes, (config.batch_size,), generator=generator)
        y = y.to(self.cgn.device)
        embedding = self.cgn.label_emb(y).detach()
        sums: dict[str, Tensor] = {}
        for mechanism, encoder, pool in zip(
            self.mechanisms, self.encoders, self.textures, strict=True
        ):
            images = pool.draw(y, generator)
            with self.accelerator.autocast():
                mean, log_variance = encoder(images, y)
                codes = draw_codes(mean, log_variance, generator)
                again = mechanism[1:](torch.cat([codes, embedding], dim=1))
            losses = {
                "reconstruction": config.reconstruction_weight * F.mse_loss(again.float(), images),
                "kl": config.kl_weight * kl_loss(mean, log_variance),
                "flow": fit_flow(
                    mechanism[0], mean, log_variance, embedding, CODES_PER_TEXTURE, generator
                ),
            }
            sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
        descend(self.accelerator, self.optimizers["textures"], sum(sums.values()))
        for name in ("f_text1", "f_text2"):
            mean, now = getattr(self.average, name), getattr(self.cgn, name)
            update_average(mean, now, config.average, step)
        return {name: loss.detach() for name, loss in sums.items()}

    def _forget(self) -> None:
        """Draws weights from the global generator, which depends on (seed, stage, step) here."""
        for mechanism in self.mechanisms:
            for part in mechanism[1:].modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()


class ClassPool:
    """Images to be drawn by class.

    Args:
        images: (N, C, H, W) float32.
        labels: (N,) int64.

    Raises:
        ArgumentError: another number of labels, or none.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels) or len(labels) == 0:
            raise ArgumentError(
                f"images and labels must be as many, got {len(images)} and {len(labels)}"
            )
        order = labels.argsort(stable=True)
        self.images = images[order]
        self.counts = labels.bincount()
        self.known = set(labels.tolist())
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a random image of each class, (B, C, H, W) on the classes' device."""
        classes = y.cpu()
        if not set(classes.tolist()) <= self.known:
            raise ArgumentError("there is no image of one of the classes: use more images")
        place = torch.rand(len(classes), generator=generator, dtype=torch.float64)
        index = self.starts[classes] + (place * self.counts[classes]).long()
        return self.images[index].to(y.device)


def whole_textures(
    images: Tensor, labels: Tensor, found: Tensor, num: int
) -> tuple[ClassPool, ClassPool]:
    """Makes whole foregrounds and backgrounds from real images.

    Where none of a class can be completed, as after a few steps of training, there is a warning,
    and what is missing gets the mean colour of what is known.

    Args:
        images: (N, 3, 32, 32) float32 in [-1, 1].
        labels: (N,) int64.
        found: (N, 1, 32, 32) bool masks of the objects.
        num: of each a class, or fewer where fewer can be completed.
    """
    kinds = {"foreground": (_large, _of_object), "background": (_first, _outside)}
    classes = labels.unique()
    pools = []
    for name, (choose, see) in kinds.items():
        whole: list[Tensor] = []
        incomplete: list[int] = []
        counts: list[int] = []
        for y in classes.tolist():
            chosen = choose((labels == y).nonzero().flatten(), found, num)
            completed, now_known = complete(images[chosen], see(found[chosen]))
            ready = now_known.flatten(1).all(dim=1)
            if ready.any():
                whole.append(completed[ready][:num])
            else:
                whole.append(_fill_with_mean(completed, now_known)[:num])
                incomplete.append(y)
            counts.append(len(whole[-1]))
        if incomplete:
            warnings.warn(
                f"no {name} of the classes {incomplete} could be completed from the masks that "
                "were found, so the mean colour fills them: look at the sheets, and train the "
                "stages before this one longer, or with another seed",
                stacklevel=2,
            )
        pools.append(ClassPool(torch.cat(whole), classes.repeat_interleave(torch.tensor(counts))))
    return pools[0], pools[1]


def _fill_with_mean(images: Tensor, known: Tensor) -> Tensor:
    """Gives what is not known the mean of what is known of the same image, or 0."""
    num = known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = (images * known).sum(dim=(2, 3), keepdim=True) / num
    return images * known + mean * (1 - known)


def _of_object(found: Tensor) -> Tensor:
    """Where an object is seen."""
    return found.float()


def _outside(found: Tensor) -> Tensor:
    """Where a background is seen: not within a pixel of the object, whose mask may be too small."""
    return 1 - F.max_pool2d(found.float(), 3, stride=1, padding=1)


def _first(places: Tensor, found: Tensor, num: int) -> Tensor:
    """The first images, twice as many as are wanted."""
    return places[: 2 * num]


def _large(places: Tensor, found: Tensor, num: int) -> Tensor:
    """Of more images those that show most of their object, twice as many as are wanted."""
    places = places[: SEARCHED * num]
    order = found[places].flatten(1).sum(dim=1).argsort(descending=True, stable=True)
    return places[order[round(TOO_LARGE * len(order)) :]][: 2 * num]
