"""Outlines of the objects in the scenes, and the distance of each place from them.

Eight silhouettes stand for the classes. Random blobs stand for all other objects: a saliency
network learns from those, so that it never sees the outline of a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator

NUM_POINTS = 96
"""Of the outer outline."""

FRAME = 1.15
"""The maps of distances cover [-FRAME, FRAME]; outlines lie within the unit circle."""

MAP_SIZE = 97


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Outlines and maps of their signed distances.

    Attributes:
        outlines: (K, NUM_POINTS, 2) float32 points (x, y) of the outer outline, within the unit
            circle; y points down.
        distances: (K, 1, MAP_SIZE, MAP_SIZE) float32 over [-FRAME, FRAME], negative inside.
        areas: (K,) float32, without holes.
    """

    outlines: Tensor
    distances: Tensor
    areas: Tensor

    def __len__(self) -> int:
        return len(self.areas)


@lru_cache
def class_silhouettes() -> Silhouettes:
    """Returns the silhouettes of the classes, in the order of `SILHOUETTES`.

    Examples:
        >>> from benchmarks.scenes.silhouettes import SILHOUETTES, class_silhouettes
        >>> len(class_silhouettes()) == len(SILHOUETTES)
        True
    """
    return _measure([draw() for draw in SILHOUETTES.values()])


@lru_cache(maxsize=4)
def blob_silhouettes(num: int, seed: int = 0) -> Silhouettes:
    """Draws random blobs: circles whose radius goes up and down two to seven times.

    Args:
        num: of blobs.
        seed: of their outlines.

    Raises:
        ArgumentError: less than one blob, or a negative seed.

    Examples:
        >>> from benchmarks.scenes.silhouettes import blob_silhouettes
        >>> blob_silhouettes(3).outlines.shape
        torch.Size([3, 96, 2])
    """
    if num < 1:
        raise ArgumentError(f"num must be 1 or more, got {num}")
    generator = step_generator(Purpose.SOURCE, seed, num)
    turn = _turn(NUM_POINTS)
    waves = torch.arange(2, 8, dtype=torch.float32)[:, None]
    phases = 2 * math.pi * torch.rand(num, len(waves), 1, generator=generator)
    heights = torch.randn(num, len(waves), 1, generator=generator) * (0.42 / waves)
    radius = (1 + (heights * torch.cos(waves * turn + phases)).sum(dim=1)).clamp(0.25, 2)
    points = radius[..., None] * torch.stack([turn.cos(), turn.sin()], dim=-1)
    return _measure([[blob] for blob in points])


def signed_distance(loops: list[Tensor], places: Tensor) -> Tensor:
    """Returns how far places are from closed loops of straight edges, negative inside.

    Inside is where a ray crosses the loops an odd number of times, so a loop in a loop is a hole.

    Args:
        loops: each (V, 2) float32 corners.
        places: (P, 2) float32.

    Returns:
        (P,) float32.

    Examples:
        >>> import torch
        >>> from benchmarks.scenes.silhouettes import signed_distance
        >>> square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        >>> signed_distance([square], torch.tensor([[0.0, 0.0], [3.0, 0.0]])).tolist()
        [-1.0, 2.0]
    """
    start = torch.cat(loops)
    along = torch.cat([loop.roll(-1, dims=0) for loop in loops]) - start
    away = places[:, None] - start
    share = ((away * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    nearest = (away - share[..., None] * along).square().sum(-1).min(dim=1).values.sqrt()
    above = places[:, None, 1] >= start[:, 1]
    below = places[:, None, 1] < start[:, 1] + along[:, 1]
    side = along[:, 0] * away[..., 1] - along[:, 1] * away[..., 0]
    crossed = (above & below & (side > 0)) | (~above & ~below & (side < 0))
    inside = crossed.sum(dim=1) % 2 == 1
    return torch.where(inside, -nearest, nearest)


def _measure(shapes: list[list[Tensor]]) -> Silhouettes:
    """Centres loops, fits them into the unit circle and measures them; the first is the outer."""
    outlines, distances, areas = [], [], []
    axis = torch.linspace(-FRAME, FRAME, MAP_SIZE)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    for loops in shapes:
        outer = loops[0]
        center = (outer.amin(dim=0) + outer.amax(dim=0)) / 2
        reach = (outer - center).norm(dim=1).max()
        fitted = [(loop - center) / reach for loop in loops]
        outlines.append(_resample(fitted[0]))
        distances.append(signed_distance(fitted, places).view(1, MAP_SIZE, MAP_SIZE))
        areas.append(sum((_area(loop) for loop in fitted[1:]), -_area(fitted[0])).neg())
    return Silhouettes(torch.stack(outlines), torch.stack(distances), torch.stack(areas))


def _area(loop: Tensor) -> Tensor:
    following = loop.roll(-1, dims=0)
    return (loop[:, 0] * following[:, 1] - loop[:, 1] * following[:, 0]).sum().abs() / 2


def _resample(loop: Tensor) -> Tensor:
    """Returns NUM_POINTS points of a loop, its corners among them: extremes lie at corners."""
    if len(loop) > NUM_POINTS:  # pragma: no cover - no silhouette has as many
        raise ArgumentError(f"an outline has at most {NUM_POINTS} corners, got {len(loop)}")
    return torch.cat([loop, loop[-1:].expand(NUM_POINTS - len(loop), 2)])


def _turn(num: int) -> Tensor:
    return 2 * math.pi * torch.arange(num) / num


def _polar(radius: Tensor, turn: Tensor) -> Tensor:
    return torch.stack([radius * turn.sin(), -radius * turn.cos()], dim=-1)


def _star() -> list[Tensor]:
    return [_polar(torch.tensor([1.0, 0.46] * 5), _turn(10))]


def _cross() -> list[Tensor]:
    a, b = 0.36, 1.0
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a)]
    return [torch.tensor([*corners, (-b, a), (-b, -a), (-a, -a)])]


def _ring() -> list[Tensor]:
    turn = _turn(64)
    return [_polar(torch.full_like(turn, radius), turn) for radius in (1.0, 0.5)]


def _crescent() -> list[Tensor]:
    outer = torch.linspace(0.22 * math.pi, 1.78 * math.pi, 48)
    tip_x, tip_y = math.cos(0.22 * math.pi), math.sin(0.22 * math.pi)
    shift = 0.62
    reach = math.hypot(tip_x - shift, tip_y)
    open_at = math.atan2(tip_y, tip_x - shift)
    inner = torch.linspace(2 * math.pi - open_at, open_at, 40)[1:-1]
    arcs = [outer, inner]
    sizes = [(1.0, 0.0), (reach, shift)]
    return [
        torch.cat(
            [
                torch.stack([right + radius * arc.cos(), radius * arc.sin()], dim=-1)
                for arc, (radius, right) in zip(arcs, sizes, strict=True)
            ]
        )
    ]


def _heart() -> list[Tensor]:
    t = _turn(80)
    y = 13 * t.cos() - 5 * (2 * t).cos() - 2 * (3 * t).cos() - (4 * t).cos()
    return [torch.stack([16 * t.sin() ** 3, -y], dim=-1)]


def _arrow() -> list[Tensor]:
    right = [(0.0, -1.0), (0.82, -0.12), (0.36, -0.12), (0.36, 1.0)]
    return [torch.tensor([*right, *[(-x, y) for x, y in right[:0:-1]]])]


def _hexagon() -> list[Tensor]:
    return [_polar(torch.ones(6), _turn(6))]


def _fir() -> list[Tensor]:
    right = [(0.0, -1.0), (0.5, -0.3), (0.28, -0.3), (0.75, 0.55), (0.16, 0.55), (0.16, 0.95)]
    return [torch.tensor([*right, *[(-x, y) for x, y in right[:0:-1]]])]


SILHOUETTES: dict[str, Callable[[], list[Tensor]]] = {
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "arrow": _arrow,
    "hexagon": _hexagon,
    "fir": _fir,
}
"""By the name of a class the loops of its outline, the outer one first."""
