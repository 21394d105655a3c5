"""How the three classes of a counterfactual are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from cgn_augment.checks import require_choices, require_counts
from cgn_augment.class_map import ClassMap, list_classes
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import permute_classes, pick_choices, sample_interventions
from cgn_augment.types import FACTORS

Kind = Literal["uniform", "permute"]
Rule = int | Sequence[int] | str | None
Classes = int | Sequence[int]
"""How many classes there are, or a list of them where they are not 0, 1, 2, …."""

OWN, OTHER = "shape", "other"
_WORDS = {"shape": (), "texture": (OWN, OTHER), "background": (OTHER,)}
"""What a factor may be, besides a class and a list of classes."""


@dataclass(frozen=True)
class Interventions:
    """A rule that draws the classes of shape, texture and background.

    Args:
        kind: "uniform" draws each factor's class uniformly; "permute" gives each factor a
            permutation of the real batch's own classes (as in the paper's MNIST experiments).
        shape: a class, or a list of classes to draw from uniformly; None draws from all.
        texture: likewise. "shape" takes it from the object that gives the shape, so that the
            object keeps its look: with parts the same object, with a CGN the same noise and class.
            "other" draws from all classes except that of the shape.
        background: a class, a list or "other", as for texture. Of two classes, the other one's
            background gives the shape's class away among counterfactuals: draw from both.
        num_per_shape: how many neighbouring counterfactuals show the very same shape. The shape
            is then computed once per group.
        class_map: the labels and classes to keep to; `restrict` sets it.

    Raises:
        ArgumentError: a value cannot be used; the message names it.

    Examples:
        >>> import torch
        >>> from cgn_augment import Interventions
        >>> on_sand = Interventions(shape=[0, 1], background=4)
        >>> on_sand.draw(3, 10, torch.Generator().manual_seed(0))[2].tolist()
        [4, 4, 4]
        >>> elsewhere = Interventions(texture="shape", background="other")
        >>> shape, texture, background = elsewhere.draw(50, 2, torch.Generator().manual_seed(0))
        >>> torch.equal(shape, texture), torch.equal(shape, 1 - background)
        (True, True)
    """

    kind: Kind = "uniform"
    shape: Rule = None
    texture: Rule = None
    background: Rule = None
    num_per_shape: int = 1
    class_map: ClassMap | None = None

    def __post_init__(self) -> None:
        require_choices(self, kind=Kind)
        require_counts(self, "num_per_shape")
        for factor in FACTORS:
            given = getattr(self, factor)
            if given is None or (isinstance(given, str) and given in _WORDS[factor]):
                continue
            if isinstance(given, str) and given in (OWN, OTHER):
                raise ArgumentError(_REFUSED[factor, given])
            object.__setattr__(self, factor, list_classes(factor, given))
        if self.kind == "permute" and OTHER in (self.texture, self.background):
            raise ArgumentError(
                "'other' draws any class but the shape's own, and a permutation of the batch's "
                "classes cannot leave that out: use Interventions('uniform'), or leave 'other' out"
            )

    @property
    def is_tied(self) -> bool:
        """Whether the texture comes from the object that gives the shape."""
        return self.texture == OWN

    def restrict(self, class_map: ClassMap) -> Interventions:
        """Returns interventions that draw only classes of `class_map`, each label equally often.

        A list given for texture or background stays as it is. Classes in it that are outside the
        map have no label, so that factor must not be the label.

        Args:
            class_map: the classes to keep to.

        Raises:
            ArgumentError: a class listed for the shape is outside the map.
        """
        outside = [y for y in self.listed("shape") or () if y not in class_map]
        if outside:
            raise ArgumentError(
                f"shape lists the classes {outside[:5]} that are outside the class map: no label "
                "could be given to them. Add them to class_map, or take them from the list"
            )
        return replace(self, class_map=class_map)

    def listed(self, factor: str) -> tuple[int, ...] | None:
        """Returns the classes listed for `factor`, or None if there is no list.

        Args:
            factor: shape, texture or background.
        """
        rule: tuple[int, ...] | str | None = getattr(self, factor)
        return None if isinstance(rule, str) else rule

    def choices(self, factor: str, classes: Classes) -> tuple[tuple[int, ...], ...]:
        """Returns the groups of classes that `factor` is drawn from.

        Args:
            factor: shape, texture or background.
            classes: of the CGN: how many (0 … `classes` − 1), or which.

        Raises:
            ArgumentError: a listed class, or one of the map, does not exist, or there is no other
                class to draw.
        """
        return _find_choices(self, factor, classes if isinstance(classes, int) else tuple(classes))

    def _find_choices(
        self, factor: str, classes: int | tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        if getattr(self, factor) == OWN:
            return self.choices("shape", classes)
        every = range(classes) if isinstance(classes, int) else classes
        listed = self.listed(factor)
        if listed is not None:
            if lacking := sorted(set(listed) - set(every)):
                raise ArgumentError(
                    f"{factor} lists class {lacking[-1]} but the CGN has only the classes "
                    f"{_name(every)}"
                )
            return tuple((y,) for y in listed)
        if self.class_map is not None:
            if lacking := sorted(set(self.class_map.classes) - set(every)):
                raise ArgumentError(
                    f"class_map names the classes {lacking[:5]} but the CGN has only the classes "
                    f"{_name(every)}"
                )
            groups = self.class_map.choices
        else:
            groups = tuple((y,) for y in every)
        if getattr(self, factor) == OTHER and len(groups) < 2:
            raise ArgumentError(
                f"{factor}='other' needs a class besides the shape's own, and {groups[0]} is all "
                f"there is: leave it out, or list the classes of the {factor}"
            )
        return groups

    def classes(self, factor: str, classes: Classes) -> tuple[int, ...]:
        """Returns every class that `factor` can take, in rising order.

        Args:
            factor: shape, texture or background.
            classes: of the CGN: how many, or which.
        """
        return tuple(sorted({y for group in self.choices(factor, classes) for y in group}))

    def draw(
        self,
        num: int,
        classes: Classes,
        generator: torch.Generator,
        real_classes: Tensor | None = None,
        shapes: Tensor | None = None,
    ) -> Tensor:
        """Draws the classes of `num` counterfactuals.

        Args:
            num: how many.
            classes: of the CGN: how many, or which.
            generator: a CPU generator.
            real_classes: (B,) int64 classes of the real batch, −1 for none; needed by "permute".
            shapes: (num,) int64 classes of shapes chosen before, −1 for none. "other" then means
                other than these.

        Returns:
            (3, num) int64 classes of shape, texture and background, on the CPU.

        Raises:
            ArgumentError: "permute" without a real batch, or with one that has no label in the map
                or a class that the CGN lacks.
        """
        choices = [self.choices(factor, classes) for factor in FACTORS]
        drawn = sample_interventions(num, choices, generator, self.num_per_shape)
        if self.kind == "permute" and num:
            drawn = self._permute(drawn, classes, generator, real_classes)
        shape = drawn[0] if shapes is None else torch.where(shapes < 0, drawn[0], shapes.cpu())
        for row, factor in enumerate(FACTORS):
            if getattr(self, factor) == OWN:
                drawn[row] = drawn[0]
            elif getattr(self, factor) == OTHER:
                shares = torch.rand(num, 2, generator=generator, dtype=torch.float64)
                drawn[row] = pick_choices(choices[row], shares, unlike=shape)
        return drawn

    def pick(self, shares: Tensor, classes: Classes, shape: Tensor | None = None) -> Tensor:
        """Returns classes from numbers that are already drawn, without a real batch.

        Args:
            shares: (N, 3, 2) float64 in [0, 1), two for each factor, as in `pick_choices`.
            classes: of the CGN: how many, or which.
            shape: (N,) int64 classes of the shapes, if they are chosen already.

        Returns:
            (3, N) int64 classes of shape, texture and background.
        """
        rows: list[Tensor] = []
        for row, factor in enumerate(FACTORS):
            rule = getattr(self, factor)
            unlike = rows[0] if rule == OTHER else None
            picked = pick_choices(self.choices(factor, classes), shares[:, row], unlike)
            chosen = rows[0] if rule == OWN else shape if factor == "shape" else None
            rows.append(picked if chosen is None else chosen)
        return torch.stack(rows)

    def _permute(
        self,
        drawn: Tensor,
        classes: Classes,
        generator: torch.Generator,
        real_classes: Tensor | None,
    ) -> Tensor:
        """Returns permutations of the real batch's classes, except for factors with a list."""
        if real_classes is None:
            raise ArgumentError(
                "Interventions('permute') permutes the classes of the real batch, and none was "
                "given: pass real=, or use Interventions('uniform')"
            )
        known = real_classes.cpu()
        known = known[known >= 0]
        if self.class_map is not None:
            known = known[self.class_map.to_label(known) >= 0]
        every = range(classes) if isinstance(classes, int) else classes
        lacking = sorted(set(known.tolist()) - set(every))
        if lacking:
            raise ArgumentError(
                f"the real batch has the class {lacking[-1]} but the CGN has only the classes "
                f"{_name(every)}: give each label its class by class_map"
            )
        if len(known) == 0:
            raise ArgumentError("no label of the real batch has a class of the CGN to permute")
        permuted = permute_classes(known, drawn.shape[1], generator, self.num_per_shape)
        for row, factor in enumerate(FACTORS):
            if self.listed(factor) is not None:
                permuted[row] = drawn[row]
        return permuted


@lru_cache(maxsize=64)
def _find_choices(
    interventions: Interventions, factor: str, classes: int | tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Returns `Interventions.choices`, which each step asks for, without finding them again."""
    return interventions._find_choices(factor, classes)


def _name(every: Sequence[int]) -> str:
    """Returns a short text that names the classes."""
    whole = list(every) == list(range(len(every)))
    return f"0 to {len(every) - 1}" if whole else f"{list(every)}"


_REFUSED = {
    ("shape", OWN): "shape must list classes, got 'shape', which the texture can be tied to",
    ("shape", OTHER): "shape must list classes, got 'other': others are other than the shape's",
    ("background", OWN): (
        "background='shape' would show each object where it was seen, which is the real image: "
        "leave it out, take 'other', or list classes"
    ),
}
