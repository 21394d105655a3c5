"""Moves from class to class in one mechanism of a CGN, or in all three, at fixed noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from cgn_augment.checks import require_choice, require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators import CGN
from cgn_augment.types import FACTORS, Factors

Change = Literal["shape", "texture", "background", "all"]

_MAX_STEPS = 10_000
"""More frames than anybody looks at; all of them are in memory at once."""


@torch.no_grad()
def interpolate_classes(
    cgn: CGN,
    classes: Sequence[int],
    factor: Change = "all",
    *,
    steps: int = 8,
    others: Mapping[str, int] | None = None,
    seed: int = 0,
    chunk: int = 1,
) -> Factors:
    """Draws frames on the way from class to class, by linear interpolation of the class embedding.

    Args:
        cgn: a frozen CGN.
        classes: two or more, visited in this order.
        factor: the factor whose class changes; "all" changes all three together.
        steps: frames from one class to the next.
        others: classes of the factors that do not change, by factor; `classes[0]` by default.
        seed: seed of the noise, which all frames share.
        chunk: frames drawn at once.

    Returns:
        The factors of steps · (len(classes) − 1) + 1 frames; the last one shows the last class.

    Raises:
        ArgumentError: there are fewer than two classes or one step, a class does not exist, a
            factor is unknown, or `others` holds a factor that changes.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.generators.interpolation import interpolate_classes
        >>> frames = interpolate_classes(SmallCGN().freeze(), [3, 7], "texture", steps=4)
        >>> len(frames), bool((frames.mask == frames.mask[0]).all())
        (5, True)
    """
    changing = FACTORS if factor == "all" else (factor,)
    require_choice("factor", factor, get_args(Change))
    if len(classes) < 2:
        raise ArgumentError(f"there is a way between two classes or more, got {list(classes)}")
    require_count("steps", steps, most=_MAX_STEPS)
    require_count("chunk", chunk)
    wrong = sorted((others or {}).keys() - (set(FACTORS) - set(changing)))
    if wrong:
        raise ArgumentError(
            f"{', '.join(wrong)} cannot be kept to one class: with factor={factor!r} what stays "
            f"the same is {', '.join(sorted(set(FACTORS) - set(changing))) or 'nothing'}"
        )
    way = _way(classes, steps)
    generator = step_generator(Purpose.SAMPLE_NOISE, seed, 0)
    noise = cgn.draw_noise(1, generator)
    drawn = {}
    for name in FACTORS:
        stays = (others or {}).get(name, classes[0])
        ends = way if name in changing else _way([stays, stays], 1)[:, :1]
        drawn[name] = _draw(cgn, name, noise, ends, chunk)
        if not cgn.shared_noise:
            noise = cgn.draw_noise(1, generator)
    after = generator.get_state()  # every frame moves as the first one does
    for name in FACTORS[1:]:
        moved = []
        for image in drawn[name]:
            generator.set_state(after)
            moved.append(cgn.shuffle(image[None], generator))
        drawn[name] = torch.cat(moved)
    return Factors(*(drawn[name].expand(way.shape[1], -1, -1, -1) for name in FACTORS))


def _way(classes: Sequence[int], steps: int) -> Tensor:
    """Returns (3, frames) float64: class before, class after, and the weight of the latter."""
    frames = [
        (float(before), float(after), step / steps)
        for before, after in pairwise(classes)
        for step in range(steps)
    ]
    frames.append((float(classes[-2]), float(classes[-1]), 1.0))
    return torch.tensor(frames, dtype=torch.float64).t()


def _draw(cgn: CGN, factor: str, noise: Tensor, way: Tensor, chunk: int) -> Tensor:
    parts = []
    for first, second, weight in (part.unbind() for part in torch.split(way, chunk, dim=1)):
        shared = noise.expand(len(weight), -1)
        parts.append(cgn.mix(factor, shared, first.long(), second.long(), weight.float()))
    return torch.cat(parts)
