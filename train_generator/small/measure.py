"""Measures a generator of images of which only the labels are known.

There are no true factors, so it is compared with the parts that the last masker finds in the real
images. Judges of single factors would need true factors to train on, so the share of samples that
show their class is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.parts.textures import whole_textures
from cgn_augment.types import Mechanisms
from train_generator.metrics.factors import (
    binarize,
    coverage,
    diversity,
    mask_area,
    mask_entropy,
    tone_diversity,
)
from train_generator.metrics.tables import NOTHING, Table

HEADER = [
    "of",
    "mask entropy",
    "mask area",
    "diversity",
    "coverage",
    "texture diversity",
    "background diversity",
]
NOTES = f"""\
*mask entropy*: in bits, 0 for masks of zeros and ones. *mask area*: the share of the image that is
object. The rest is relative to one half of the real images, taken apart by the found masks, and
only as good as these: *diversity* of masks within a class; *coverage*, the share of found masks
with a drawn one in their neighbourhood, at 8x8 pixels (Naeem et al., ICML 2020); *texture* and
*background diversity* of mean colours and contrasts within a class, compared with textures that
were completed from the images. The row of the other half shows the result of a perfect generator.
{NOTHING} means that a class has too few images, or only images that are alike. Not measured: how
many masks show the requested class, since only true masks could teach that to a judge."""

MOST = 400
"""Real images per class that are examined."""

Labelled = tuple[Tensor, Tensor]
"""Images or masks (N, C, H, W), and their classes (N,) int64."""


@torch.no_grad()
def measure_drawn(
    cgn: Mechanisms,
    images: Tensor,
    labels: Tensor,
    found: Tensor | None,
    num_textures: int,
    seed: int = 0,
) -> Table:
    """Returns a table row for a generator and one for real images.

    Args:
        cgn: a frozen CGN.
        images: (N, 3, H, W) float32 in [-1, 1].
        labels: (N,) int64.
        found: (N, 1, H, W) bool masks of their objects; None if no masker was trained.
        num_textures: foregrounds and backgrounds to complete, per class.
        seed: seed of the draws.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.small.measure import measure_drawn
        >>> images, labels = torch.rand(24, 3, 32, 32), torch.arange(24) % 2
        >>> found = torch.zeros(24, 1, 32, 32, dtype=torch.bool)
        >>> found[:, :, 10:20, 10:20] = True
        >>> cgn = SmallCGN(num_classes=2, width=4).freeze()
        >>> table = measure_drawn(cgn, images, labels, found, 2)
        >>> [row[0] for row in table]
        ['of', 'this generator', 'real images']
    """
    first, second = halve(labels)
    asked = labels[first]  # as many of each class as there are to compare with
    generator = step_generator(Purpose.SOURCE, seed)
    drawn = draw_factors(cgn, asked.expand(3, -1), generator, 1, 100).to("cpu")
    if found is None:
        alone = [f"{mask_entropy(drawn.mask):.3f}", f"{mask_area(drawn.mask):.3f}"]
        return [HEADER, ["this generator", *alone, *[NOTHING] * (len(HEADER) - 3)]]
    halves = []
    for pool in whole_textures(images, labels, found, num_textures):
        of_pool = torch.arange(len(pool.counts)).repeat_interleave(pool.counts)
        halves.append([(pool.images[half], of_pool[half]) for half in halve(of_pool)])
    real = [(found[first], asked), *(half[0] for half in halves)]
    factors = [(drawn.mask, asked), (drawn.foreground, asked), (drawn.background, asked)]
    others = [(found[second].float(), labels[second]), *(half[1] for half in halves)]
    return [
        HEADER,
        ["this generator", *_compare(factors, real)],
        ["real images", *_compare(others, real)],
    ]


def halve(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the indices of the first, third, … image of each class, and of the others.

    Args:
        labels: (N,) int64.

    Returns:
        Two int64 tensors of indices.
    """
    places = [(labels == y).nonzero().flatten()[:MOST] for y in set(labels.tolist())]
    first, second = (torch.cat([place[start::2] for place in places]) for start in (0, 1))
    return first, second


def _compare(factors: Sequence[Labelled], real: Sequence[Labelled]) -> list[str]:
    """Returns the cells of a row; both arguments hold masks, foregrounds and backgrounds."""
    (mask, labels), *textures = factors
    (true, true_labels), *true_textures = real
    binary = binarize(mask)
    return [
        f"{mask_entropy(mask):.3f}",
        f"{mask_area(mask):.3f}",
        _cell(diversity, binary, labels, true, true_labels),
        _cell(coverage, _coarse(binary), labels, _coarse(true), true_labels),
        *(
            _cell(tone_diversity, *those, *these)
            for those, these in zip(textures, true_textures, strict=True)
        ),
    ]


def _cell(metric: Callable[..., float], *arguments: Tensor) -> str:
    try:
        value = metric(*arguments)
    except ArgumentError:  # too few images of a class, or all alike
        return NOTHING
    return f"{value:.2f}"


def _coarse(masks: Tensor) -> Tensor:
    """Returns masks (N, 1, H, W) bool reduced to 8x8 pixels: (N, 64) float32."""
    return F.adaptive_avg_pool2d(masks.float(), 8).flatten(1)
