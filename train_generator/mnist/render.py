"""Renders the MNIST variants: draws random colours or crops, then fills the digits with them.

Protocol: Sauer and Geiger, ICLR 2021, appendix; the colored variant is from Kim et al., Learning
Not to Learn, CVPR 2019. Random numbers come only from the given `torch.Generator`, on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from train_generator.mnist.digits import IMAGE_SIZE
from train_generator.mnist.textures import NUM_CLASSES, Textures

COLORED_VARIANCE = 0.02
DOUBLE_COLORED_VARIANCE = 0.01
REFLECT_PADDING = 3

# RGB, 0 to 255, by class.
COLORED_PALETTE = (
    (193, 28, 79),
    (23, 112, 116),
    (214, 203, 34),
    (15, 86, 187),
    (217, 124, 51),
    (139, 48, 167),
    (62, 214, 185),
    (234, 202, 203),
    (203, 216, 64),
    (157, 33, 29),
)
BACKGROUND_PALETTE = (
    (0x00, 0x64, 0x00),  # darkgreen
    (0x00, 0x00, 0x8B),  # darkblue
    (0xB0, 0x30, 0x60),
    (0xFF, 0x45, 0x00),  # orangered
    (0xFF, 0xFF, 0x00),  # yellow
    (0xDE, 0xB8, 0x87),  # burlywood
    (0x00, 0xFF, 0x00),  # lime
    (0x00, 0xFF, 0xFF),  # aqua
    (0xFF, 0x00, 0xFF),  # fuchsia
    (0x64, 0x95, 0xED),
)
# Class i wears the background colour of class (i - 6) mod 10.
OBJECT_SHIFT = 6
OBJECT_PALETTE = tuple(
    BACKGROUND_PALETTE[(label - OBJECT_SHIFT) % NUM_CLASSES] for label in range(NUM_CLASSES)
)

_CHUNK = 512  # images; keeps temporary arrays near the size of the processor's cache


def draw_colors(
    palette: tuple[tuple[int, int, int], ...],
    classes: torch.Tensor,
    variance: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Returns colours `(N, 3) float32 in [0, 1]` of classes `(N,)`, with Gaussian jitter, clipped.

    The palette is RGB in 0 to 255, by class; the variance is for colours in [0, 1].
    """
    colors = torch.tensor(palette, dtype=torch.float32) / 255
    deviation: float = variance**0.5
    jitter = torch.randn((len(classes), 3), generator=generator) * deviation
    return (colors[classes] + jitter).clamp(0, 1)


def draw_crops(
    textures: torch.Tensor, classes: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses a 32x32 crop of a reflect-padded texture `(10, 3, H, W)` for each image.

    Returns:
        Top rows and left columns in the padded texture, each `(N,) int64`.
    """
    height, width = (side + 2 * REFLECT_PADDING - IMAGE_SIZE + 1 for side in textures.shape[2:])
    shape = classes.shape
    top = torch.randint(height, shape, generator=generator)
    return top, torch.randint(width, shape, generator=generator)


def render_colored(
    masks: torch.Tensor, object_class: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Renders digits in their class colour, jittered with variance 0.02, on black.

    Args:
        masks: `(N, 1, 32, 32) bool`.
        object_class: `(N,) int64`.
        generator: a CPU generator.

    Returns:
        `(N, 3, 32, 32) float32 in [-1, 1]`.
    """
    colors = draw_colors(COLORED_PALETTE, object_class, COLORED_VARIANCE, generator)
    return _paint_colors(masks, colors, torch.zeros_like(colors))


def render_double_colored(
    masks: torch.Tensor,
    object_class: torch.Tensor,
    background_class: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Renders digits in one class colour on another, each jittered with variance 0.01.

    Args:
        masks: `(N, 1, 32, 32) bool`.
        object_class: `(N,) int64`.
        background_class: `(N,) int64`.
        generator: a CPU generator.

    Returns:
        `(N, 3, 32, 32) float32 in [-1, 1]`.
    """
    variance = DOUBLE_COLORED_VARIANCE
    objects = draw_colors(OBJECT_PALETTE, object_class, variance, generator)
    backgrounds = draw_colors(BACKGROUND_PALETTE, background_class, variance, generator)
    return _paint_colors(masks, objects, backgrounds)


def render_wildlife(
    masks: torch.Tensor,
    object_class: torch.Tensor,
    background_class: torch.Tensor,
    textures: Textures,
    generator: torch.Generator,
) -> torch.Tensor:
    """Renders digits cut from a random crop of their texture, on a crop of the background's.

    Args:
        masks: `(N, 1, 32, 32) bool`.
        object_class: `(N,) int64`.
        background_class: `(N,) int64`.
        textures: padded by 3 pixels of reflection before cropping.
        generator: a CPU generator.

    Returns:
        `(N, 3, 32, 32) float32 in [-1, 1]`.
    """
    objects, backgrounds = _windows(textures.object), _windows(textures.background)
    object_at = object_class, *draw_crops(textures.object, object_class, generator)
    behind = textures.background
    background_at = background_class, *draw_crops(behind, background_class, generator)
    images = torch.empty(len(masks), 3, IMAGE_SIZE, IMAGE_SIZE)
    for start in range(0, len(masks), _CHUNK):
        part = slice(start, start + _CHUNK)
        torch.where(
            masks[part],
            objects[tuple(index[part] for index in object_at)],
            backgrounds[tuple(index[part] for index in background_at)],
            out=images[part],
        )
    return images


def _windows(textures: torch.Tensor) -> torch.Tensor:
    """Returns a view of all 32x32 crops, in [-1, 1]: `windows[class, top, left]`."""
    padded = F.pad(textures * 2 - 1, (REFLECT_PADDING,) * 4, mode="reflect")
    crops = padded.unfold(2, IMAGE_SIZE, 1).unfold(3, IMAGE_SIZE, 1)
    return crops.permute(0, 2, 3, 1, 4, 5)


def _paint_colors(
    masks: torch.Tensor, objects: torch.Tensor, backgrounds: torch.Tensor
) -> torch.Tensor:
    """Paints flat colours `(N, 3) in [0, 1]` inside and outside the masks, in [-1, 1]."""
    return torch.where(
        masks, objects[:, :, None, None] * 2 - 1, backgrounds[:, :, None, None] * 2 - 1
    )
