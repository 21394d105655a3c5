"""Measures a generator and the real data: one row of a table each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.types import Factors, Mechanisms
from train_generator.metrics.factors import (
    accuracy,
    binarize,
    class_accuracies,
    coverage,
    diversity,
    mask_area,
    mask_entropy,
    tone_diversity,
)
from train_generator.mnist.appearance import (
    AppearanceJudge,
    has_classes,
    load_appearance_judge,
    render_factor,
)
from train_generator.mnist.digits import load_digits
from train_generator.mnist.judges import (
    NUM_CLASSES,
    ShapeJudge,
    extract_features,
    load_shape_judge,
    predict,
)
from train_generator.mnist.textures import Textures

NUM_NEIGHBORS = 5

_CHUNK = 100  # images generated at once


@dataclass(frozen=True)
class Judges:
    """The judges of the three factors of one variant.

    Attributes:
        shape: judge of masks.
        texture: judge of foregrounds.
        background: judge of backgrounds; None if these have no classes (colored).
    """

    shape: ShapeJudge
    texture: AppearanceJudge
    background: AppearanceJudge | None


@dataclass(frozen=True)
class GeneratorMetrics:
    """Quality of a generator's three mechanisms. Accuracies are shares in [0, 1].

    Attributes:
        shape_accuracy: binarised masks that the shape judge assigns to their class.
        class_shape_accuracies: likewise, for each class.
        texture_accuracy: foregrounds, over the whole image, assigned to their class. The jittered
            colours of colored overlap, so a generator whose colours vary too little scores above
            the real data.
        background_accuracy: backgrounds likewise; None if they have no classes (colored).
        mask_entropy: in bits, 0 for masks of zeros and ones; see `metrics.mask_entropy`.
        mask_area: mean share of the image that is object.
        diversity: within classes, relative to real digits; see `metrics.diversity`.
        coverage: coverage of real digits, within classes; see `metrics.coverage`. Grows with `num`.
        texture_diversity: diversity of foregrounds; see `metrics.tone_diversity`.
        background_diversity: diversity of backgrounds; None if they have no classes (colored).
        num: number of images measured; do not compare metrics with different `num`.
    """

    shape_accuracy: float
    class_shape_accuracies: tuple[float, ...]
    texture_accuracy: float
    background_accuracy: float | None
    mask_entropy: float
    mask_area: float
    diversity: float
    coverage: float
    texture_diversity: float
    background_diversity: float | None
    num: int


def load_judges(
    variant: str, textures: Textures | None = None, *, cache: Path | None = None
) -> Judges:
    """Loads the shipped shape judge, and loads or trains the other two (ten seconds each).

    Args:
        variant: "colored", "double_colored" or "wildlife".
        textures: for wildlife; None takes the procedural ones.
        cache: folder of trained judges; `cache_folder()` by default.

    Raises:
        ArgumentError: the variant does not exist, or textures are given for one with colours.
    """
    texture = load_appearance_judge(variant, "texture", textures, cache=cache)
    background = None
    if has_classes(variant, "background"):
        background = load_appearance_judge(variant, "background", textures, cache=cache)
    return Judges(load_shape_judge(), texture, background)


def measure_generator(
    cgn: Mechanisms,
    variant: str,
    textures: Textures | None = None,
    *,
    num: int = 5000,
    seed: int = 0,
    judges: Judges | None = None,
) -> GeneratorMetrics:
    """Measures what a generator draws: `num` masks, foregrounds and backgrounds, shuffled.

    Args:
        cgn: a frozen CGN of ten classes and 32x32 pixels.
        variant: the variant it was trained on: "colored", "double_colored" or "wildlife".
        textures: for wildlife: those it was trained on. None takes the procedural ones.
        num: number of images, with the classes taking turns; from 60 to 8000, so that each class
            has real digits to compare with.
        seed: seed of the noise and the shuffling.
        judges: `load_judges(variant, textures)` by default.

    Raises:
        ArgumentError: a value cannot be used.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.mnist import AppearanceJudge, Judges
        >>> from train_generator.mnist import load_shape_judge, measure_generator
        >>> judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
        >>> cgn = SmallCGN(width=4).freeze()
        >>> measure_generator(cgn, "colored", num=60, judges=judges).num
        60
    """
    require_num(num)
    if (cgn.num_classes, cgn.image_size) != (NUM_CLASSES, 32):
        raise ArgumentError(
            f"the judges know {NUM_CLASSES} classes of 32x32 pixels, and this CGN has "
            f"{cgn.num_classes} of {cgn.image_size}x{cgn.image_size}"
        )
    labels = torch.arange(num) % NUM_CLASSES
    generator = step_generator(Purpose.SOURCE, seed)
    with torch.no_grad():
        factors = draw_factors(cgn, labels.expand(3, -1), generator, 1, _CHUNK)
    judges = judges or load_judges(variant, textures)
    real = draw_real_factors(variant, textures, "train", num, seed)
    return _measure(factors.to("cpu"), labels, real, judges)


def measure_digits(
    variant: str,
    textures: Textures | None = None,
    *,
    num: int = 5000,
    seed: int = 0,
    judges: Judges | None = None,
) -> GeneratorMetrics:
    """Measures real digits in the same way: the result of a perfect generator.

    Masks are clean test digits, on which no judge was trained; textures and backgrounds are true
    ones over the whole image.

    Args:
        variant: as for `measure_generator`.
        textures: as for `measure_generator`.
        num: as for `measure_generator`.
        seed: seed of colours and crops.
        judges: as for `measure_generator`.

    Raises:
        ArgumentError: a value cannot be used.

    Examples:
        >>> from train_generator.mnist import AppearanceJudge, Judges
        >>> from train_generator.mnist import load_shape_judge, measure_digits
        >>> judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
        >>> measure_digits("colored", num=60, judges=judges).diversity > 0.8
        True
    """
    require_num(num)
    judges = judges or load_judges(variant, textures)
    labels = torch.arange(num) % NUM_CLASSES
    factors = draw_real_factors(variant, textures, "test", num, seed)
    real = draw_real_factors(variant, textures, "train", num, seed + 1)
    return _measure(factors, labels, real, judges)


def draw_real_factors(
    variant: str, textures: Textures | None, split: str, num: int, seed: int
) -> Factors:
    """Returns real digits with equally many true textures and backgrounds.

    The classes take turns; the seed is for colours and crops.
    """
    generator = step_generator(Purpose.SOURCE, seed)
    masks, labels = balanced_digits(split, num)
    return Factors(
        masks.float(),
        render_factor(variant, "texture", labels, generator, textures),
        render_factor(variant, "background", labels, generator, textures),
    )


def balanced_digits(split: str, num: int) -> tuple[Tensor, Tensor]:
    """Returns the first real digits (num, 1, 32, 32) bool of each class, and the labels (num,).

    The classes take turns: 0, 1, …, 9, 0, 1, …

    Raises:
        ArgumentError: the split has too few digits of a class.
    """
    digits = load_digits(split)
    labels = torch.arange(num) % NUM_CLASSES
    chosen = torch.empty(num, dtype=torch.long)
    for y in range(NUM_CLASSES):
        places = (labels == y).nonzero().flatten()
        found = (digits.labels == y).nonzero().flatten()
        if len(found) < len(places):
            raise ArgumentError(
                f"there are {len(found)} real digits {y} in the {split} split and {len(places)} "
                "are needed: lower num"
            )
        chosen[places] = found[: len(places)]
    return digits.masks[chosen], labels


def require_num(num: int) -> None:
    """Raises `ArgumentError` unless this number of images can be measured."""
    least, most = NUM_CLASSES * (NUM_NEIGHBORS + 1), 8000
    if not least <= num <= most:
        raise ArgumentError(f"num must be {least} to {most}, got {num}")


def _measure(factors: Factors, labels: Tensor, real: Factors, judges: Judges) -> GeneratorMetrics:
    """Measures factors, all of class `labels` (N,) int64, against real ones of the same class."""
    binary, real_binary = binarize(factors.mask), binarize(real.mask)
    seen = predict(judges.shape, binary.float())
    background_accuracy = background_diversity = None
    if judges.background is not None:
        background_accuracy = accuracy(predict(judges.background, factors.background), labels)
        background_diversity = tone_diversity(factors.background, labels, real.background, labels)
    return GeneratorMetrics(
        shape_accuracy=accuracy(seen, labels),
        class_shape_accuracies=class_accuracies(seen, labels, NUM_CLASSES),
        texture_accuracy=accuracy(predict(judges.texture, factors.foreground), labels),
        background_accuracy=background_accuracy,
        mask_entropy=mask_entropy(factors.mask),
        mask_area=mask_area(factors.mask),
        diversity=diversity(binary, labels, real_binary, labels),
        coverage=coverage(
            extract_features(judges.shape, binary.float()),
            labels,
            extract_features(judges.shape, real_binary.float()),
            labels,
            NUM_NEIGHBORS,
        ),
        texture_diversity=tone_diversity(factors.foreground, labels, real.foreground, labels),
        background_diversity=background_diversity,
        num=len(labels),
    )
