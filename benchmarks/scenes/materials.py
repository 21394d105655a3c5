"""The look of objects and grounds of the scenes: eight procedural families of each.

Every image has a variant of its family: colours, scale, direction and phase follow from `codes`,
and the details (blades of grass, clouds, grain) from a generator. Pictures are (N, 3, H, W) float32
in about [0, 1]; they are clipped when a scene is composed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError

NUM_CODES = 7
"""Numbers that a variant has: brightness, hue, phase along x, phase along y, scale, direction,
contrast; each about standard normal, within [-2, 2]."""


class Variants(NamedTuple):
    """What the painters of one family get.

    Attributes:
        x: (N, 1, H, W) float32 places from left to right; the image or the object spans [-1, 1].
        y: (N, 1, H, W) float32 places from top to bottom.
        codes: (N, NUM_CODES) float32.
        generator: of the details, on the CPU.
    """

    x: Tensor
    y: Tensor
    codes: Tensor
    generator: torch.Generator

    def code(self, number: int) -> Tensor:
        """Returns one number of the variants, as (N, 1, 1, 1)."""
        return self.codes[:, number, None, None, None]

    def turned(self, angle: float, spread: float = 0.12) -> tuple[Tensor, Tensor]:
        """Returns the places in axes turned by an angle, moved by the phases and scaled."""
        turn = angle + spread * self.code(5)
        zoom = 1 + 0.12 * self.code(4)
        along = (self.x * turn.cos() + self.y * turn.sin()) * zoom + 0.25 * self.code(2)
        return along, (self.y * turn.cos() - self.x * turn.sin()) * zoom + 0.25 * self.code(3)

    def noise(self, rows: int, columns: int) -> Tensor:
        """Draws smooth noise (N, 1, H, W) of variance about 1, from a grid of so many places."""
        num, (height, width) = len(self.codes), self.x.shape[2:]
        grid = torch.randn(num, 1, rows, columns, generator=self.generator)
        if (rows, columns) == (height, width):
            return grid
        return 1.3 * F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)

    def mix(self, first: str, second: str, share: Tensor) -> Tensor:
        """Blends two hex colours, shaded as the codes say; share (N, 1, H, W) is of the second."""
        shade = 1 + 0.16 * self.code(0)
        tint = 0.05 * self.code(1) * torch.tensor([1.0, 0.1, -1.0]).view(1, 3, 1, 1)
        colors = [_rgb(color) * shade + tint for color in (first, second)]
        return torch.lerp(colors[0], colors[1], share * (1 + 0.06 * self.code(6)))


Painter = Callable[[Variants], Tensor]


def paint(painters: tuple[Painter, ...], classes: Tensor, variants: Variants) -> Tensor:
    """Paints each image with the family of its class.

    Args:
        painters: `TEXTURES` or `BACKGROUNDS`.
        classes: (N,) int64 indices of them.
        variants: places and codes of the N images.

    Returns:
        (N, 3, H, W) float32.

    Raises:
        ArgumentError: codes of another shape.
    """
    if variants.codes.shape != (len(classes), NUM_CODES):
        raise ArgumentError(
            f"codes must have the shape ({len(classes)}, {NUM_CODES}), got "
            f"{tuple(variants.codes.shape)}"
        )
    height, width = variants.x.shape[2:]
    images = torch.empty(len(classes), 3, height, width)
    for family, painter in enumerate(painters):
        chosen = (classes == family).nonzero()[:, 0]
        if len(chosen):
            x, y, codes = (part[chosen] for part in variants[:3])
            images[chosen] = painter(Variants(x, y, codes, variants.generator))
    return images


def _zebra(v: Variants) -> Tensor:
    along, _ = v.turned(0.5)
    wave = torch.sin(2 * math.pi * (1.9 * along + 0.12 * v.noise(5, 5)))
    return v.mix("#1c1713", "#ece4d4", _step(wave, 0.35))


def _leopard(v: Variants) -> Tensor:
    x, y = v.turned(0.2)
    spots = torch.sin(9.5 * x + 0.5 * v.noise(6, 6)) * torch.sin(9.5 * y + 0.5 * v.noise(6, 6))
    ground = v.mix("#d79a3c", "#edc77c", _step(v.noise(4, 4), 1.5))
    return torch.lerp(ground, v.mix("#3a2110", "#2a170b", ground[:, :1]), _step(spots - 0.3, 0.2))


def _tartan(v: Variants) -> Tensor:
    x, y = v.turned(0.75)
    bands = _step(torch.sin(8.5 * x), 0.25), _step(torch.sin(8.5 * y), 0.25)
    cloth = v.mix("#a3121f", "#f0e6df", (bands[0] + bands[1]) / 2)
    return cloth * (1 + 0.04 * torch.sin(60 * (x + y)))


def _scales(v: Variants) -> Tensor:
    x, y = v.turned(0.0)
    rows = y * 3.4
    row = rows.floor()
    column = x * 3.0 + 0.5 * (row % 2)
    arc = torch.hypot(column - column.floor() - 0.5, (rows - row) * 0.9)
    image = v.mix("#0f5f66", "#63d2bd", _step(0.75 - arc, 0.5))
    return image * (0.9 + 0.1 * _step(0.62 - arc, 0.08))


def _wood(v: Variants) -> Tensor:
    _, y = v.turned(-0.3)
    grain = torch.sin(2 * math.pi * (2.6 * y + 0.35 * v.noise(4, 3)))
    return v.mix("#7a4619", "#c78b4b", 0.5 + 0.4 * grain) * (1 + 0.05 * v.noise(64, 8))


def _rust(v: Variants) -> Tensor:
    flakes = 0.8 * v.noise(7, 7) + 0.6 * v.noise(15, 15) + 0.3 * v.noise(64, 64)
    return v.mix("#5a210d", "#dd6b20", _step(flakes + 0.25 * v.code(2), 1.6))


def _knit(v: Variants) -> Tensor:
    x, y = v.turned(0.0)
    fold = (3.2 * x - (3.2 * x).floor() - 0.5).abs()
    rib = torch.sin(2 * math.pi * (3.6 * y + 1.3 * fold))
    return v.mix("#5b2a86", "#c59be6", 0.5 + 0.45 * rib) * (0.86 + 0.5 * (0.5 - fold))


def _metal(v: Variants) -> Tensor:
    along, across = v.turned(0.9)
    sheen = torch.exp(-8 * (across - 0.15 * v.code(3)).square())
    streaks = 0.1 * v.noise(64, 6)
    return v.mix("#55606c", "#e9f0f5", (0.25 + 0.7 * sheen + streaks + 0.06 * along).clamp(0, 1))


def _sky(v: Variants) -> Tensor:
    clouds = 0.7 * v.noise(4, 3) + 0.5 * v.noise(9, 6) + 0.2 * v.noise(20, 16)
    sky = v.mix("#3f86d8", "#b9dcf6", (0.5 + 0.45 * v.y).clamp(0, 1))
    cover = _step(clouds - 0.7 + 0.3 * v.code(2), 1.2)
    return torch.lerp(sky, v.mix("#f7f8fa", "#dfe5ec", 0.5 + 0.5 * v.y), 0.85 * cover)


def _grass(v: Variants) -> Tensor:
    blades = 0.6 * v.noise(10, 64) + 0.5 * v.noise(16, 32) + 0.4 * v.noise(4, 4)
    depth = 0.3 * v.y + 0.12 * v.code(2) * v.x
    return v.mix("#2c5e17", "#8fbf3c", (0.5 + 0.24 * blades - depth).clamp(0, 1))


def _sand(v: Variants) -> Tensor:
    _, y = v.turned(0.25)
    ripples = torch.sin(2 * math.pi * (2.6 * y + 0.22 * v.noise(4, 3)))
    return v.mix("#c9a267", "#f0d9a8", 0.5 + 0.32 * ripples + 0.12 * v.noise(64, 64))


def _water(v: Variants) -> Tensor:
    far = 1 + 0.8 * (1 - v.y)
    ripples = torch.sin(9 * v.y * far + 1.3 * v.noise(8, 3) + 3 * v.code(3)) + v.noise(24, 8)
    return v.mix("#0b3d5e", "#5fb3c9", (0.4 + 0.22 * ripples).clamp(0, 1))


def _bricks(v: Variants) -> Tensor:
    x, y = v.turned(0.0, 0.03)
    rows = y * 2.9
    row = rows.floor()
    columns = x * 1.55 + 0.5 * (row % 2)
    inside = torch.minimum(_edge(rows) / 2.9, _edge(columns) / 1.55)
    tone = torch.sin(12.9 * row + 78.2 * columns.floor()) * 0.5 + 0.5
    brick = v.mix("#8d4433", "#b9735c", 0.7 * tone + 0.12 * v.noise(32, 32))
    return torch.lerp(v.mix("#b9b2a6", "#a59e93", tone), brick, _step(inside - 0.035, 0.03))


def _leaves(v: Variants) -> Tensor:
    patches = [v.noise(11, 11), v.noise(13, 13), v.noise(18, 18)]
    ground = v.mix("#4b2a0f", "#7c4414", _step(patches[2], 1.2))
    yellow = torch.lerp(ground, v.mix("#d9a21b", "#eac24c", patches[2]), _step(patches[0], 0.35))
    late = v.mix("#b5401a", "#d2642a", patches[0])
    return torch.lerp(yellow, late, _step(patches[1] - 0.35 - 0.2 * v.code(2), 0.35))


def _night(v: Variants) -> Tensor:
    sky = v.mix("#0b0d2b", "#2e2a63", (0.5 + 0.45 * v.y + 0.15 * v.noise(3, 3)).clamp(0, 1))
    stars = _step(v.noise(64, 64) - 2.35, 0.5) * 0.9 + 0.35 * _step(v.noise(26, 26) - 2.0, 1.0)
    return sky + stars * torch.tensor([0.95, 0.95, 0.8]).view(1, 3, 1, 1)


def _cobbles(v: Variants) -> Tensor:
    x, y = v.turned(0.4)
    warp = 0.55 * v.noise(7, 7), 0.55 * v.noise(7, 7)
    stones = (torch.cos(7.5 * x + warp[0]) * torch.cos(7.5 * y + warp[1])).abs()
    return v.mix("#4c4f52", "#b7bbb9", _step(stones + 0.2, 0.9)) * (1 + 0.05 * v.noise(64, 64))


TEXTURES: tuple[Painter, ...] = (
    _zebra, _leopard, _tartan, _scales, _wood, _rust, _knit, _metal,
)  # fmt: skip
"""Of objects, by class."""

BACKGROUNDS: tuple[Painter, ...] = (
    _grass, _sky, _sand, _water, _night, _cobbles, _bricks, _leaves,
)  # fmt: skip
"""Of grounds, by class."""


def _rgb(color: str) -> Tensor:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return torch.tensor(channels).view(1, 3, 1, 1)


def _step(values: Tensor, width: float) -> Tensor:
    """Goes smoothly from 0 to 1 where the values go from -width / 2 to width / 2."""
    t = (values / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _edge(values: Tensor) -> Tensor:
    """Distance to the nearest whole number."""
    return (values - values.round()).abs()
