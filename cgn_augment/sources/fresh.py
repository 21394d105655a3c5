"""Counterfactuals that are drawn anew for every image."""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.class_map import ClassMap
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.interventions import Interventions
from cgn_augment.sources.drawn import DrawnSource
from cgn_augment.types import FACTORS, Mechanisms, Step


class FreshSource(DrawnSource):
    """Runs the three mechanisms for every image.

    Args:
        cgn: a frozen CGN.
        interventions: how the classes are drawn; uniformly by default.
        chunk: images generated at once; bounds the memory.

    Raises:
        ArgumentError: a class that the CGN lacks, a CGN in training, a chunk below 1.
        ArgumentTypeError: `cgn` has no mechanisms, or another argument is of another kind.

    Example:
        >>> import torch
        >>> from cgn_augment import FreshSource
        >>> from cgn_augment.generators import SmallCGN
        >>> source = FreshSource(SmallCGN().freeze())
        >>> source.sample(4, torch.Generator().manual_seed(0)).images.shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self, cgn: Mechanisms, interventions: Interventions | None = None, *, chunk: int = 64
    ) -> None:
        super().__init__(cgn, interventions, chunk)
        for factor in FACTORS:
            self.interventions.choices(factor, self.num_classes)

    @property
    def fingerprint(self) -> str:
        """Says of two sources whether they draw the same."""
        return f"fresh({self.cgn.fingerprint}, {self.interventions})"

    def restrict(self, class_map: ClassMap) -> FreshSource:
        """Returns a source that draws only the classes of `class_map`."""
        return FreshSource(self.cgn, self.interventions.restrict(class_map), chunk=self.chunk)

    @torch.no_grad()
    def _draw(
        self, classes: Tensor, generator: torch.Generator, step: Step, *, masks: bool
    ) -> list[Tensor]:
        every = self.interventions.num_per_shape
        return run_mechanisms(self.cgn, classes, generator, every, self.chunk, masks=masks)
