"""The stage that trains both texture mechanisms on whole textures, made from real images.

In a real image the object hides part of the background, and shows a small part of its own texture.
With the found mask, both are completed to whole images. The mechanisms are the decoders of two
autoencoders of such textures, given the class (Kingma and Welling, Auto-Encoding Variational Bayes,
ICLR 2014). A flow in each mechanism learns to make the codes from noise by maximum likelihood (as
in Dai and Wipf, Diagnosing and Enhancing VAE Models, ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from cgn_augment.generators import SmallCGN
from cgn_augment.generators.flow import CodeFlow
from cgn_augment.parts.textures import ClassPool
from train_generator.losses.functional import kl_loss
from train_generator.small.codes import SLOPE, CodeEncoder, draw_codes, fit_flow
from train_generator.small.config import TexturesConfig
from train_generator.small.masker import rise_and_fall
from train_generator.training.average import update_average
from train_generator.training.stages import descend

CODES_PER_TEXTURE = 2


class TextureEncoder(CodeEncoder):
    """The encoder of textures (B, 3, 32, 32) float32 in [-1, 1].

    Args:
        num_classes: number of classes.
        width: channels of the first convolution.

    Examples:
        >>> import torch
        >>> from train_generator.small.textures import TextureEncoder
        >>> mean, _ = TextureEncoder()(torch.zeros(2, 3, 32, 32), torch.tensor([3, 4]))
        >>> mean.shape
        torch.Size([2, 32])
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for dim_in, dim_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                nn.Conv2d(dim_in, dim_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(dim_out),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        features = nn.Sequential(*layers, nn.Flatten())
        super().__init__(features, 4 * width * 16, (-10.0, 2.0), num_classes=num_classes)


@dataclass(eq=False)
class TexturesStage:
    """Trains the texture mechanisms of `cgn` and two encoders; see `Stage`.

    The first step draws the mechanisms' weights anew, since those from the adversarial game are not
    a good start. The embeddings of the classes, which the shape mechanism shares, stay as they are.

    Args:
        config: settings.
        cgn: CGN whose texture and background mechanisms are trained; its `texture_network` is
            "deep".
        average: a copy of it that gets the running average of the weights.
        accelerator: knows device and precision.
        encoders: encoders of foregrounds and of backgrounds.
        textures: whole foregrounds and whole backgrounds.
    """

    config: TexturesConfig
    cgn: SmallCGN
    average: SmallCGN
    accelerator: Accelerator
    encoders: tuple[TextureEncoder, TextureEncoder]
    textures: tuple[ClassPool, ClassPool]

    name = "textures"

    def __post_init__(self) -> None:
        self.num_steps = self.config.num_steps
        self.mechanisms = self.cgn.f_text1, self.cgn.f_text2
        networks = (*self.mechanisms, *self.encoders)
        trained = [weight for network in networks for weight in network.parameters()]
        adam = torch.optim.Adam(trained, self.config.learning_rate, fused=True)
        self.optimizers: Mapping[str, Any] = {"textures": self.accelerator.prepare(adam)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains autoencoders and flows on one batch of each; see `Stage.step`."""
        if step == 0:
            self._forget()
        config = self.config
        for network in (self.cgn, *self.encoders):
            network.train()
        rise_and_fall(self.optimizers["textures"], config.learning_rate, step, self.num_steps)
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
            flow, num = cast(CodeFlow, mechanism[0]), CODES_PER_TEXTURE
            losses = {
                "reconstruction": config.reconstruction_weight * F.mse_loss(again.float(), images),
                "kl": config.kl_weight * kl_loss(mean, log_variance),
                "flow": fit_flow(flow, mean, log_variance, embedding, num, generator),
            }
            sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
        descend(self.accelerator, self.optimizers["textures"], sum(sums.values(), torch.zeros(())))
        for name in ("f_text1", "f_text2"):
            mean, now = getattr(self.average, name), getattr(self.cgn, name)
            update_average(mean, now, config.average, step)
        return {name: loss.detach() for name, loss in sums.items()}

    def _forget(self) -> None:
        """Draws weights from the global generator, seeded here by (seed, stage, step)."""
        for mechanism in self.mechanisms:
            part: Any
            for part in mechanism[1:].modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
