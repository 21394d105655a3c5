"""The stage that learns to find the object in a real image, from images with known masks.

The masks of drawn images are known. A U-Net that is trained to find them also finds masks of real
images. With these, real images come apart into masks, foregrounds and backgrounds, whose
recombinations teach it to find better ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.masks import UNetMasker
from cgn_augment.parts.textures import ClassPool, whole_textures
from train_generator.small.adversary import draw_normal
from train_generator.small.config import MaskerConfig
from train_generator.training.schedules import one_cycle
from train_generator.training.stages import descend


@dataclass(frozen=True)
class FactorPools:
    """The factors that images are recombined from.

    Attributes:
        masks: (N, 1, H, W) bool, of any classes.
        foregrounds: float32 images in [-1, 1].
        backgrounds: as foregrounds.
    """

    masks: Tensor
    foregrounds: ClassPool
    backgrounds: ClassPool


@torch.no_grad()
def drawn_parts(cgn: SmallCGN, num: int, seed: int = 0) -> FactorPools:
    """Draws `num` or slightly more binarised masks, foregrounds and backgrounds from a generator.

    Each class has equally many. The generator is in eval mode and does not change.
    """
    classes = torch.arange(cgn.num_classes).repeat(3, math.ceil(num / cgn.num_classes))
    drawn = draw_factors(cgn, classes, step_generator(Purpose.BANK_FILL, seed), 1, 100)
    foregrounds, backgrounds = (
        ClassPool(each, classes[0]) for each in (drawn.foreground, drawn.background)
    )
    return FactorPools(drawn.mask > 0.5, foregrounds, backgrounds)


@dataclass(eq=False)
class MaskerStage:
    """Trains `masker` on recombinations of parts; see `Stage`.

    In half of a batch, foreground and background have the same class, as in the biased images; in
    the other half they have independent classes. Masks are of any class and shifted by some pixels.
    Noise is added.

    Args:
        config: settings.
        masker: the network to train.
        parts: masks, foregrounds and backgrounds.
        accelerator: knows device and precision.
        start: network whose weights the masker gets in the first step; None leaves it as it is.
    """

    config: MaskerConfig
    masker: UNetMasker
    parts: FactorPools
    accelerator: Accelerator
    start: UNetMasker | None = None

    name = "masker"

    def __post_init__(self) -> None:
        self.num_steps, rate = self.config.num_steps, self.config.learning_rate
        self.masks = self.parts.masks.to(self.accelerator.device)
        adam = torch.optim.Adam(self.masker.parameters(), rate)
        self.schedule = one_cycle(adam, rate, self.num_steps)
        self.optimizers = {"masker": self.accelerator.prepare(adam), "schedule": self.schedule}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the masker on one batch; see `Stage.step`."""
        if step == 0 and self.start is not None:
            self.masker.load_state_dict(self.start.state_dict())
        self.masker.train()
        images, masks = self._draw(generator)
        with self.accelerator.autocast():
            logits = self.masker.logits(images)
        loss = F.binary_cross_entropy_with_logits(logits.float(), masks)
        descend(self.accelerator, self.optimizers["masker"], loss)
        self.schedule.step()
        return {"cross entropy": loss.detach()}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config, num, parts = self.config, self.config.batch_size, self.parts
        classes = torch.randint(len(parts.foregrounds.counts), (2, num), generator=generator)
        classes[1, : num // 2] = classes[0, : num // 2]
        classes = classes.to(self.accelerator.device)
        masks = self.masks[torch.randint(len(self.masks), (num,), generator=generator)].float()
        if config.shift:
            shifts = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator)
            masks = masks.roll(shifts.tolist(), dims=(2, 3))
        foregrounds = parts.foregrounds.draw(classes[0], generator)
        backgrounds = parts.backgrounds.draw(classes[1], generator)
        images = compose(masks, foregrounds, backgrounds)
        return images + config.noise * draw_normal(images, generator), masks


def masker_stages(
    config: MaskerConfig,
    maskers: tuple[UNetMasker, UNetMasker],
    drawn: Callable[[], FactorPools],
    real: tuple[Tensor, Tensor] | None,
    accelerator: Accelerator,
) -> dict[str, Callable[[], MaskerStage]]:
    """Returns, by name, functions that make the stages of a masker, for `Trainer`.

    Args:
        config: settings.
        maskers: each round trains one with the other's masks, and starts from its weights.
        drawn: draws parts from a generator.
        real: images (N, 3, H, W) float32 in [-1, 1] and labels (N,) int64, if there are rounds.
        accelerator: knows device and precision.
    """

    def go_on(number: int, images: Tensor, labels: Tensor) -> MaskerStage:
        masker, before = maskers[number % 2], maskers[(number - 1) % 2]
        found = find_masks(before, images, accelerator)
        parts = FactorPools(found, *whole_textures(images, labels, found, config.num_textures))
        return MaskerStage(config, masker, parts, accelerator, before)

    stages = {"masker": lambda: MaskerStage(config, maskers[0], drawn(), accelerator)}
    if real is not None:
        for number in range(1, config.rounds + 1):
            stages[f"masker {number}"] = partial(go_on, number, *real)
    return stages


@torch.no_grad()
def find_masks(
    masker: UNetMasker, images: Tensor, accelerator: Accelerator, chunk: int = 500
) -> Tensor:
    """Finds the objects in real images.

    Args:
        masker: the masker; in eval mode afterwards.
        images: (N, 3, H, W) float32 in [-1, 1].
        accelerator: knows device and precision.
        chunk: images at a time.

    Returns:
        (N, 1, H, W) bool on the CPU.
    """
    masker.eval()
    found = []
    for part in torch.split(images, chunk):
        with accelerator.autocast():
            logits = masker.logits(part.to(accelerator.device))
        found.append((logits > 0).cpu())
    return torch.cat(found)


def rise_and_fall(
    optimizer: torch.optim.Optimizer, highest: float, step: int, num_steps: int
) -> None:
    """Sets the learning rate: up for 100 steps, then down to 0 in the second half."""
    left = (num_steps - step) / max(1, num_steps / 2)
    for group in optimizer.param_groups:
        group["lr"] = highest * min(1.0, (step + 1) / 100, left)
