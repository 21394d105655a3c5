"""The stage that trains the shape mechanism on the masks found in real images.

An encoder and the mechanism's decoder form a variational autoencoder of masks, given the class
(Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014). Its codes are not standard normal.
The mechanism's flow learns to make them from noise by maximum likelihood (as in Dai and Wipf,
Diagnosing and Enhancing VAE Models, ICLR 2019, where a second autoencoder does it). A classifier of
found masks, trained alongside, detects drawn masks of a wrong class.
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
from train_generator.losses.functional import kl_loss
from train_generator.small.batches import RealImages
from train_generator.small.codes import SLOPE, CodeEncoder, draw_codes, fit_flow
from train_generator.small.config import ShapesConfig
from train_generator.small.masker import rise_and_fall
from train_generator.training.average import update_average
from train_generator.training.stages import descend


class MaskEncoder(CodeEncoder):
    """The encoder of masks (B, 1, 32, 32) float32 in [0, 1].

    Args:
        num_classes: number of classes.
        width: channels of the first convolution.

    Examples:
        >>> import torch
        >>> from train_generator.small.shapes import MaskEncoder
        >>> mean, log_variance = MaskEncoder()(torch.zeros(2, 1, 32, 32), torch.tensor([3, 4]))
        >>> mean.shape
        torch.Size([2, 32])
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Flatten(),
        )
        super().__init__(layers, 2 * width * 16, (-8.0, 4.0), num_classes=num_classes)

    def forward(self, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps masks and their classes (B,) to two tensors (B, 32) float32."""
        return super().forward(mask - 0.5, y)


class MaskClassifier(nn.Sequential):
    """Maps masks (B, 1, 32, 32) in [0, 1] to scores of classes (B, num_classes).

    Args:
        num_classes: number of classes.
        width: channels of the first convolution.

    Examples:
        >>> import torch
        >>> from train_generator.small.shapes import MaskClassifier
        >>> MaskClassifier()(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for dim_in, dim_out in ((1, width), (width, 2 * width), (2 * width, 2 * width)):
            layers += [
                nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(dim_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(2 * width * 16, num_classes))


@torch.no_grad()
def sharpen(cgn: SmallCGN, factor: float) -> None:
    """Multiplies the logits of masks, in place.

    Masks of an autoencoder are grey where it is unsure, which makes soft edges that real images do
    not have.

    Args:
        cgn: its `shape_network` is "deep".
        factor: above 1 for sharper masks. Masks thresholded at 1/2 do not change.
    """
    for weight in cgn.f_shape[-2].parameters():
        weight.mul_(factor)


@dataclass(eq=False)
class ShapesStage:
    """Trains the shape mechanism of `cgn`, its encoder and the classifier; see `Stage`.

    The embeddings of the classes, which the textures share, stay as they are.

    Args:
        config: settings.
        cgn: CGN whose shape mechanism is trained; its `shape_network` is "deep".
        average: a copy of it that gets the running average of the weights.
        accelerator: knows device and precision.
        encoder: encoder of masks.
        classifier: classifier of masks.
        found: masks found in real images, as images, with their labels.
    """

    config: ShapesConfig
    cgn: SmallCGN
    average: SmallCGN
    accelerator: Accelerator
    encoder: MaskEncoder
    classifier: MaskClassifier
    found: RealImages

    name = "shapes"

    def __post_init__(self) -> None:
        shape, prepare = self.cgn.f_shape, self.accelerator.prepare
        self.num_steps = self.config.num_steps
        self.flow = cast(CodeFlow, shape[0])
        self.decoder = shape[1:-1]  # without the sigmoid
        trained = [*shape.parameters(), *self.encoder.parameters()]
        self.optimizers: Mapping[str, Any] = {
            "shapes": prepare(torch.optim.Adam(trained, self.config.learning_rate)),
            "classifier": prepare(torch.optim.Adam(self.classifier.parameters(), 1e-3)),
        }

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains classifier, autoencoder and flow on one batch of masks; see `Stage.step`."""
        config = self.config
        for network in (self.cgn, self.encoder, self.classifier):
            network.train()
        rise_and_fall(self.optimizers["shapes"], config.learning_rate, step, self.num_steps)
        found, labels = self.found.batch(step, config.batch_size)
        mask = found.float()

        recognised = F.cross_entropy(self._classify(mask), labels)
        descend(self.accelerator, self.optimizers["classifier"], recognised)

        with self.accelerator.autocast():
            mean, log_variance = self.encoder(mask, labels)
        embedding = self.cgn.label_emb(labels).detach()
        codes = draw_codes(mean, log_variance, generator)
        losses = {
            "reconstruction": self._reconstruct(codes, embedding, mask),
            "kl": config.kl_weight * kl_loss(mean, log_variance),
            "flow": fit_flow(
                self.flow, mean, log_variance, embedding, config.codes_per_mask, generator
            ),
        }
        if config.class_weight:
            losses["class"] = config.class_weight * self._class_loss(step, generator)
        descend(self.accelerator, self.optimizers["shapes"], sum(losses.values(), torch.zeros(())))
        update_average(self.average.f_shape, self.cgn.f_shape, config.average, step)
        return {"recognised": recognised.detach(), **{k: v.detach() for k, v in losses.items()}}

    def _classify(self, mask: Tensor) -> Tensor:
        with self.accelerator.autocast():
            scores: Tensor = self.classifier(mask - 0.5)
        return scores.float()

    def _reconstruct(self, codes: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        with self.accelerator.autocast():
            logits = self.decoder(torch.cat([codes, embedding], dim=1))
        loss = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="sum")
        return loss / len(mask)

    def _class_loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The cross entropy of drawn masks, once the classifier has learned enough."""
        num = self.config.batch_size
        y = torch.randint(self.cgn.num_classes, (num,), generator=generator).to(self.cgn.device)
        noise = self.cgn.draw_noise(num, generator)
        embedding = self.cgn.label_emb(y).detach()
        inputs = self.flow(torch.cat([noise, embedding], dim=1))
        with self.accelerator.autocast():
            mask = self.decoder(inputs).sigmoid()
        self.classifier.requires_grad_(False).eval()
        loss = F.cross_entropy(self._classify(mask.float()), y)
        self.classifier.requires_grad_(True)
        warmup = self.config.class_warmup
        return loss * min(1.0, step / warmup) if warmup else loss
