"""Small natural-looking images of an object on a ground, with known shape, texture and ground.

They replace ImageNet where its images and the networks pretrained on them are not available. In the
biased images the class determines all three factors, as cows stand on pastures; in the decorrelated
ones the three classes are independent. Masks are known, and used for evaluation only.

An image follows from its three classes, a vector of codes (position and size of the object, its
colours, ...) and a generator for details such as blades of grass and sensor noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes.materials import BACKGROUNDS, NUM_CODES, TEXTURES, Variants, paint
from benchmarks.scenes.silhouettes import FRAME, SILHOUETTES, Silhouettes, class_silhouettes
from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, check_classes, step_generator
from cgn_augment.generators.truncation import NOISE_LIMIT, draw_truncated

IMAGE_SIZE = 64
CLASSES = tuple(SILHOUETTES)
NUM_CLASSES = len(CLASSES)

NUM_PLACE_CODES = 6  # x, y, size, direction, stretch, slant
NUM_LIGHT_CODES = 2  # where light comes from, and how much
SCENE_CODES = NUM_PLACE_CODES + 2 * NUM_CODES + NUM_LIGHT_CODES
"""Numbers that a scene follows from, but for its details."""

LEAST_COVER, MOST_COVER = 0.13, 0.32
"""Share of the image that an object covers, but that a wide one ends at `LARGEST`."""

LARGEST = 0.86  # of the half image: radius of the circle about an object
MARGIN = 2.5  # pixels between an object and the border
TURN, STRETCH, SLANT = 0.3, 0.06, 0.06  # for each unit of the code
SENSOR_NOISE = 0.015

_CHUNK = 256  # images; keeps the temporaries near the processor's cache


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with all that made them.

    Attributes:
        images: (N, 3, 64, 64) float32 in [-1, 1].
        masks: (N, 1, 64, 64) float32 in [0, 1]: how much of a pixel is object.
        shape: (N,) int64 class of the silhouette.
        texture: (N,) int64 class of the object's texture.
        background: (N,) int64 class of the ground.
    """

    images: Tensor
    masks: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.images)


class Places(NamedTuple):
    """Where the objects are: a place p of the image is `turned @ (p - centers)` of the object."""

    centers: Tensor  # (N, 2)
    into_object: Tensor  # (N, 2, 2)
    radius: Tensor  # (N,), in half images


def make_scenes(num: int, seed: int = 0, *, decorrelated: bool = False) -> Scenes:
    """Draws scenes with as many of each class of shape, but for a remainder.

    Args:
        num: of images.
        seed: 0 or more; biased and decorrelated images of one seed are unrelated.
        decorrelated: whether texture and background are independent of the shape.

    Raises:
        ArgumentError: less than one image, or a negative seed.

    Examples:
        >>> from benchmarks.scenes.images import make_scenes
        >>> scenes = make_scenes(4)
        >>> scenes.images.shape, scenes.masks.shape
        (torch.Size([4, 3, 64, 64]), torch.Size([4, 1, 64, 64]))
    """
    if num < 1:
        raise ArgumentError(f"num must be 1 or more, got {num}")
    require_count("seed", seed, 0)
    generator = step_generator(Purpose.MEASURE, seed, int(decorrelated))
    shape = torch.arange(num) % NUM_CLASSES
    texture = background = shape
    if decorrelated:
        texture, background = torch.randint(NUM_CLASSES, (2, num), generator=generator)
    codes = draw_truncated(num, SCENE_CODES, generator)
    images, masks = render_scenes(codes, shape, texture, background, generator)
    return Scenes(images, masks, shape, texture, background)


def render_scenes(
    codes: Tensor,
    shape: Tensor,
    texture: Tensor,
    background: Tensor,
    generator: torch.Generator,
    silhouettes: Silhouettes | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws scenes.

    Args:
        codes: (N, SCENE_CODES) float32 in [-2, 2].
        shape: (N,) int64 indices of the silhouettes.
        texture: (N,) int64 classes of the objects' textures.
        background: (N,) int64 classes of the grounds.
        generator: of the details, on the CPU.
        silhouettes: those of the classes by default.

    Returns:
        Images (N, 3, 64, 64) float32 in [-1, 1] and masks (N, 1, 64, 64) float32 in [0, 1].

    Raises:
        ArgumentError: codes of another shape or outside [-2, 2], or a class that there is not.
        ArgumentTypeError: classes that are not integers.

    Examples:
        >>> import torch
        >>> from benchmarks.scenes.images import SCENE_CODES, render_scenes
        >>> one = torch.tensor([1])
        >>> images, masks = render_scenes(
        ...     torch.zeros(1, SCENE_CODES), one, one, one, torch.Generator().manual_seed(0)
        ... )
        >>> 0.1 < masks.mean().item() < 0.4
        True
    """
    silhouettes = class_silhouettes() if silhouettes is None else silhouettes
    if codes.dim() != 2 or codes.shape[1] != SCENE_CODES or codes.abs().max() > NOISE_LIMIT:
        raise ArgumentError(
            f"codes must have the shape (N, {SCENE_CODES}) and lie in [-{NOISE_LIMIT}, "
            f"{NOISE_LIMIT}], got {tuple(codes.shape)}: draw_truncated makes them"
        )
    check_classes(shape, len(codes), len(silhouettes), "codes")
    check_classes(texture, len(codes), len(TEXTURES), "codes")
    check_classes(background, len(codes), len(BACKGROUNDS), "codes")
    classes = torch.stack([shape, texture, background])
    parts = [
        _render(part, classes[:, start : start + _CHUNK], generator, silhouettes)
        for start, part in zip(
            range(0, len(codes), _CHUNK), torch.split(codes, _CHUNK), strict=True
        )
    ]
    images, masks = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(masks)


def _render(
    codes: Tensor, classes: Tensor, generator: torch.Generator, silhouettes: Silhouettes
) -> tuple[Tensor, Tensor]:
    shape, texture, background = classes
    place, of_object, of_ground, light = torch.split(
        codes, [NUM_PLACE_CODES, NUM_CODES, NUM_CODES, NUM_LIGHT_CODES], dim=1
    )
    places = _place(place, silhouettes.outlines[shape], silhouettes.areas[shape])
    grid = _pixel_centers()
    x, y = torch.split(grid.expand(len(codes), -1, -1, -1), 1, dim=1)
    local = _into_object(places, grid)
    distance = F.grid_sample(
        silhouettes.distances[shape],
        (local / FRAME).permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    pixels = distance * places.radius[:, None, None, None] * (IMAGE_SIZE / 2)
    masks = (0.5 - pixels / 1.3).clamp(0, 1)
    u, v = torch.split(local, 1, dim=1)
    objects = paint(TEXTURES, texture, Variants(u, v, of_object, generator))
    grounds = paint(BACKGROUNDS, background, Variants(x, y, of_ground, generator))
    images = torch.lerp(grounds, objects * _shade(u, v, pixels, light), masks)
    images = images + SENSOR_NOISE * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1) * 2 - 1, masks


def _place(codes: Tensor, outlines: Tensor, areas: Tensor) -> Places:
    """Sizes, turns and bends the objects, and puts them where nothing of them is cut."""
    x, y, size, turn, stretch, slant = (codes[:, number] for number in range(NUM_PLACE_CODES))
    least = 2 * (LEAST_COVER / areas).sqrt()
    most = torch.minimum(2 * (MOST_COVER / areas).sqrt(), torch.tensor(LARGEST))
    radius = torch.lerp(least, torch.maximum(least, most), (size / NOISE_LIMIT + 1) / 2)
    longer, angle = 1 + STRETCH * stretch, TURN * turn
    # Of determinant 1: objects are bent and keep their area.
    bend = _matrix(longer, SLANT * slant, torch.zeros_like(longer), 1 / longer)
    rotate = _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    from_object = radius[:, None, None] * (rotate @ bend)
    reached = outlines @ from_object.mT
    limit = 1 - 2 * MARGIN / IMAGE_SIZE
    low, high = -limit - reached.amin(dim=1), limit - reached.amax(dim=1)
    share = (torch.stack([x, y], dim=1) / NOISE_LIMIT + 1) / 2
    centers = torch.lerp(low, high, share)
    return Places(centers, torch.linalg.inv(from_object), radius)


def _shade(u: Tensor, v: Tensor, pixels: Tensor, light: Tensor) -> Tensor:
    """Light from one side, and a rim that is darker: (N, 1, H, W) factors."""
    side, strength = light[:, 0, None, None, None], light[:, 1, None, None, None]
    slope = (0.5 * side).sin() * u - (0.5 * side).cos() * v
    rim = 1 - 0.28 * torch.exp(pixels.clamp(max=0) / 1.8)
    return rim * (1 + (0.12 + 0.03 * strength) * slope.clamp(-1, 1))


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)


def _into_object(places: Places, grid: Tensor) -> Tensor:
    """Returns the pixels' places (N, 2, H, W) as the objects see them."""
    away = grid - places.centers[:, :, None, None]
    return torch.einsum("nij,njhw->nihw", places.into_object, away)


def _pixel_centers() -> Tensor:
    """Returns the places (1, 2, H, W) of the pixels, x and y, with the image as [-1, 1]."""
    axis = (torch.arange(IMAGE_SIZE) + 0.5) * 2 / IMAGE_SIZE - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]
