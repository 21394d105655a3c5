"""What the tests of sources share: a CGN that can be read from its images, and small values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cgn_augment import Counterfactuals, RealBatch


class ReadableCGN:
    """A CGN whose images tell each factor's class and noise; see `read_classes` and `read_ids`.

    A mask is all object in its first rows and all background in its second; its last two rows hold
    the class and the noise of the shape. Textures are one value in all of a column.
    """

    image_size = 8
    fingerprint = "readable"
    device = torch.device("cpu")

    def __init__(self, num_classes: int = 10, shared_noise: bool = False) -> None:
        self.num_classes, self.shared_noise = num_classes, shared_noise
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.noises: dict[str, list[Tensor]] = {"shape": [], "texture": [], "background": []}

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator, dtype=torch.float64)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        rows = self._values("shape", noise, y)
        zero = torch.zeros_like(rows[0])
        mask = torch.stack([zero + 1, zero + 1, zero + 1, zero, zero, zero, *rows], dim=1)
        return mask[:, None, :, None].expand(-1, 1, 8, 8).clone()

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._columns("texture", noise, y)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        return -self._columns("background", noise, y)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images

    def _values(self, factor: str, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.calls[factor] += 1
        self.made[factor] += len(noise)
        self.noises[factor].append(noise)
        return (y + 1).float() / 64, noise[:, 0].float()

    def _columns(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        first, second = self._values(factor, noise, y)
        columns = torch.stack([first] * 4 + [second] * 4, dim=1)
        return columns[:, None, None].expand(-1, 3, 8, 8).clone()


def read_classes(images: Tensor) -> Tensor:
    """The classes (3, N) of shape, texture and background that images of `ReadableCGN` show."""
    foreground, background = images[:, 0, 0, 0], images[:, 0, 3, 0]
    mask = (images[:, 0, 6, 0] - background) / (foreground - background)
    shown = torch.stack([mask, foreground, -background]) * 64 - 1
    torch.testing.assert_close(shown, shown.round(), rtol=0, atol=0.1)
    return shown.round().long()


def read_ids(images: Tensor) -> Tensor:
    """What tells (3, N) masks, foregrounds and backgrounds of `ReadableCGN` from one another."""
    foreground, background = images[:, 0, 0, 4], -images[:, 0, 3, 4]
    first, behind = images[:, 0, 0, 0], images[:, 0, 3, 0]
    mask = (images[:, 0, 7, 0] - behind) / (first - behind)
    return torch.stack([mask.mul(1e4).round() / 1e4, foreground, background])


def blocks(num: int, first: int = 0) -> Tensor:
    """Images: a bright block whose place says which image it is, on black."""
    images = torch.full((num, 3, 8, 8), -1.0)
    for place in range(num):
        row, column = divmod(first + place, 6)
        images[place, :, row % 6 : row % 6 + 3, column : column + 3] = 1.0
    return images


def find_bright(images: Tensor) -> Tensor:
    return (images[:, :1] > 0).float()


class Blocks(Dataset[Any]):
    """Images of blocks, with masks; with `flip`, at random upside down; `blank` is left black."""

    def __init__(
        self, num: int = 18, *, flip: bool = False, mask: bool = False, blank: int = -1
    ) -> None:
        self.num, self.flip, self.mask, self.blank = num, flip, mask, blank

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = blocks(1, index)[0] if index != self.blank else torch.full((3, 8, 8), -1.0)
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(1)
        item = image, index % 10
        return (*item, find_bright(image[None])[0]) if self.mask else item


def real_batch(classes: list[int]) -> RealBatch:
    y = torch.tensor(classes)
    return RealBatch(torch.zeros(len(y), 3, 8, 8), y, y)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(drawn: Counterfactuals) -> Tensor:
    return torch.stack([drawn.shape, drawn.texture, drawn.background])


def shown(axes: object) -> np.ndarray:
    """The picture that a cell of a sheet shows, (H, W, 3) in [0, 1]."""
    return np.asarray(axes.get_images()[0].get_array())  # type: ignore[attr-defined]
