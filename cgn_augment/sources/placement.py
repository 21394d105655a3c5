"""Placement of objects: moves mask and foreground together before they are composed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.checks import require_weights
from cgn_augment.errors import ArgumentError, ArgumentTypeError

_LEAST = 1e-3
"""Masks below this show nothing; colours are never divided by less."""


class Moves(NamedTuple):
    """Moves of N objects; each (N,) float32 on the CPU.

    Attributes:
        scale: factor of height and width.
        down: shift as a share of the image's height.
        right: shift as a share of the image's width.
        angle: radians, counterclockwise.
        mirror: -1 mirrors the object, 1 does not.
    """

    scale: Tensor
    down: Tensor
    right: Tensor
    angle: Tensor
    mirror: Tensor


@dataclass(frozen=True)
class Placement:
    """Puts objects elsewhere: larger or smaller, shifted, turned, mirrored, with a softer edge.

    Moves the object, mask and foreground together, about the middle of its box; the background
    stays. An object that was inside the image stays inside as far as it fits. Every value is drawn
    uniformly from its range with the step's generator. The default moves nothing.

    Args:
        scale: smallest and largest factor of the object's height and width.
        shift: largest shift in each direction, as a share of the image's side.
        rotate: largest angle to either side, in degrees.
        flip: probability of mirroring an object left to right, 0 to 1.
        edge: width of a soft edge, in pixels; 0 leaves edges as they are.

    Raises:
        ArgumentError: a value cannot be used; the message names it.

    Examples:
        >>> import torch
        >>> from cgn_augment import Placement
        >>> mask = torch.zeros(1, 1, 8, 8)
        >>> mask[:, :, 2:4, 1:3] = 1
        >>> red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1) * mask
        >>> flipped = Placement(flip=1.0)
        >>> moves = flipped.draw(1, torch.Generator())
        >>> flipped.move(mask, red, moves)[0][0, 0].nonzero()[0].tolist()     # about its own middle
        [2, 1]
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    rotate: float = 0.0
    flip: float = 0.0
    edge: float = 0.0

    def __post_init__(self) -> None:
        try:
            low, high = map(float, self.scale)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"scale must be the least and the greatest factor, got {self.scale!r}"
            ) from error
        if not 0 < low <= high < math.inf:
            raise ArgumentError(f"scale must be 0 < least <= greatest, got {self.scale}")
        object.__setattr__(self, "scale", (low, high))
        for name in ("shift", "rotate", "flip", "edge"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ArgumentTypeError(f"{name} must be a number, got {value!r}")
        require_weights(self, "shift", "rotate", "edge")
        if not 0 <= self.flip <= 1:
            raise ArgumentError(f"flip must be in [0, 1], got {self.flip}")

    @property
    def moves_objects(self) -> bool:
        """Whether objects can be moved, scaled, turned or mirrored."""
        return self.scale != (1.0, 1.0) or any((self.shift, self.rotate, self.flip))

    def draw(self, num: int, generator: torch.Generator, num_per_shape: int = 1) -> Moves:
        """Draws moves for `num` objects; each `num_per_shape` neighbours move alike.

        Args:
            num: number of objects.
            generator: a CPU generator.
            num_per_shape: how many neighbours move alike.
        """
        shares = torch.rand(-(-num // num_per_shape), 5, generator=generator, dtype=torch.float32)
        shares = shares.repeat_interleave(num_per_shape, 0)[:num]
        low, high = self.scale
        scale, down, right, angle, mirror = shares.T
        return Moves(
            low + (high - low) * scale,
            (2 * down - 1) * self.shift,
            (2 * right - 1) * self.shift,
            (2 * angle - 1) * math.radians(self.rotate),
            1 - 2 * (mirror < self.flip).float(),
        )

    def move(self, mask: Tensor, foreground: Tensor, moves: Moves) -> tuple[Tensor, Tensor]:
        """Moves masks and foregrounds.

        Args:
            mask: (N, 1, S, S) float32 in [0, 1].
            foreground: (N, 3, S, S) float32 in [-1, 1].
            moves: moves of the N objects.

        Returns:
            Both, moved. Outside the mask the foreground continues the colours of its edge, or is 0.
        """
        if self.moves_objects:
            mask, foreground = _warp(mask, foreground, inverse_affine(find_boxes(mask), moves))
        if self.edge:
            mask, foreground = soften(mask, foreground, self.edge)
        return mask, foreground


def require_placement(placement: Placement | None) -> Placement | None:
    """Returns the placement, or raises `ArgumentTypeError` if it has another type."""
    if placement is not None and not isinstance(placement, Placement):
        raise ArgumentTypeError(f"placement must be Placement(…) or None, got {placement!r}")
    return placement


def find_boxes(mask: Tensor) -> Tensor:
    """Returns the bounding boxes of masks, where they are above 1/2.

    Args:
        mask: (N, 1, H, W) float in [0, 1].

    Returns:
        (N, 4) float32: row and column of the middle, then half the height and width, in the
        coordinates of `affine_grid` (-1 to 1 from edge to edge). The whole image if nothing is
        above 1/2.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.placement import find_boxes
        >>> mask = torch.zeros(1, 1, 8, 8)
        >>> mask[:, :, 2:4, :] = 1
        >>> find_boxes(mask).tolist()
        [[-0.25, 0.0, 0.25, 1.0]]
    """
    inside = mask[:, 0] > 0.5
    middles, halves = [], []
    for line in (inside.any(dim=2), inside.any(dim=1)):
        size = line.shape[1]
        line = line | ~line.any(dim=1, keepdim=True)
        first = line.to(torch.uint8).argmax(dim=1)
        last = size - line.flip(1).to(torch.uint8).argmax(dim=1)
        middles.append((first + last) / size - 1)
        halves.append((last - first) / size)
    return torch.stack([*middles, *halves], dim=1)


def inverse_affine(boxes: Tensor, moves: Moves) -> Tensor:
    """Returns where each pixel comes from, as a matrix for `affine_grid`.

    Args:
        boxes: (N, 4) as from `find_boxes`.
        moves: moves of the N objects.

    Returns:
        (N, 2, 3) float32 on the boxes' device.
    """
    scale, down, right, angle, mirror = torch.stack(list(moves)).to(boxes.device)
    row, column, half_height, half_width = boxes.T
    cos, sin = angle.cos(), angle.sin()
    # Half sides of the upright box around the turned one.
    tall = scale * (cos.abs() * half_height + sin.abs() * half_width)
    wide = scale * (cos.abs() * half_width + sin.abs() * half_height)
    new_row = _keep_inside(row + 2 * down, tall)
    new_column = _keep_inside(column + 2 * right, wide)
    # In affine_grid, x (the column) comes first, and rows count downwards.
    a, b = mirror * cos / scale, -mirror * sin / scale
    c, d = sin / scale, cos / scale
    to_x = torch.stack([a, b, column - a * new_column - b * new_row], dim=1)
    to_y = torch.stack([c, d, row - c * new_column - d * new_row], dim=1)
    return torch.stack([to_x, to_y], dim=1)


def _keep_inside(middle: Tensor, half: Tensor) -> Tensor:
    """Moves boxes into [-1, 1]; larger boxes cover all of it."""
    room = (1 - half).abs()
    return torch.minimum(torch.maximum(middle, -room), room)


def _warp(mask: Tensor, foreground: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    # Colours are weighted by the mask, so that its edge takes no colours from outside the object.
    layers = torch.cat([foreground * mask, mask], dim=1)
    grid = F.affine_grid(theta, list(layers.shape), align_corners=False)
    layers = F.grid_sample(layers, grid, mode="bilinear", align_corners=False)
    mask = layers[:, 3:]
    return mask, (layers[:, :3] / mask.clamp(min=_LEAST)).clamp_(-1, 1)


def soften(mask: Tensor, foreground: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Blurs the edges of masks and extends the object's own colours beyond them.

    Args:
        mask: (N, 1, H, W) float32 in [0, 1].
        foreground: (N, 3, H, W) float32 in [-1, 1].
        width: width of the edge, in pixels: twice the standard deviation of a Gaussian.

    Returns:
        Masks and foregrounds, in the same shapes.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.placement import soften
        >>> mask, black = torch.zeros(1, 1, 9, 9), -torch.ones(1, 3, 9, 9)
        >>> mask[..., :4] = 1
        >>> soft, colours = soften(mask, torch.where(mask > 0, black, -black), 2.0)
        >>> bool(soft[0, 0, 4, 4] > 0.2), bool(colours[0, 0, 4, 4] < -0.9)
        (True, True)
    """
    layers = torch.cat([foreground * mask, mask], dim=1)
    radius = max(1, math.ceil(1.5 * width))
    places = torch.arange(-radius, radius + 1, device=mask.device, dtype=mask.dtype)
    kernel = torch.exp(-2 * (places / width) ** 2)
    kernel = (kernel / kernel.sum()).expand(4, 1, -1)
    layers = F.pad(layers, (radius,) * 4, mode="replicate")
    layers = F.conv2d(layers, kernel[:, :, None], groups=4)
    layers = F.conv2d(layers, kernel[:, :, :, None], groups=4)
    soft = layers[:, 3:].clamp(0, 1)
    around = (layers[:, :3] / soft.clamp(min=_LEAST)).clamp_(-1, 1)
    return soft, torch.lerp(around, foreground, mask)
