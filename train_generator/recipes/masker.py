"""The stage that learns to find the object in a real image, from the generator's samples alone.

The generator knows the masks of what it draws. A U-Net that is trained to find them finds the
masks of the real images too, for which nobody has drawn any.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from cgn_augment import SmallCGN
from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.maskers import UNetMasker
from cgn_augment.sources import draw_factors
from train_generator.recipes.config import MaskerConfig
from train_generator.trainer import descend


class MaskerStage:
    """Trains `masker` on what `cgn` draws; see `Stage`.

    Half of a batch has foreground and background of one class, as the biased images have, the other
    half of two independent classes; masks are of any class. They are binarised and moved by some
    pixels; textures are moved anywhere; noise is added.

    Args:
        config: settings.
        cgn: draws the samples; in eval mode and left as it is.
        masker: what is trained.
        accelerator: knows device and precision.
        seed: of the factors.
        found: masks to use in place of drawn ones, (N, 1, H, W) bool of any classes.
    """

    name = "masker"

    def __init__(
        self,
        config: MaskerConfig,
        cgn: SmallCGN,
        masker: UNetMasker,
        accelerator: Accelerator,
        seed: int = 0,
        found: Tensor | None = None,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.cgn, self.masker, self.accelerator = cgn, masker, accelerator
        per_class = math.ceil(config.num_factors / cgn.num_classes)
        classes = torch.arange(cgn.num_classes).repeat(3, per_class)
        with torch.no_grad():
            drawn = draw_factors(cgn, classes, step_generator(Purpose.BANK_FILL, seed), 1, 100)
        self.mask = (drawn.mask > 0.5).float() if found is None else found.to(cgn.device)
        self.foreground, self.background = drawn.foreground, drawn.background
        self.per_class = per_class
        adam = torch.optim.Adam(masker.parameters(), config.learning_rate)
        self.optimizers = {"masker": accelerator.prepare(adam)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the masker on one batch; see `Stage.step`."""
        optimizer = self.optimizers["masker"]
        set_learning_rate(
            optimizer, self.config.learning_rate * one_cycle(step, self.config.num_steps)
        )
        self.masker.train()
        images, mask = self._draw(generator)
        with self.accelerator.autocast():
            logits = self.masker.logits(images)
        loss = F.binary_cross_entropy_with_logits(logits.float(), mask)
        descend(self.accelerator, optimizer, loss)
        return {"cross entropy": loss.detach()}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config, num = self.config, self.config.batch_size
        classes = torch.randint(self.cgn.num_classes, (2, num), generator=generator)
        classes[1, : num // 2] = classes[0, : num // 2]
        slots = torch.randint(self.per_class, (2, num), generator=generator)
        slots = slots * self.cgn.num_classes + classes
        mask = self.mask[torch.randint(len(self.mask), (num,), generator=generator)].float()
        if config.shift:
            top, left = torch.randint(
                -config.shift, config.shift + 1, (2,), generator=generator
            ).tolist()
            mask = mask.roll((top, left), dims=(2, 3))
        foreground = self.cgn.shuffle(self.foreground[slots[0]], generator)
        background = self.cgn.shuffle(self.background[slots[1]], generator)
        images = compose(mask, foreground, background)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return images + config.noise * noise, mask


@torch.no_grad()
def find_masks(
    masker: UNetMasker, images: Tensor, accelerator: Accelerator, chunk: int = 500
) -> Tensor:
    """Finds the objects in real images.

    Args:
        masker: in eval mode afterwards.
        images: (N, 3, H, W) float32 in [-1, 1].
        accelerator: knows device and precision.
        chunk: images at a time.

    Returns:
        (N, 1, H, W) bool on the CPU.
    """
    masker.eval()
    found = []
    for part in images.split(chunk):
        with accelerator.autocast():
            logits = masker.logits(part.to(accelerator.device))
        found.append((logits > 0).cpu())
    return torch.cat(found)


def one_cycle(step: int, num_steps: int) -> float:
    """Returns the share of the highest learning rate: up in the first third, then down to 0.

    Both ways follow half a cosine (Smith and Topin, Super-Convergence, 2018).
    """
    peak = max(1, num_steps // 3)
    if step < peak:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / peak)) / 2
    return (1 + math.cos(math.pi * (step - peak) / max(1, num_steps - peak))) / 2


def rise_and_fall(step: int, num_steps: int) -> float:
    """Returns the share of a learning rate: up for 100 steps, and down to 0 in the second half."""
    left = (num_steps - step) / max(1, num_steps / 2)
    return min(1.0, (step + 1) / 100, left)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
