"""What a step of the published training costs, against a straightforward implementation of it.

    python benchmarks/training.py

The settings are those of `train_generator/small/paper/`: batches of 16, the features of VGG-16.
Its weights are random here, for both ways the same; that changes no cost. Everything is measured
in rounds: in a round each way takes some steps in turn, so that a slow moment of the machine meets
both; the ratio is taken within the rounds, and its median counts.

- straightforward: what the paper says, written down plainly. All three mechanisms run in one pass,
  textures are tiled and cropped one by one, the whole of VGG-16's convolutions runs on the
  generated and on the real batch, hooks keep the four feature maps, and all four Gram losses are
  computed, whatever their weights.
- ours, first epoch: `FactorsStage` on images that it has not seen.
- ours, later epochs: the same on images that it has seen, whose Gram matrices it remembers.
- ours: the mean over the paper's 15 epochs, one of the former and 14 of the latter.

Before that, both take the same steps: from the same weights, with the same batches, classes, noise,
crops and dropout, on images that are seen and then seen again. A loss that differs by more than
1e-5 fails the benchmark.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from published_layers import use_published_layers
from torch import Tensor, nn
from torchvision.models import vgg16
from tqdm import tqdm

import train_generator.small
from cgn_augment import CGNError, SmallCGN
from cgn_augment.functional import isolated_rng
from train_generator.losses.perceptual import PerceptualFeatures, random_vgg16_features
from train_generator.mnist import Variant, make_variant
from train_generator.small.adversary import make_discriminator
from train_generator.small.batches import RealImages
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)
from train_generator.small.factors import FactorsStage
from train_generator.small.initialization import initialize

PAPER = Path(train_generator.small.__file__).parent / "paper"
RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-5
NUM_EPOCHS = 15
WARM_UP = 3
NUM_SEEN = 160
FIRST, LATER = "ours, first epoch", "ours, later epochs"
CPU = torch.device("cpu")


class Straightforward:
    """The published training as somebody would write it down from the paper."""

    def __init__(
        self,
        config: FactorsConfig,
        cgn: SmallCGN,
        discriminator: nn.Module,
        real: RealImages,
        vgg: nn.Sequential,
    ) -> None:
        self.config, self.cgn, self.discriminator, self.real = config, cgn, discriminator, real
        self.perceptual = StraightforwardPerceptual(vgg, config.gram_weights)
        betas = (0.5, config.beta2)
        self.generator_optimizer = torch.optim.Adam(cgn.parameters(), config.learning_rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            discriminator.parameters(), config.discriminator_learning_rate, betas
        )

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the generator, then the discriminator, on one batch."""
        batch_size = self.config.batch_size
        images, labels = self.real.batch(step, batch_size)
        y = torch.randint(self.cgn.num_classes, (batch_size,), generator=generator)

        self.generator_optimizer.zero_grad()
        mask, foreground, background = self.run_cgn(y, generator)
        generated = mask * foreground + (1 - mask) * background
        scores = self.discriminator(generated, y)
        losses = {
            "adversarial": F.mse_loss(scores, torch.ones_like(scores)),
            "entropy": self.config.entropy_weight * binary_entropy(mask),
            "gram": self.perceptual(generated, images),
        }
        sum(losses.values()).backward()
        self.generator_optimizer.step()

        self.discriminator_optimizer.zero_grad()
        real_scores = self.discriminator(images, labels)
        generated_scores = self.discriminator(generated.detach(), y)
        real_loss = F.mse_loss(real_scores, torch.ones_like(real_scores))
        generated_loss = F.mse_loss(generated_scores, torch.zeros_like(generated_scores))
        losses["discriminator"] = (real_loss + generated_loss) / 2
        losses["discriminator"].backward()
        self.discriminator_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def run_cgn(self, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the three mechanisms, each on a noise of its own."""
        noises = [self.cgn.draw_noise(len(y), generator) for _ in range(3)]
        mask = self.cgn.shape(noises[0], y).repeat(1, 3, 1, 1)
        foreground = self.cgn.texture(noises[1], y)
        background = self.cgn.background(noises[2], y)
        return mask, crop_tiles(foreground, generator), crop_tiles(background, generator)


class StraightforwardPerceptual(nn.Module):
    """Gram losses at the ReLUs before the first four max-pools, which hooks pick up."""

    def __init__(self, vgg: nn.Sequential, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.vgg, self.weights = vgg.eval().requires_grad_(False), weights
        self.maps: list[Tensor] = []
        for layer, following in list(pairwise(vgg))[:-1]:  # the last max-pool ends the network
            if isinstance(following, nn.MaxPool2d):
                layer.register_forward_hook(lambda _layer, _input, output: self.maps.append(output))

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Returns the loss between two batches of images."""
        losses = [
            weight**2 * 5000 * F.l1_loss(gram(generated_map), gram(real_map))
            for weight, generated_map, real_map in zip(
                self.weights, self.run_vgg(generated), self.run_vgg(real), strict=True
            )
        ]
        return torch.stack(losses).sum()

    def run_vgg(self, images: Tensor) -> list[Tensor]:
        """Returns what the hooks pick up."""
        self.maps = []
        self.vgg(images)
        return self.maps


def gram(features: Tensor) -> Tensor:
    num, channels, height, width = features.shape
    flat = features.view(num, channels, height * width)
    return torch.bmm(flat, flat.transpose(1, 2)) / (channels * height * width)


def binary_entropy(mask: Tensor) -> Tensor:
    return (-mask * torch.log2(mask) - (1 - mask) * torch.log2(1 - mask)).mean()


def crop_tiles(images: Tensor, generator: torch.Generator) -> Tensor:
    size = images.shape[-1]
    tiled = images.repeat(1, 1, 2, 2)
    corners = torch.randint(size + 1, (len(images), 2), generator=generator).tolist()
    crops = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(tiled, corners, strict=True)
    ]
    return torch.stack(crops)


Way = Straightforward | FactorsStage


@dataclass(frozen=True)
class Published(SmallConfig):
    """The settings of the paper for a variant."""

    variant: Variant = "wildlife"


def read_settings(variant: Variant) -> Published:
    """Reads a file of the published settings."""
    values = yaml.safe_load((PAPER / f"{variant}.yaml").read_text())
    factors = {**values["factors"], "gram_weights": tuple(values["factors"]["gram_weights"])}
    parts = {
        "factors": FactorsConfig(**factors),
        "masker": MaskerConfig(**values["masker"]),
        "texturing": TexturesConfig(**values["texturing"]),
        "shapes": ShapesConfig(**values["shapes"]),
    }
    return Published(**{**values, **parts})


def make_vgg(features: PerceptualFeatures) -> nn.Sequential:
    """Returns all of torchvision's convolutions, with the weights of the features where they go."""
    with torch.device("meta"):
        vgg: nn.Sequential = vgg16(weights=None, init_weights=False).features
    vgg = vgg.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for part in vgg.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
            nn.init.zeros_(part.bias)
    layers = [layer for block in features.blocks for layer in block]
    for layer, other in zip(vgg, layers, strict=False):
        layer.load_state_dict(other.state_dict())
    return vgg


def make_networks(config: SmallConfig) -> tuple[SmallCGN, nn.Module]:
    """The CGN and the discriminator, the same in each call."""
    factors = config.factors
    with isolated_rng(0, CPU):
        cgn = SmallCGN(shape_network=config.shape_network)
        discriminator = make_discriminator(factors)
    generator = torch.Generator().manual_seed(0)
    initialize(cgn, factors.initialization, factors.gain, generator=generator)
    return cgn, discriminator


def make_real(config: Published, num_images: int) -> RealImages:
    data = make_variant(config.variant, "train", num=num_images)
    return RealImages(data.images, data.labels)


def make_straightforward(
    config: SmallConfig, real: RealImages, vgg: nn.Sequential
) -> Straightforward:
    cgn, discriminator = make_networks(config)
    return Straightforward(config.factors, use_published_layers(cgn), discriminator, real, vgg)


def make_ours(config: SmallConfig, real: RealImages, features: PerceptualFeatures) -> FactorsStage:
    cgn, discriminator = make_networks(config)
    average = copy.deepcopy(cgn).eval().requires_grad_(False)
    for module in (cgn, average, discriminator, features):
        module.to(memory_format=torch.channels_last)  # as `SmallTraining` does on a CPU
    return FactorsStage(
        config.factors, cgn, average, discriminator, real, features, Accelerator(cpu=True)
    )


def take_step(way: Way, step: int) -> dict[str, Tensor]:
    """Takes a step with draws that are a function of its number alone."""
    torch.manual_seed(step)  # dropout
    return way.step(step, torch.Generator().manual_seed(step))


def compare_losses(
    straightforward: Straightforward, ours: FactorsStage, num_steps: int
) -> dict[str, float]:
    """Returns the largest deviation of each loss over some steps, relative to a loss above 1.

    Every step begins at the same weights: rounding alone lets two trainings drift apart, since the
    first steps of Adam turn a gradient of any size into a step of the learning rate.
    """
    deviations: dict[str, float] = {}
    for step in range(num_steps):
        ours.cgn.load_state_dict(straightforward.cgn.state_dict())
        ours.discriminator.load_state_dict(straightforward.discriminator.state_dict())
        expected, found = take_step(straightforward, step), take_step(ours, step)
        if expected.keys() != found.keys():
            raise ValueError(f"the losses are {list(expected)} and {list(found)}")
        for name, loss in expected.items():
            deviation = float((found[name] - loss).abs() / loss.abs().clamp(min=1))
            deviations[name] = max(deviations.get(name, 0.0), deviation)
    return deviations


def compare(config: Published, features: PerceptualFeatures, num_steps: int) -> dict[str, float]:
    """Returns deviations over steps of which the second half sees the images of the first again.

    Raises:
        ValueError: a loss differs by more than the tolerance.
    """
    num_images = num_steps // 2 * config.factors.batch_size
    real = make_real(config, num_images)
    straightforward = make_straightforward(config, real, make_vgg(features))
    deviations = compare_losses(straightforward, make_ours(config, real, features), num_steps)
    if not max(deviations.values()) <= TOLERANCE:
        raise ValueError(f"{config.variant}: losses differ by more than {TOLERANCE}: {deviations}")
    return deviations


def make_ways(config: SmallConfig, features: PerceptualFeatures, num_steps: int) -> dict[str, Way]:
    """The ways that are measured, for so many steps, the second of them without a repetition."""
    batch_size = config.factors.batch_size
    real, seen = make_real(config, num_steps * batch_size), make_real(config, NUM_SEEN)
    ways = {
        "straightforward": make_straightforward(config, real, make_vgg(features)),
        FIRST: make_ours(config, real, features),
        LATER: make_ours(config, seen, features),
    }
    if ways[LATER].memory is not None:
        for images in seen.images.split(batch_size):
            ways[LATER].memory(images)
    return ways


def measure(ways: dict[str, Way], num_rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Returns seconds per step of each way in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for step in range(WARM_UP):
        for way in ways.values():
            take_step(way, step)
    for number in tqdm(range(num_rounds), desc="rounds"):
        begin = WARM_UP + number * num_steps
        first = number % len(names)  # each way goes first in turn
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            for step in range(begin, begin + num_steps):
                take_step(ways[name], step)
            seconds[name].append((time.perf_counter() - start) / num_steps)
    pairs = zip(seconds[FIRST], seconds[LATER], strict=True)
    seconds["ours"] = [(first + (NUM_EPOCHS - 1) * later) / NUM_EPOCHS for first, later in pairs]
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "quartile_1": low, "quartile_3": high}


def run_variant(variant: Variant, num_rounds: int, num_steps: int) -> dict[str, Any]:
    config, features = read_settings(variant), random_vgg16_features(seed=0)
    deviations = compare(config, features, num_steps=8)
    ways = make_ways(config, features, WARM_UP + num_rounds * num_steps)
    seconds = measure(ways, num_rounds, num_steps)
    return {
        "largest_deviation_of_losses": deviations,
        "ratios": {
            f"{name} / straightforward": ratio(seconds[name], seconds["straightforward"])
            for name in ("ours", FIRST, LATER)
        },
        "seconds_per_step": {name: statistics.median(values) for name, values in seconds.items()},
        "seconds_per_step_by_round": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="of each variant; default: 15")
    parser.add_argument("--steps", type=int, default=2, help="of a way in a round; default: 2")
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    arguments = parser.parse_args()
    variants = {
        variant: run_variant(variant, arguments.rounds, arguments.steps)
        for variant in get_args(Variant)
    }
    result = {
        "what": "seconds per step of 16 images at the published settings, ratios within a round, "
        "and by how much the losses of the same steps differ at most",
        "command": f"python benchmarks/training.py --rounds {arguments.rounds} "
        f"--steps {arguments.steps}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "device": "cpu",
        },
        "variants": variants,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for variant, values in variants.items():
        print(f"{variant}: losses within {max(values['largest_deviation_of_losses'].values()):.1e}")
        for name, value in values["ratios"].items():
            spread = f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}"
            print(f"    {name:40} {value['median']:.3f}   (quartiles {spread})")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
