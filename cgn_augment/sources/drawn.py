"""Counterfactuals that are drawn from a CGN, anew for every image or by what keeps its factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from cgn_augment.checks import require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import compose, standard_numbers
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.interventions import Interventions
from cgn_augment.types import FACTORS, Counterfactuals, Mechanisms, RealBatch, Step


class DrawnSource(ABC):
    """Draws classes by its interventions; where the factors of them come from is to be filled in.

    The arguments and errors are those of `FreshSource`.
    """

    _name: ClassVar[str]
    _settings: ClassVar[tuple[str, ...]] = ()
    """Further arguments that say what is drawn; the attributes have their names."""

    def __init__(
        self, cgn: Mechanisms, interventions: Interventions | None = None, *, chunk: int = 64
    ) -> None:
        if not isinstance(cgn, Mechanisms):
            raise ArgumentTypeError(
                f"a source needs a CGN (such as load_cgn returns), got {type(cgn).__name__}"
            )
        if getattr(cgn, "frozen", True) is False:
            raise ArgumentError(
                "the CGN is still in training: call cgn.freeze() before drawing from it"
            )
        if interventions is not None and not isinstance(interventions, Interventions):
            raise ArgumentTypeError(
                f"interventions must be Interventions(…) or None, got {interventions!r}"
            )
        self.cgn, self.interventions = cgn, interventions or Interventions()
        self.chunk = require_count("chunk", chunk)
        self.image_size, self.num_classes = cgn.image_size, cgn.num_classes
        choices = [self.interventions.classes(factor, self.num_classes) for factor in FACTORS]
        self._classes = [torch.tensor(classes) for classes in choices]

    @property
    def device(self) -> torch.device:
        """Where the images are made."""
        return self.cgn.device

    @property
    def fingerprint(self) -> str:
        """Says of two sources whether they draw the same."""
        settings = "".join(f"{name}={getattr(self, name)}, " for name in self._settings)
        return f"{self._name}({self.cgn.fingerprint}, {settings}{self.interventions})"

    def restrict(self, class_map: ClassMap) -> Self:
        """Returns a source of the same settings that draws only the classes of `class_map`."""
        same = {name: getattr(self, name) for name in ("cgn", "chunk", *self._settings)}
        return type(self)(interventions=self.interventions.restrict(class_map), **same)

    @standard_numbers()
    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals; see `Source.sample`.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] on the CGN's device; labels there too.
        """
        (mask, foreground, behind), classes = self.sample_factors(num, generator, step, real)
        images = compose(mask, foreground, behind, out=behind)
        shape, texture, background = classes.to(images.device, non_blocking=True)
        return Counterfactuals(images, shape, texture, background, mask=mask)

    @standard_numbers()
    def sample_factors(
        self,
        num: int,
        generator: Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
        *,
        masks: bool = True,
    ) -> tuple[list[Tensor], Tensor]:
        """Draws what the images of `sample` are composed of.

        Returns:
            Masks, foregrounds and backgrounds, or without `masks` the same without them; and the
            classes (3, num) int64 on the CPU.
        """
        if not isinstance(step, Step):
            raise ArgumentTypeError(
                f"step must be Step(…), got {type(step).__name__}; a real batch goes to real="
            )
        real_classes = None if real is None else real.classes
        classes = self.interventions.draw(num, self.num_classes, generator, real_classes)
        return self._draw(classes, generator, step, masks), classes

    @abstractmethod
    def _draw(self, classes: Tensor, generator: Generator, step: Step, masks: bool) -> list[Tensor]:
        """Returns for (3, N) classes masks, if they are wanted, foregrounds and backgrounds."""


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

    _name = "fresh"

    def _draw(self, classes: Tensor, generator: Generator, step: Step, masks: bool) -> list[Tensor]:
        every = self.interventions.num_per_shape
        return run_mechanisms(self.cgn, classes, generator, every, self.chunk, masks=masks)
