"""Draws from a frozen CGN: each mechanism runs alone, for the requested classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cgn_augment.interventions import Interventions
from cgn_augment.types import Factors, Mechanisms


def known_classes(cgn: Mechanisms) -> int | Sequence[int]:
    """Returns the number of classes of a CGN, or a list of them if they are not 0, 1, 2, …."""
    labels: Sequence[int] | None = getattr(cgn, "labels", None)
    return cgn.num_classes if labels is None else labels


def default_interventions(cgn: Mechanisms) -> Interventions:
    """Returns the default for how classes are drawn: uniformly, unless the mechanisms differ."""
    own: Interventions | None = getattr(cgn, "interventions", None)
    return Interventions() if own is None else own


def draw_objects(cgn: Mechanisms, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns masks and foregrounds that belong together: from one object or one noise vector."""
    own: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = getattr(cgn, "objects", None)
    return (cgn.shape(noise, y), cgn.texture(noise, y)) if own is None else own(noise, y)


def draw_factors(
    cgn: Mechanisms,
    classes: Tensor,
    generator: torch.Generator,
    num_per_shape: int,
    chunk: int,
    *,
    tied: bool = False,
) -> Factors:
    """Runs each mechanism once per image (shapes: once per group of `num_per_shape`).

    Args:
        cgn: a frozen CGN.
        classes: (3, N) int64 classes of shape, texture and background.
        generator: a CPU generator, for the noise and for the shuffling of textures.
        num_per_shape: how many neighbours share one mask; they have the same class of shape.
        chunk: images that a mechanism makes at once.
        tied: takes each foreground from the object that gives the mask.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.generators.drawing import draw_factors
        >>> y = torch.tensor([[3, 4], [0, 1], [7, 7]])
        >>> len(draw_factors(SmallCGN().freeze(), y, torch.Generator().manual_seed(0), 1, 64))
        2
    """
    return Factors(*run_mechanisms(cgn, classes, generator, num_per_shape, chunk, tied=tied))


def run_mechanisms(
    cgn: Mechanisms,
    classes: Tensor,
    generator: torch.Generator,
    num_per_shape: int,
    chunk: int,
    *,
    masks: bool = True,
    tied: bool = False,
) -> list[Tensor]:
    """Draws the same as `draw_factors`, as a list; without masks if they are not wanted.

    Returns:
        Masks (N, 1, H, W) float32 in [0, 1] if wanted, then foregrounds and backgrounds (N, 3, H,
        W) float32 in [-1, 1].
    """
    num = classes.shape[1]
    shape, texture, background = classes.to(cgn.device, non_blocking=True)
    shape_noise = cgn.draw_noise(-(-num // num_per_shape), generator)

    def for_each(of_shapes: Tensor) -> Tensor:
        return of_shapes.repeat_interleave(num_per_shape, 0)[:num]

    if cgn.shared_noise:
        texture_noise = background_noise = for_each(shape_noise)
    else:
        texture_noise = shape_noise if tied else cgn.draw_noise(num, generator)
        background_noise = cgn.draw_noise(num, generator)
    if tied:
        pairs = _pairs(shape_noise, shape[::num_per_shape], chunk)
        parts = zip(*(draw_objects(cgn, u, y) for u, y in pairs), strict=True)
        mask, foreground = (torch.cat(each) for each in parts)
        foreground = for_each(cgn.shuffle(foreground, generator))
    else:
        foreground = cgn.shuffle(_run(cgn.texture, texture_noise, texture, chunk), generator)
    behind = cgn.shuffle(_run(cgn.background, background_noise, background, chunk), generator)
    if not masks:
        return [foreground, behind]
    if not tied:
        mask = _run(cgn.shape, shape_noise, shape[::num_per_shape], chunk)
    return [for_each(mask), foreground, behind]


def _run(
    mechanism: Callable[[Tensor, Tensor], Tensor], noise: Tensor, y: Tensor, chunk: int
) -> Tensor:
    return torch.cat([mechanism(u, classes) for u, classes in _pairs(noise, y, chunk)])


def _pairs(noise: Tensor, y: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(noise, chunk), torch.split(y, chunk), strict=True))
