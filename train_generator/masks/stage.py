"""The training stage of a masker that learns from masks drawn by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from cgn_augment.masks.network import MaskerNetwork
from train_generator.masks.augmenting import Augmenter
from train_generator.masks.config import PhotoMaskerConfig
from train_generator.training.average import update_average
from train_generator.training.schedules import one_cycle
from train_generator.training.stages import descend


def dice_loss(masks: Tensor, true: Tensor) -> Tensor:
    """Returns 1 - 2 |A B| / (|A| + |B|) for soft masks, averaged over images.

    Milletari, Navab and Ahmadi, V-Net, 3DV 2016, with areas instead of their squares.

    Args:
        masks: (N, 1, H, W) float32 in [0, 1].
        true: true masks, in the same form.

    Examples:
        >>> import torch
        >>> from train_generator.masks.stage import dice_loss
        >>> true = torch.eye(4)[None, None]
        >>> dice_loss(true, true).item(), round(dice_loss(1 - true, true).item(), 2)
        (0.0, 0.94)
    """
    both = (masks * true).flatten(1).sum(dim=1)
    areas = masks.flatten(1).sum(dim=1) + true.flatten(1).sum(dim=1)
    return (1 - (2 * both + 1) / (areas + 1)).mean()  # the 1 is for images without an object


@dataclass(eq=False)
class PhotoStage:
    """Trains `masker` on augmented images; see `Stage`.

    Args:
        config: settings.
        masker: the network to train.
        average: gets the running average of its weights.
        augmenter: draws batches.
        accelerator: knows device and precision.
    """

    config: PhotoMaskerConfig
    masker: MaskerNetwork
    average: MaskerNetwork
    augmenter: Augmenter
    accelerator: Accelerator

    name = "masker"

    def __post_init__(self) -> None:
        config = self.config
        self.num_steps = config.num_steps
        adam = torch.optim.AdamW(
            self.masker.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = one_cycle(adam, config.learning_rate, self.num_steps)
        self.optimizers = {"masker": self.accelerator.prepare(adam), "schedule": self.schedule}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains the masker on one batch; see `Stage.step`."""
        self.masker.train()
        images, masks = self.augmenter.draw(self.config.batch_size, generator)
        if images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            logits = self.masker.logits(images)
        logits = logits.float()
        entropy = F.binary_cross_entropy_with_logits(logits, masks)
        dice = dice_loss(logits.sigmoid(), masks)
        descend(self.accelerator, self.optimizers["masker"], entropy + dice)
        self.schedule.step()
        update_average(self.average, self.masker, self.config.average, step)
        return {"cross entropy": entropy.detach(), "dice": dice.detach()}
