"""What the recipe of small generators gets from a variant, and the numbers for the card."""

from __future__ import annotations

from torch import Tensor

from cgn_augment.types import Mechanisms
from train_generator.mnist.measure import load_judges, measure_digits, measure_generator
from train_generator.mnist.pictures import draw_generators
from train_generator.mnist.tables import metrics_table
from train_generator.mnist.textures import NUM_CLASSES, Textures
from train_generator.mnist.variants import VariantData
from train_generator.small.card import Measured
from train_generator.small.images import LabelledImages

NOTES = """\
Columns as `train-generator measure` explains them; shares are of binarised masks, foregrounds and
backgrounds as the shipped judges see them."""


def label_variant(
    data: VariantData, variant: str, textures: Textures | None = None
) -> LabelledImages:
    """Returns what the recipe may know about a variant: images and labels, but no masks.

    Args:
        data: biased training images.
        variant: "colored", "double_colored" or "wildlife".
        textures: for wildlife, if they are not the procedural ones.

    Examples:
        >>> from train_generator.mnist import make_variant
        >>> from train_generator.mnist.training import label_variant
        >>> label_variant(make_variant("wildlife", "train", num=60), "wildlife").description
        'wildlife MNIST, the procedural textures'
    """
    kind, name = "none", f"{variant.replace('_', ' ')} MNIST"
    if variant == "wildlife":
        kind = "procedural" if textures is None else "folder"
        whose = "the procedural textures" if textures is None else "the paper's photographs"
        name = f"{name}, {whose}"
    classes = tuple(map(str, range(NUM_CLASSES)))
    return LabelledImages(
        data.images, data.labels, classes, name, {"variant": variant, "textures": kind}
    )


def measure_for_card(
    name: str,
    cgn: Mechanisms,
    variant: str,
    textures: Textures | None = None,
    *,
    overlap: Tensor | None = None,
    num: int = 5000,
) -> Measured:
    """Measures a generator of a variant as `train-generator measure` does; see `Measured`."""
    judges = load_judges(variant, textures)
    rows = {
        "this generator": measure_generator(cgn, variant, textures, num=num, judges=judges),
        "real data": measure_digits(variant, textures, num=num, judges=judges),
    }
    return Measured(
        metrics_table(rows),
        NOTES,
        draw_generators({name: cgn}, judges.shape),
        "What it draws, with the judge's verdict under each mask",
        overlap,
    )
