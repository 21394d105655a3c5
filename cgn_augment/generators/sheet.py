"""The sheet of a CGN: what its mechanisms draw, and the images composed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.functional import Purpose, compose, permute_classes, step_generator
from cgn_augment.generators.drawing import (
    default_interventions,
    draw_factors,
    known_classes,
)
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.types import FACTORS, Mechanisms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_cgn(
    cgn: Mechanisms, num: int = 10, seed: int = 0, real: tuple[Tensor, Tensor] | None = None
) -> Figure:
    """Draws masks, foregrounds, backgrounds and the counterfactuals composed of them.

    Columns go through the classes of the shape. Textures and backgrounds are permutations of these,
    or the object's own if that is the default of the mechanisms.

    Args:
        cgn: a frozen CGN, or `Parts`.
        num: number of columns.
        seed: seed of noise and classes.
        real: images (N, 3, H, W) float32 in [-1, 1] and their labels (N,) int64 for a first row.

    Raises:
        ArgumentError: `num` is below 1, or the seed is negative.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.generators.sheet import draw_cgn
        >>> figure = draw_cgn(SmallCGN().freeze(), num=3)
    """
    require_count("num", num)
    generator = step_generator(Purpose.SOURCE, seed)
    known = known_classes(cgn)
    labels = torch.arange(known) if isinstance(known, int) else torch.tensor(known)
    shapes = labels[torch.arange(num) % len(labels)]
    classes = permute_classes(shapes, num, generator)
    classes[0] = shapes
    tied = default_interventions(cgn).is_tied
    if tied:
        classes[1] = shapes
    with torch.no_grad():
        factors = draw_factors(cgn, classes, generator, 1, num, tied=tied)
    rows = {
        "mask": factors.mask,
        "foreground": factors.foreground,
        "background": factors.background,
        "counterfactual": compose(factors.mask, factors.foreground, factors.background),
    }
    names: Mapping[int, str | int] = getattr(cgn, "names", {})
    captions = {
        row: [f"{factor} {names.get(y, y)}" for y in drawn.tolist()]
        for row, factor, drawn in zip(list(rows)[:3], FACTORS, classes, strict=True)
    }
    if real is not None:
        images, labels = real
        rows = {"real image": images, **rows}
        captions["real image"] = [f"class {y}" for y in labels.tolist()]
    return draw_sheet(rows, captions)
