"""Draws from a frozen CGN: each mechanism runs alone, for the classes that are asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgn_augment.types import Factors, Mechanisms


def draw_factors(
    cgn: Mechanisms, classes: Tensor, generator: torch.Generator, num_per_shape: int, chunk: int
) -> Factors:
    """Runs each mechanism once for each image (shapes: once for each group of `num_per_shape`).

    Args:
        cgn: a frozen CGN.
        classes: (3, N) int64 classes of shape, texture and background.
        generator: a CPU generator, for the noise and for the shuffling of textures.
        num_per_shape: this many neighbours have the same class of shape, and get the same mask.
        chunk: images that a mechanism makes at once.

    Example:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.generators.drawing import draw_factors
        >>> y = torch.tensor([[3, 4], [0, 1], [7, 7]])
        >>> len(draw_factors(SmallCGN().freeze(), y, torch.Generator().manual_seed(0), 1, 64))
        2
    """
    return Factors(*run_mechanisms(cgn, classes, generator, num_per_shape, chunk))


def run_mechanisms(
    cgn: Mechanisms,
    classes: Tensor,
    generator: torch.Generator,
    num_per_shape: int,
    chunk: int,
    *,
    masks: bool = True,
) -> list[Tensor]:
    """Draws what `draw_factors` draws; where masks are not wanted, the rest alone, and the same.

    Returns:
        Masks (N, 1, H, W) float32 in [0, 1] if they are wanted, foregrounds and backgrounds
        (N, 3, H, W) float32 in [-1, 1].
    """
    num = classes.shape[1]
    shape, texture, background = classes.to(cgn.device, non_blocking=True)
    shape_noise = cgn.draw_noise(-(-num // num_per_shape), generator)
    if cgn.shared_noise:
        texture_noise = background_noise = shape_noise.repeat_interleave(num_per_shape, 0)[:num]
    else:
        texture_noise = cgn.draw_noise(num, generator)
        background_noise = cgn.draw_noise(num, generator)
    foreground = cgn.shuffle(_run(cgn.texture, texture_noise, texture, chunk), generator)
    behind = cgn.shuffle(_run(cgn.background, background_noise, background, chunk), generator)
    if not masks:
        return [foreground, behind]
    mask = _run(cgn.shape, shape_noise, shape[::num_per_shape], chunk)
    return [mask.repeat_interleave(num_per_shape, 0)[:num], foreground, behind]


def _run(
    mechanism: Callable[[Tensor, Tensor], Tensor], noise: Tensor, y: Tensor, chunk: int
) -> Tensor:
    parts = zip(torch.split(noise, chunk), torch.split(y, chunk), strict=True)
    return torch.cat([mechanism(u, classes) for u, classes in parts])
