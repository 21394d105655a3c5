"""Random changes of images with their masks: position, size, pose, colour and background."""

from __future__ import annotations

from typing import Any

import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJiggle,
    RandomAffine,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
)
from kornia.constants import DataKey, Resample
from torch import Tensor, nn

from cgn_augment.functional import compose
from train_generator.masks.data import Annotated


class Augmenter:
    """Draws batches of images and masks, some with another image's background.

    Objects are mirrored, turned by up to 20 degrees, moved, sheared, and scaled by 0.7 to 1.5,
    which crops them at the border of the image; the area beyond the border is filled by reflection,
    in image and mask alike. Then colours change, and some images lose their colour or are blurred.

    Args:
        annotated: the images to draw from.
        recombine: share of a batch with another background, in [0, 1].
        device: device for the batches.

    Examples:
        >>> import torch
        >>> from train_generator.masks.augmenting import Augmenter
        >>> from train_generator.masks.data import Annotated
        >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> augmenter = Augmenter(Annotated(images, torch.rand(4, 1, 32, 32), images), 0.5)
        >>> images, masks = augmenter.draw(6, torch.Generator().manual_seed(0))
        >>> images.shape, masks.shape, images.min() >= -1, masks.max() <= 1
        (torch.Size([6, 3, 32, 32]), torch.Size([6, 1, 32, 32]), tensor(True), tensor(True))
    """

    def __init__(
        self, annotated: Annotated, recombine: float, device: torch.device | str = "cpu"
    ) -> None:
        self._images, self._masks, self._backgrounds = (each.to(device) for each in annotated)
        self._recombine, self._device = recombine, torch.device(device)
        self._pairs = AugmentationSequential(
            *_moves(),
            data_keys=["input", "mask"],
            extra_args={DataKey.MASK: {"resample": Resample.BILINEAR, "align_corners": False}},
        )
        self._scenes = nn.Sequential(*_moves())
        self._colours = nn.Sequential(
            ColorJiggle(0.4, 0.4, 0.5, 0.1, p=0.8),
            RandomGrayscale(p=0.1),
            RandomGaussianBlur((3, 3), (0.1, 1.0), p=0.2),
        )

    @torch.no_grad()
    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws a batch.

        Args:
            num: number of images.
            generator: a CPU generator; kornia's draws come from the global ones.

        Returns:
            images (num, 3, S, S) in [-1, 1] and masks (num, 1, S, S) in [0, 1], both float32.
        """
        chosen = self._choose(num, generator)
        images, masks = self._pairs(self._images[chosen].float() / 255, self._masks[chosen])
        mixed = round(self._recombine * num)
        if mixed:
            others = self._choose(mixed, generator)
            scenes = self._scenes(self._backgrounds[others].float() / 255)
            images = torch.cat([compose(masks[:mixed], images[:mixed], scenes), images[mixed:]])
        return self._colours(images).clamp(0, 1) * 2 - 1, masks.clamp(0, 1)

    def _choose(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self._images), (num,), generator=generator).to(self._device)


def _moves() -> list[Any]:
    return [
        RandomHorizontalFlip(),
        RandomAffine(
            degrees=20,
            translate=(0.15, 0.15),
            scale=(0.7, 1.5),
            shear=5,
            padding_mode="reflection",
            p=1.0,
        ),
    ]
