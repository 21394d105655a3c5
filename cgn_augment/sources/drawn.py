"""What the sources that draw from a CGN have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import compose
from cgn_augment.interventions import Interventions
from cgn_augment.types import Counterfactuals, Factors, Mechanisms, RealBatch, Step


class DrawnSource(ABC):
    """Draws classes by its interventions; where the factors of them come from is to be filled in.

    The arguments are those of `FreshSource`.

    Raises:
        ArgumentError: a CGN in training, or a chunk below 1.
        ArgumentTypeError: `cgn` has no mechanisms, or another argument is of another kind.
    """

    def __init__(self, cgn: Mechanisms, interventions: Interventions | None, chunk: int) -> None:
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

    @property
    def device(self) -> torch.device:
        """Where the images are made."""
        return self.cgn.device

    @torch.no_grad()
    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals; see `Source.sample`.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] on the CGN's device; labels there too.
        """
        factors, classes = self.sample_factors(num, generator, step, real)
        behind = factors.background
        images = compose(factors.mask, factors.foreground, behind, out=behind)
        return Counterfactuals(images, *classes.to(images.device, non_blocking=True))

    def sample_factors(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> tuple[Factors, Tensor]:
        """Draws what the images of `sample` are composed of; see `FactorSource`."""
        classes = self._draw_classes(num, generator, step, real)
        return Factors(*self._draw(classes, generator, step, masks=True)), classes

    def sample_textures(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws foregrounds and backgrounds of `sample_factors` alone; see `FactorSource`."""
        classes = self._draw_classes(num, generator, step, real)
        foreground, background = self._draw(classes, generator, step, masks=False)
        return foreground, background, classes

    def _draw_classes(
        self, num: int, generator: Generator, step: Step, real: RealBatch | None
    ) -> Tensor:
        if not isinstance(step, Step):
            raise ArgumentTypeError(
                f"step must be Step(…), got {type(step).__name__}; a real batch goes to real="
            )
        classes = None if real is None else real.classes
        return self.interventions.draw(num, self.num_classes, generator, classes)

    @abstractmethod
    def _draw(
        self, classes: Tensor, generator: Generator, step: Step, *, masks: bool
    ) -> list[Tensor]:
        """Returns for (3, N) classes masks, if they are wanted, foregrounds and backgrounds."""
