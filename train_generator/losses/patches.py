"""Sheets of patches, which show the texture of an object without its shape.

Sauer and Geiger, ICLR 2021, section 3.2 and their released code: small patches are taken from an
image where the mask is highest, and tiled. The texture mechanism is trained to draw such textures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError


@dataclass(frozen=True)
class PatchConfig:
    """How patches are taken; the defaults are those of the released code.

    Attributes:
        resolution: side of the resized image and mask, in pixels.
        size: side of a patch, in pixels.
        num_best: number of places with the highest mean mask that patches may come from.
        num_drawn: patches per sheet, a square number; drawn with replacement.

    Raises:
        ArgumentError: a number cannot be used, or there are fewer places.

    Examples:
        >>> from train_generator.losses.patches import PatchConfig
        >>> PatchConfig().num_places  # 114 * 114
        12996
    """

    resolution: int = 128
    size: int = 15
    num_best: int = 100
    num_drawn: int = 36

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resolution:
            raise ArgumentError(
                f"size must be 1 to resolution ({self.resolution}) pixels, got {self.size}"
            )
        if not 1 <= self.num_best <= self.num_places:
            raise ArgumentError(
                f"num_best must be 1 to {self.num_places}, which is how many places a patch of "
                f"{self.size} pixels has in {self.resolution}, got {self.num_best}"
            )
        if self.num_drawn < 1 or math.isqrt(self.num_drawn) ** 2 != self.num_drawn:
            raise ArgumentError(f"num_drawn must be a square number, got {self.num_drawn}")

    @property
    def num_places(self) -> int:
        """Number of places for a patch in an image."""
        return (self.resolution - self.size + 1) ** 2


def draw_picks(num: int, config: PatchConfig, generator: torch.Generator) -> Tensor:
    """Draws, on the CPU, which of the best places the patches of `num` sheets come from.

    Args:
        num: number of sheets.
        config: how patches are taken.
        generator: a CPU generator.

    Returns:
        (num, num_drawn) int64 ranks of 0 to num_best - 1; 0 is the place with the highest mask.

    Examples:
        >>> import torch
        >>> from train_generator.losses.patches import PatchConfig, draw_picks
        >>> draw_picks(2, PatchConfig(), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 36])
    """
    return torch.randint(config.num_best, (num, config.num_drawn), generator=generator)


@torch.no_grad()
def make_sheets(
    images: Tensor, mask: Tensor, picks: Tensor, config: PatchConfig | None = None
) -> Tensor:
    """Tiles patches of each image from where its mask is highest; all images at once.

    Image and mask are resized (bicubic, corners not aligned, no antialiasing), and the mask is
    averaged over every window of a patch's size. Only the patches that `picks` names are read, from
    the windows with the highest means. The sheet is resized to the size of the images. Bicubic
    resizing overshoots the range of the images slightly; nothing is clamped, as published.

    Args:
        images: (B, 3, H, W) float in [-1, 1].
        mask: (B, 1, H, W) float in [0, 1].
        picks: (B, num_drawn) int64, see `draw_picks`.
        config: how patches are taken; as published by default.

    Returns:
        (B, 3, H, W) float without gradients, whatever the arguments have.

    Raises:
        ArgumentError: shapes do not fit each other.

    Examples:
        >>> import torch
        >>> from train_generator.losses.patches import PatchConfig, draw_picks, make_sheets
        >>> images, mask = torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
        >>> images[..., 16:], mask[..., 16:] = 1, 1  # the object is the right half
        >>> picks = draw_picks(2, PatchConfig(), torch.Generator().manual_seed(0))
        >>> round(make_sheets(images, mask, picks).mean().item(), 1)
        1.0
    """
    config = config or PatchConfig()
    _check(images, mask, picks, config)
    means = F.avg_pool2d(_resize(mask, config.resolution), config.size, stride=1)
    best = means.flatten(1).topk(config.num_best, dim=1).indices.gather(1, picks.to(images.device))
    rows, columns = best.div(means.shape[3], rounding_mode="floor"), best % means.shape[3]
    patches = read_patches(_resize(images, config.resolution), rows, columns, config.size)
    return _resize(tile(patches), images.shape[2:])


def read_patches(images: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """Reads patches (B, K, C, size, size) from images (B, C, H, W).

    Args:
        images: (B, C, H, W).
        rows: (B, K) int64, first row of each patch.
        columns: (B, K) int64, first column of each patch.
        size: side of a patch, in pixels.

    Examples:
        >>> import torch
        >>> from train_generator.losses.patches import read_patches
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> read_patches(image, torch.tensor([[1]]), torch.tensor([[0]]), size=2).flatten().tolist()
        [3.0, 4.0, 6.0, 7.0]
    """
    num_channels, num_columns = images.shape[1], images.shape[3]
    inside = torch.arange(size, device=images.device)
    within = (inside[:, None] * num_columns + inside).flatten()
    index = (rows * num_columns + columns)[:, :, None] + within
    index = index.flatten(1)[:, None].expand(-1, num_channels, -1)
    pixels = images.flatten(2).gather(2, index)
    return pixels.view(len(images), num_channels, rows.shape[1], size, size).transpose(1, 2)


def tile(patches: Tensor) -> Tensor:
    """Tiles (B, n * n, C, size, size) row by row to (B, C, n * size, n * size).

    Args:
        patches: (B, n * n, C, size, size).
    """
    num, num_patches, num_channels, size, _ = patches.shape
    side = math.isqrt(num_patches)
    grid = patches.reshape(num, side, side, num_channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(num, num_channels, side * size, side * size)


def _resize(images: Tensor, size: int | torch.Size) -> Tensor:
    return F.interpolate(images, size, mode="bicubic", align_corners=False)


def _check(images: Tensor, mask: Tensor, picks: Tensor, config: PatchConfig) -> None:
    if images.dim() != 4 or mask.shape != (len(images), 1, *images.shape[2:]):
        raise ArgumentError(
            "images and mask must have the shapes (B, 3, H, W) and (B, 1, H, W), got "
            f"{tuple(images.shape)} and {tuple(mask.shape)}"
        )
    if picks.shape != (len(images), config.num_drawn):
        raise ArgumentError(
            f"picks must have the shape ({len(images)}, {config.num_drawn}), got "
            f"{tuple(picks.shape)}: draw them with draw_picks"
        )
