"""The sheet of a `RealShapeSource`: real images, their masks, and their counterfactuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.masks.trust import VERDICTS
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.sources.real_shapes import RealShapeSource
from cgn_augment.types import RealBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def draw_real_shapes(
    source: RealShapeSource, images: Tensor, labels: Tensor, num: int = 4, seed: int = 0
) -> Figure:
    """Draws real images, their masks, and counterfactuals of their shapes, one column per image.

    Args:
        source: finds the masks and draws textures and backgrounds.
        images: (N, 3, H, W) float, as the user's pipeline gives them.
        labels: (N,) int64 classes of the images.
        num: counterfactuals per image.
        seed: seed of the draws.

    Raises:
        ArgumentError: `num` is below 1.

    Examples:
        >>> import torch
        >>> from cgn_augment import BankSource, RealShapeSource
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.masks import UNetMasker
        >>> from cgn_augment.sources.real_shapes_sheet import draw_real_shapes
        >>> bank = BankSource(SmallCGN().freeze(), size=20)
        >>> source = RealShapeSource(UNetMasker(4).eval(), bank, gate=None)
        >>> len(draw_real_shapes(source, torch.zeros(2, 3, 32, 32), torch.arange(2)).axes)
        12
    """
    require_count("num", num)
    real = RealBatch(images, labels, labels)
    plain = source.with_options(num_per_shape=1, gate=None, cache_masks=False)
    brought = plain.bring(images)
    masks = plain.masks_of(brought, real)
    verdicts = source.gate.judge(masks).tolist() if source.gate is not None else [0] * len(masks)
    rows = {"real image": brought, "its mask": masks}
    captions = {
        "real image": [f"class {y}" for y in labels.tolist()],
        "its mask": [VERDICTS[verdict] for verdict in verdicts],
    }
    for number in range(num):
        made = plain.sample(len(images), step_generator(Purpose.SOURCE, seed, number), real=real)
        order = made.real.argsort()  # type: ignore[union-attr]
        name = f"counterfactual {number + 1}"
        rows[name] = made.images[order]
        pairs = zip(made.texture[order].tolist(), made.background[order].tolist(), strict=True)
        captions[name] = [f"{texture} on {background}" for texture, background in pairs]
    return draw_sheet(rows, captions)
