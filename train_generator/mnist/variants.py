"""The three MNIST variants on which small CGNs are trained, rendered in memory.

In training the class fixes the colour or texture, so a classifier can ignore the shape; in the
test set colour and texture say nothing about the class. Protocol: Sauer and Geiger, ICLR 2021,
appendix. "Colored" is from Kim et al., Learning Not to Learn, CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cgn_augment.checks import require_choice, require_count
from cgn_augment.errors import ArgumentError
from train_generator.mnist.digits import SPLITS, load_digits
from train_generator.mnist.render import (
    OBJECT_SHIFT,
    render_colored,
    render_double_colored,
    render_wildlife,
)
from train_generator.mnist.textures import NUM_CLASSES, Textures, procedural_textures

Variant = Literal["colored", "double_colored", "wildlife"]
"""Name of an MNIST variant."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""All of them."""

NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class VariantData:
    """Images of one split of one variant, with all factors that made them.

    Attributes:
        images: `(N, 3, 32, 32) float32 in [-1, 1]`.
        labels: `(N,) int64`, the digit.
        masks: `(N, 1, 32, 32) bool`, True on the digit.
        object_class: `(N,) int64`, the class of the digit's colour or texture.
        background_class: `(N,) int64`, the class of the background's; -1 for colored, whose
            background is always black.
        visible: `(N,) bool`, False where double colored has one colour twice.
    """

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    object_class: torch.Tensor
    background_class: torch.Tensor
    visible: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def dataset(self) -> TensorDataset:
        """Images and labels, for a `DataLoader`."""
        return TensorDataset(self.images, self.labels)


def make_variant(
    variant: str,
    split: str,
    *,
    seed: int = 0,
    textures: Textures | None = None,
    decorrelated: bool | None = None,
    num: int | None = None,
) -> VariantData:
    """Renders one split of one variant.

    Args:
        variant: "colored", "double_colored" or "wildlife".
        split: "train" (50 000 digits) or "test" (10 000).
        seed: 0 or more. Variants and splits draw different numbers from one seed.
        textures: for wildlife only; None takes the procedural ones.
        decorrelated: draws colours and textures independently of the class. None means False for
            "train" and True for "test". True for "train" gives the upper bound's images.
        num: renders only the first `num` digits of the split; None renders all.

    Raises:
        ArgumentError: the variant or split does not exist or has fewer than `num` digits, the seed
            is negative, or textures are given to a variant without any.

    Examples:
        >>> make_variant("colored", "test", num=100).images.shape
        torch.Size([100, 3, 32, 32])
    """
    check_variant(variant, textures)
    require_count("seed", seed, least=0)
    digits = load_digits(split, num)
    generator = _make_generator(variant, split, seed)
    decorrelated = split == "test" if decorrelated is None else decorrelated
    object_class, background_class = draw_classes(digits.labels, decorrelated, generator)
    visible = torch.ones(len(digits), dtype=torch.bool)
    if variant == "colored":
        images = render_colored(digits.masks, object_class, generator)
        background_class = torch.full_like(object_class, NO_CLASS)
    elif variant == "double_colored":
        images = render_double_colored(digits.masks, object_class, background_class, generator)
        visible = (object_class - OBJECT_SHIFT) % NUM_CLASSES != background_class
    else:
        textures = procedural_textures() if textures is None else textures
        images = render_wildlife(digits.masks, object_class, background_class, textures, generator)
    return VariantData(images, digits.labels, digits.masks, object_class, background_class, visible)


def draw_classes(
    labels: torch.Tensor, decorrelated: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses object and background classes, both `(N,) int64`: the labels, or any classes."""
    if not decorrelated:
        return labels.clone(), labels.clone()
    drawn = torch.randint(NUM_CLASSES, (2, len(labels)), generator=generator)
    return drawn[0], drawn[1]


def _make_generator(variant: str, split: str, seed: int) -> torch.Generator:
    """Returns a separate generator for each (variant, split, seed)."""
    words = np.random.SeedSequence([seed, VARIANTS.index(variant), SPLITS.index(split)])
    state = int(words.generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)


def check_variant(variant: str, textures: Textures | None) -> None:
    """Raises `ArgumentError` unless the variant exists, and textures belong to it if given."""
    require_choice("variant", variant, VARIANTS)
    if textures is not None and variant != "wildlife":
        raise ArgumentError(
            f"textures are for wildlife only; {variant} has colours: leave them out"
        )
