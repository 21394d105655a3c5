"""A classifier's response to a CGN's images, factor by factor.

Measures how often its prediction changes when only one factor of an image changes, and how often it
gives the label of each factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import choice_table, compose, sample_interventions
from cgn_augment.types import FACTORS, Mechanisms
from train_generator.metrics.groups import require_finite_scores

Predict = Callable[[Tensor], Mapping[str, Tensor]]
Choices = Sequence[Sequence[int]]


@dataclass(frozen=True)
class ChangedImages:
    """Images, and the same images with one factor changed.

    Attributes:
        images: (N, 3, H, W) float32 in [-1, 1].
        changed: by factor, the images in which only this factor has another class and noise.
        classes: (3, N) int64 classes of `images`.
        new_classes: (3, N) int64; row i is the class of factor i in the images where it is changed.
    """

    images: Tensor
    changed: dict[str, Tensor]
    classes: Tensor
    new_classes: Tensor


@dataclass(frozen=True)
class FactorShares:
    """A share of images for each output of a classifier and each factor.

    Attributes:
        outputs: outputs of the classifier; the rows.
        shares: a row per output, a column each for shape, texture and background; in [0, 1].
        num: number of images behind each share.
    """

    outputs: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    num: int

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """The shares by output and factor."""
        named = zip(self.outputs, self.shares, strict=True)
        return {output: dict(zip(FACTORS, row, strict=True)) for output, row in named}

    @property
    def standard_errors(self) -> tuple[tuple[float, ...], ...]:
        """Standard error of each share: the square root of p(1 - p) / num."""
        return tuple(
            tuple(math.sqrt(share * (1 - share) / self.num) for share in row) for row in self.shares
        )


def factor_sensitivity(
    predict: Predict,
    cgn: Mechanisms,
    num: int,
    generator: torch.Generator,
    *,
    choices: Choices | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> FactorShares:
    """Measures how often a prediction flips when only shape, texture or background changes.

    Classes and noise of `num` images are drawn. Then, in the same images, each factor in turn gets
    another class and new noise. A classifier that recognises the classes of one factor perfectly
    and ignores the others has 1 there and 0 elsewhere.

    Args:
        predict: maps images (N, 3, H, W) float32 in [-1, 1] to the scores (N, C) of each output.
        cgn: a frozen CGN.
        num: number of images.
        generator: a CPU generator; the only randomness.
        choices: groups of classes, such as those of a class map, to draw each factor from; a
            changed factor gets a class of another group. All classes by default.
        chunk: images drawn at once; does not affect what is drawn.
        progress: shows a bar on standard error.

    Raises:
        ArgumentError: `num` or `chunk` is below 1, there are fewer than two groups of classes, or a
            score is NaN or infinite.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.robustness import factor_sensitivity
        >>> def see_nothing(images):
        ...     return {"logits": torch.zeros(len(images), 10)}
        >>> generator = torch.Generator().manual_seed(0)
        >>> factor_sensitivity(see_nothing, SmallCGN().freeze(), 8, generator).shares
        ((0.0, 0.0, 0.0),)
    """
    return measure_factors(
        predict, cgn, num, generator, choices=choices, chunk=chunk, progress=progress
    ).sensitivity


class FactorMeasures(NamedTuple):
    """The results of `measure_factors`.

    Attributes:
        accuracy: share of images for which each output gives the label of each factor.
        sensitivity: share of images whose prediction flips; see `factor_sensitivity`.
    """

    accuracy: FactorShares
    sensitivity: FactorShares


def measure_factors(
    predict: Predict,
    cgn: Mechanisms,
    num: int,
    generator: torch.Generator,
    *,
    to_label: Callable[[Tensor], Tensor] | None = None,
    choices: Choices | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> FactorMeasures:
    """Measures the sensitivity and, on the unchanged images, the accuracy on each factor's label.

    The three classes of an image are drawn independently, so an output that knows only one factor
    has chance accuracy on the other two.

    Args:
        predict: as for `factor_sensitivity`.
        cgn: a frozen CGN.
        num: number of images.
        generator: a CPU generator; the only randomness.
        to_label: maps classes (N,) int64 of the CGN to labels of the classifier; by default they
            are the same.
        choices: as for `factor_sensitivity`.
        chunk: images drawn at once; does not affect what is drawn.
        progress: shows a bar on standard error.

    Raises:
        ArgumentError: as for `factor_sensitivity`.
    """
    changes = change_factors(cgn, num, generator, choices=choices, chunk=chunk)
    with tqdm(total=num, desc="changing factors", disable=not progress) as bar:
        return measure_changes(predict, changes, to_label=to_label, announce=bar.update)


def measure_changes(
    predict: Predict,
    changes: Iterable[ChangedImages],
    *,
    to_label: Callable[[Tensor], Tensor] | None = None,
    announce: Callable[[int], object] = lambda _: None,
) -> FactorMeasures:
    """Measures accuracy and sensitivity on given images, wherever they come from.

    Args:
        predict: as for `factor_sensitivity`.
        changes: images, and the same images with one factor changed.
        to_label: as for `measure_factors`.
        announce: called with the number of images after each item.

    Raises:
        ArgumentError: there are no images, or a score is NaN or infinite.
    """
    counts: dict[str, Tensor] = {}  # (2, 3): right and flipped, by factor
    num = 0
    for part in changes:
        before = _decide(predict, part.images)
        after = [_decide(predict, part.changed[factor]) for factor in FACTORS]
        labels = torch.stack([y if to_label is None else to_label(y) for y in part.classes])
        for name, decisions in before.items():
            flipped = torch.stack([decisions != changed[name] for changed in after])
            found = torch.stack([decisions == labels, flipped]).sum(dim=2)
            counts[name] = counts.get(name, 0) + found
        num += len(part.images)
        announce(len(part.images))
    if num == 0:
        raise ArgumentError("there are no images to measure on")
    shares = zip(*((each.double() / num).tolist() for each in counts.values()), strict=True)
    return FactorMeasures(
        *(FactorShares(tuple(counts), tuple(map(tuple, rows)), num) for rows in shares)
    )


def change_factors(
    cgn: Mechanisms,
    num: int,
    generator: torch.Generator,
    *,
    choices: Choices | None = None,
    chunk: int = 64,
) -> Iterator[ChangedImages]:
    """Draws images and changes each of their factors; see `factor_sensitivity`.

    Six runs of a mechanism make four images.

    Args:
        cgn: a frozen CGN.
        num: number of images.
        generator: a CPU generator.
        choices: as for `factor_sensitivity`.
        chunk: images drawn at once.

    Yields:
        At most `chunk` images at a time, `num` in all, on the CGN's device.

    Raises:
        ArgumentError: `num` or `chunk` is below 1, or there are fewer than two groups of classes.
    """
    require_count("chunk", chunk)
    groups = require_changes(num, cgn.num_classes, choices)
    classes = sample_interventions(num, (groups, groups, groups), generator)
    new_classes = _draw_others(classes, groups, generator)
    noise = [cgn.draw_noise(num, generator)]
    noise += [noise[0] if cgn.shared_noise else cgn.draw_noise(num, generator) for _ in FACTORS[1:]]
    new_noise = [cgn.draw_noise(num, generator) for _ in FACTORS]
    first = _Drawn(classes, noise, (_split(generator), _split(generator)))
    other = _Drawn(new_classes, new_noise, (_split(generator), _split(generator)))
    return _change(cgn, first, other, num, chunk)


def require_changes(num: int, num_classes: int, choices: Choices | None) -> Choices:
    """Returns the groups of classes to draw images and their changes from.

    Raises:
        ArgumentError: `num` is below 1, or there are fewer than two groups of classes.
    """
    require_count("num", num)
    groups = [[y] for y in range(num_classes)] if choices is None else choices
    if len(groups) < 2:
        raise ArgumentError("a factor changes between two classes or more: list more of them")
    return groups


@torch.no_grad()
def _change(
    cgn: Mechanisms, first: _Drawn, other: _Drawn, num: int, chunk: int
) -> Iterator[ChangedImages]:
    for start in range(0, num, chunk):
        at = slice(start, min(start + chunk, num))
        mask, foreground, background = first.run(cgn, at)
        other_mask, other_foreground, other_background = other.run(cgn, at)
        changed = {
            "shape": compose(other_mask, foreground, background),
            "texture": compose(mask, other_foreground, background),
            "background": compose(mask, foreground, other_background),
        }
        images = compose(mask, foreground, background)
        yield ChangedImages(images, changed, first.classes[:, at], other.classes[:, at])


@dataclass(frozen=True)
class _Drawn:
    """Classes (3, N), noise of each factor and the moves of textures; run from front to back."""

    classes: Tensor
    noise: Sequence[Tensor]
    shuffles: tuple[torch.Generator, torch.Generator]

    def run(self, cgn: Mechanisms, at: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mask, foreground and background."""
        shape, texture, background = self.classes[:, at].to(cgn.device)
        foreground = cgn.texture(self.noise[1][at], texture)
        behind = cgn.background(self.noise[2][at], background)
        return (
            cgn.shape(self.noise[0][at], shape),
            cgn.shuffle(foreground, self.shuffles[0]),
            cgn.shuffle(behind, self.shuffles[1]),
        )


def _draw_others(classes: Tensor, groups: Choices, generator: torch.Generator) -> Tensor:
    """Returns for (3, N) classes others (3, N): uniformly another group, then a member of it."""
    table, lengths = choice_table(tuple(map(tuple, groups)))
    group_of = torch.full((int(table.max()) + 1,), -1)
    for number, group in enumerate(groups):
        group_of[list(group)] = number
    step = torch.randint(1, len(groups), classes.shape, generator=generator)
    chosen = (group_of[classes] + step) % len(groups)
    member = torch.rand(classes.shape, generator=generator, dtype=torch.float64) * lengths[chosen]
    return table[chosen, member.long()]


def _split(generator: torch.Generator) -> torch.Generator:
    """Returns a separate generator for part of the draw, so that chunks do not matter."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator().manual_seed(seed)


def _decide(predict: Predict, images: Tensor) -> dict[str, Tensor]:
    return {
        name: require_finite_scores(scores, f"the output {name}").argmax(dim=1).cpu()
        for name, scores in predict(images).items()
    }
