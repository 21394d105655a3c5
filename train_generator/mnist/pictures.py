"""Pictures of what generators of digits draw."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment.functional import Purpose, compose, permute_classes, step_generator
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.types import Mechanisms
from train_generator.metrics.factors import binarize
from train_generator.mnist.judges import NUM_CLASSES, ShapeJudge, predict

MASK_ROWS = 4


@torch.no_grad()
def draw_generators(
    cgns: Mapping[str, Mechanisms], shape_judge: ShapeJudge, seed: int = 0
) -> Figure:
    """Draws samples of generators, one column per class, with the judge's verdict under each mask.

    Args:
        cgns: frozen CGNs of ten classes, by name.
        shape_judge: recognises the masks.
        seed: seed of noise and classes.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.mnist import load_shape_judge
        >>> from train_generator.mnist.pictures import draw_generators
        >>> figure = draw_generators({"mine": SmallCGN(width=4).freeze()}, load_shape_judge())
        >>> len(figure.axes)  # seven rows of ten classes
        70
    """
    rows: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    labels = torch.arange(NUM_CLASSES)
    for name, cgn in cgns.items():
        prefix = f"{name}\n" if len(cgns) > 1 else ""
        generator = step_generator(Purpose.SOURCE, seed)
        for number in range(1, MASK_ROWS + 1):
            factors = draw_factors(cgn, labels.expand(3, -1), generator, 1, NUM_CLASSES).to("cpu")
            seen = predict(shape_judge, binarize(factors.mask).float())
            rows[f"{prefix}mask {number}"] = factors.mask
            captions[f"{prefix}mask {number}"] = [
                f"✓ {y}" if y == verdict else f"✗ {y} seen as {verdict}"
                for y, verdict in enumerate(seen.tolist())
            ]
        rows[f"{prefix}foreground"] = factors.foreground
        rows[f"{prefix}background"] = factors.background
        classes = permute_classes(labels, NUM_CLASSES, generator)
        classes[0] = labels
        mixed = draw_factors(cgn, classes, generator, 1, NUM_CLASSES).to("cpu")
        rows[f"{prefix}counterfactual"] = compose(mixed.mask, mixed.foreground, mixed.background)
    return draw_sheet(rows, captions)
