"""A step with the paper's settings has the losses of the paper, written down plainly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from conftest import VARIANT_NAMES
from published_layers import use_published_layers
from torch import Tensor, nn

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from train_generator.losses.perceptual import PerceptualFeatures
from train_generator.small import config as config_module
from train_generator.small.adversary import make_discriminator
from train_generator.small.batches import RealImages
from train_generator.small.config import FactorsConfig
from train_generator.small.factors import FactorsStage
from train_generator.small.initialization import initialize

PAPER = Path(config_module.__file__).parent / "paper"
BATCH_SIZE = 4


@pytest.fixture(autouse=True)
def rng() -> Iterator[None]:
    """Dropout draws from the global generators, which other tests must not see."""
    with isolated_rng(0, torch.device("cpu")):
        yield


class Plainly:
    """All mechanisms in one pass, textures tiled and cropped one by one, all four Gram losses."""

    def __init__(
        self,
        config: FactorsConfig,
        cgn: SmallCGN,
        discriminator: nn.Module,
        real: RealImages,
        vgg: nn.Sequential,
    ) -> None:
        self.config, self.cgn, self.discriminator, self.real = config, cgn, discriminator, real
        self.vgg = vgg
        betas = (0.5, config.beta2)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), rate, betas)
            for network, rate in (
                (cgn, config.learning_rate),
                (discriminator, config.discriminator_learning_rate),
            )
        ]

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.real.batch(step, BATCH_SIZE)
        y = torch.randint(self.cgn.num_classes, (BATCH_SIZE,), generator=generator)
        noises = [self.cgn.draw_noise(BATCH_SIZE, generator) for _ in range(3)]
        mask = self.cgn.shape(noises[0], y)
        foreground = crop_tiles(self.cgn.texture(noises[1], y), generator)
        background = crop_tiles(self.cgn.background(noises[2], y), generator)
        generated = mask * foreground + (1 - mask) * background
        scores = self.discriminator(generated, y)
        bits = -mask * torch.log2(mask) - (1 - mask) * torch.log2(1 - mask)
        losses = {
            "adversarial": F.mse_loss(scores, torch.ones_like(scores)),
            "entropy": self.config.entropy_weight * bits.mean(),
            "gram": self.gram_loss(generated, images),
        }
        descend(self.optimizers[0], sum(losses.values()))

        real, drawn = self.discriminator(images, labels), self.discriminator(generated.detach(), y)
        losses["discriminator"] = (real - 1).square().mean() / 2 + drawn.square().mean() / 2
        descend(self.optimizers[1], losses["discriminator"])
        return {name: loss.detach() for name, loss in losses.items()}

    def gram_loss(self, generated: Tensor, real: Tensor) -> Tensor:
        total, weights = torch.zeros(()), iter(self.config.gram_weights)
        for layer in self.vgg:
            if isinstance(layer, nn.MaxPool2d):
                loss = F.l1_loss(gram(generated), gram(real))
                total = total + next(weights) ** 2 * 5000 * loss
            generated, real = layer(generated), layer(real)
        return total


def gram(maps: Tensor) -> Tensor:
    flat = maps.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / maps[0].numel()


def crop_tiles(images: Tensor, generator: torch.Generator) -> Tensor:
    size = images.shape[-1]
    corners = torch.randint(size + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [
            image.repeat(1, 2, 2)[:, top : top + size, left : left + size]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
    )


def descend(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make_vgg() -> nn.Sequential:
    """Four blocks as VGG-16 has them, with 8 channels each."""
    layers: list[nn.Module] = []
    for channels in (3, 8, 8, 8):
        conv = nn.Conv2d(channels, 8, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers).requires_grad_(False)


def take_step(way: Plainly | FactorsStage, step: int) -> dict[str, Tensor]:
    torch.manual_seed(step)  # dropout
    return way.step(step, torch.Generator().manual_seed(step))


@pytest.mark.parametrize("variant", VARIANT_NAMES)
def test_losses_are_those_of_the_paper_written_down_plainly(variant: str) -> None:
    factors = yaml.safe_load((PAPER / f"{variant}.yaml").read_text())["factors"]
    factors |= {"gram_weights": tuple(factors["gram_weights"]), "batch_size": BATCH_SIZE}
    config = FactorsConfig(**factors)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=generator) * 2 - 1
    real = RealImages(images, torch.arange(8))
    cgn, discriminator, vgg = (
        SmallCGN(shape_network="published"),
        make_discriminator(config),
        make_vgg(),
    )
    initialize(cgn, config.initialization, config.gain, generator=generator)
    parts = copy.deepcopy(cgn), copy.deepcopy(discriminator)
    plain = Plainly(config, use_published_layers(parts[0]), parts[1], real, vgg)
    average = copy.deepcopy(cgn).requires_grad_(False)
    features = PerceptualFeatures(list(vgg)[:-1])
    accelerator = Accelerator(cpu=True)
    ours = FactorsStage(config, cgn, average, accelerator, discriminator, real, features)
    for step in range(3):
        # From the same weights: Adam's first steps turn a gradient of any size, and so rounding
        # too, into a step of the learning rate.
        cgn.load_state_dict(plain.cgn.state_dict())
        discriminator.load_state_dict(plain.discriminator.state_dict())
        expected, found = take_step(plain, step), take_step(ours, step)
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, rtol=1e-5, atol=1e-5)
