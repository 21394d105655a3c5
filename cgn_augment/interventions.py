"""How the three classes of a counterfactual are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cgn_augment.checks import require_choices, require_counts
from cgn_augment.class_map import ClassMap, list_classes
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import permute_classes, sample_interventions
from cgn_augment.types import FACTORS

Kind = Literal["uniform", "permute"]


@dataclass(frozen=True)
class Interventions:
    """A rule that draws the classes of shape, texture and background.

    Args:
        kind: "uniform" draws each factor's class uniformly; "permute" gives each factor a
            permutation of the real batch's own classes (as the paper's MNIST experiments do).
        shape: keeps the factor to one class or a list of classes, drawn uniformly; None is all.
        texture: likewise.
        background: likewise.
        num_per_shape: this many neighbouring counterfactuals show the very same shape. Shapes
            cost one run for the group.

    Raises:
        ArgumentError: a value that cannot be used; the message names it.

    Example:
        >>> import torch
        >>> from cgn_augment import Interventions
        >>> on_sand = Interventions(shape=[0, 1], background=4)
        >>> on_sand.draw(3, 10, torch.Generator().manual_seed(0))[2].tolist()
        [4, 4, 4]
    """

    kind: Kind = "uniform"
    shape: int | Sequence[int] | None = None
    texture: int | Sequence[int] | None = None
    background: int | Sequence[int] | None = None
    num_per_shape: int = 1
    class_map: ClassMap | None = None

    def __post_init__(self) -> None:
        require_choices(self, kind=Kind)
        require_counts(self, "num_per_shape")
        for factor in FACTORS:
            given = getattr(self, factor)
            if given is not None:
                object.__setattr__(self, factor, list_classes(factor, given))

    def restrict(self, class_map: ClassMap) -> Interventions:
        """Keeps the draw to the classes of `class_map`, each label equally often.

        A list that was given for texture or background stays as it is: there is no label for the
        classes outside the map then, which is fine as long as they are not the label.

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
        """Returns the classes that were listed for `factor`, or None."""
        listed: tuple[int, ...] | None = getattr(self, factor)
        return listed

    def choices(self, factor: str, num_classes: int) -> tuple[tuple[int, ...], ...]:
        """Returns the groups of classes that `factor` is drawn from.

        Raises:
            ArgumentError: a listed class is not one of 0 … `num_classes` − 1.
            ArgumentError: nor is a class of the map.
        """
        listed = self.listed(factor)
        if listed is not None:
            if max(listed) >= num_classes:
                raise ArgumentError(
                    f"{factor} lists class {max(listed)} but the CGN has only the classes 0 to "
                    f"{num_classes - 1}"
                )
            return tuple((y,) for y in listed)
        if self.class_map is not None:
            self.class_map.require_classes(num_classes)
            return self.class_map.choices
        return tuple((y,) for y in range(num_classes))

    def classes(self, factor: str, num_classes: int) -> tuple[int, ...]:
        """Returns every class that `factor` can get, in rising order."""
        return tuple(sorted({y for group in self.choices(factor, num_classes) for y in group}))

    def draw(
        self,
        num: int,
        num_classes: int,
        generator: torch.Generator,
        real_classes: Tensor | None = None,
    ) -> Tensor:
        """Draws the classes of `num` counterfactuals.

        Args:
            num: how many.
            num_classes: classes of the CGN.
            generator: a CPU generator.
            real_classes: (B,) int64 classes of the real batch (−1: none); "permute" needs them.

        Returns:
            (3, num) int64 classes of shape, texture and background, on the CPU.

        Raises:
            ArgumentError: "permute" without a real batch, with none of its labels in the map, or
                with a class that the CGN lacks.
        """
        choices = [self.choices(factor, num_classes) for factor in FACTORS]
        drawn = sample_interventions(num, choices, generator, self.num_per_shape)
        if self.kind == "uniform" or num == 0:
            return drawn
        if real_classes is None:
            raise ArgumentError(
                "Interventions('permute') permutes the classes of the real batch, and none was "
                "given: pass real=, or use Interventions('uniform')"
            )
        known = real_classes.cpu()
        known = known[known >= 0]
        if self.class_map is not None:
            known = known[self.class_map.to_label(known) >= 0]
        if len(known) and known.max() >= num_classes:
            raise ArgumentError(
                f"the real batch has the class {int(known.max())} but the CGN has only the classes "
                f"0 to {num_classes - 1}: give each label its class by class_map"
            )
        if len(known) == 0:
            raise ArgumentError("no label of the real batch has a class of the CGN to permute")
        permuted = permute_classes(known, num, generator, self.num_per_shape)
        for row, factor in enumerate(FACTORS):
            if self.listed(factor) is not None:
                permuted[row] = drawn[row]
        return permuted
