"""Counterfactuals drawn from a CGN: the base of `FreshSource` and `BankSource`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from cgn_augment.checks import require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import standard_numbers
from cgn_augment.generators.drawing import (
    default_interventions,
    known_classes,
    run_mechanisms,
)
from cgn_augment.interventions import Interventions
from cgn_augment.sources.composing import compose_floats
from cgn_augment.sources.placement import Placement, require_placement
from cgn_augment.types import FACTORS, Affine, Counterfactuals, Mechanisms, RealBatch, Step

OwnMasks = tuple[Tensor, Tensor]
"""Masks (K, 1, H, W) that no source drew, and which of them each of N images gets, (N,)."""


class DrawnSource(ABC):
    """Draws classes by its interventions; subclasses supply the factors of these classes.

    Arguments and errors are those of `FreshSource`.
    """

    draws_apart = True  # see `Source`

    _name: ClassVar[str]
    _settings: ClassVar[tuple[str, ...]] = ()
    """Further arguments that the fingerprint lists; attributes of the same names hold them."""
    _others: ClassVar[tuple[str, ...]] = ("chunk",)
    """Further arguments that it does not list, such as those that affect only the cost."""

    def __init__(
        self,
        cgn: Mechanisms,
        interventions: Interventions | None = None,
        *,
        placement: Placement | None = None,
        chunk: int = 64,
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
        self.cgn, self.interventions = cgn, interventions or default_interventions(cgn)
        self.placement = require_placement(placement)
        self.chunk = require_count("chunk", chunk)
        self.image_size, self.num_classes = cgn.image_size, cgn.num_classes
        self._known = known_classes(cgn)
        choices = [self.interventions.classes(factor, self._known) for factor in FACTORS]
        self._classes = [torch.tensor(classes) for classes in choices]
        if hasattr(cgn, "check"):
            cgn.check(self.interventions)

    @property
    def device(self) -> torch.device:
        """Device on which images are made."""
        return self.cgn.device

    @property
    def needs_real(self) -> bool:
        """Whether `sample` looks at the real batch."""
        return self.interventions.kind == "permute"

    @property
    def fingerprint(self) -> str:
        """Equal for sources that draw identical images."""
        settings = "".join(f"{name}={getattr(self, name)}, " for name in self._settings)
        placed = "" if self.placement is None else f", {self.placement}"
        return f"{self._name}({self.cgn.fingerprint}, {settings}{self.interventions}{placed})"

    def restrict(self, class_map: ClassMap) -> Self:
        """Returns a source with the same settings that draws only classes of `class_map`.

        Args:
            class_map: the classes to keep to.
        """
        same = {
            name: getattr(self, name)
            for name in ("cgn", "placement", *self._others, *self._settings)
        }
        return type(self)(interventions=self.interventions.restrict(class_map), **same)

    @standard_numbers()
    def sample(
        self,
        num: int,
        generator: Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
        *,
        out: Tensor | None = None,
        affine: Affine | None = None,
    ) -> Counterfactuals:
        """Draws `num` counterfactuals; see `Source.sample`.

        Args:
            num: number of images.
            generator: a CPU generator.
            step: the step they are for.
            real: the step's real batch, if there is one.
            out: memory for the images, (num, 3, H, W) on the CGN's device, of any floating type and
                memory format.
            affine: how to map the values of the images; by default not at all.

        Returns:
            Images (num, 3, H, W), float32 in [-1, 1] by default, and int64 labels, both on the
            CGN's device.
        """
        classes = self._draw_classes(num, generator, step, real, None)
        images, mask = self._compose(classes, generator, step, out, affine)
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
        shapes: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Draws the factors that the images of `sample` are composed of.

        Args:
            num: number of images.
            generator: a CPU generator.
            step: the step they are for.
            real: the step's real batch, if there is one.
            masks: whether to draw masks.
            shapes: (num,) int64 classes of shapes from elsewhere; -1 for none.

        Returns:
            Masks (only if `masks` is True), foregrounds and backgrounds; and the classes (3, num)
            int64 on the CPU.
        """
        classes = self._draw_classes(num, generator, step, real, shapes)
        return self._draw_placed(classes, generator, step, masks), classes

    @standard_numbers()
    def sample_with(
        self,
        own: OwnMasks,
        generator: Generator,
        step: Step = Step(),
        real: RealBatch | None = None,
        *,
        shapes: Tensor | None = None,
        out: Tensor | None = None,
        affine: Affine | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws foregrounds and backgrounds, and composes them by masks from elsewhere.

        Args:
            own: masks (K, 1, H, W) float32 in [0, 1] on the CGN's device and at its size; and (N,)
                int64 on the CPU, the mask of each image.
            generator: a CPU generator.
            step: the step they are for.
            real: the step's real batch, if there is one.
            shapes: (N,) int64 classes of the masks.
            out: see `sample`.
            affine: see `sample`.

        Returns:
            Images (N, 3, H, W), as `sample` returns them, their masks (N, 1, H, W), and the classes
            (3, N) int64 on the CPU.
        """
        classes = self._draw_classes(len(own[1]), generator, step, real, shapes)
        return *self._compose(classes, generator, step, out, affine, own), classes

    def _draw_classes(
        self,
        num: int,
        generator: Generator,
        step: Step,
        real: RealBatch | None,
        shapes: Tensor | None,
    ) -> Tensor:
        if not isinstance(step, Step):
            raise ArgumentTypeError(
                f"step must be Step(…), got {type(step).__name__}; a real batch goes to real="
            )
        real_classes = None if real is None else real.classes
        return self.interventions.draw(num, self._known, generator, real_classes, shapes)

    def _compose(
        self,
        classes: Tensor,
        generator: Generator,
        step: Step,
        out: Tensor | None,
        affine: Affine | None,
        own: OwnMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns images (N, 3, H, W) and masks (N, 1, H, W) for (3, N) classes."""
        if own is None:
            mask, foreground, behind = self._draw_placed(classes, generator, step, True)
        else:
            masks, at = own
            mask = masks[at.to(masks.device)]
            foreground, behind = self._draw(classes, generator, step, False)
        return compose_floats(mask, foreground, behind, out, affine), mask

    def _draw_placed(
        self, classes: Tensor, generator: Generator, step: Step, masks: bool
    ) -> list[Tensor]:
        factors = self._draw(classes, generator, step, masks)
        if self.placement is None or not masks:
            return factors
        every = self.interventions.num_per_shape
        moves = self.placement.draw(classes.shape[1], generator, every)
        mask, foreground, behind = factors
        return [*self.placement.move(mask, foreground, moves), behind]

    @abstractmethod
    def _draw(self, classes: Tensor, generator: Generator, step: Step, masks: bool) -> list[Tensor]:
        """Returns masks (if wanted), foregrounds and backgrounds for (3, N) classes."""


class FreshSource(DrawnSource):
    """Runs the three mechanisms for every image.

    From `Parts` in memory it draws as fast as a bank, which would only copy them. From parts on
    disk it reads and decodes every image when it is drawn.

    Args:
        cgn: a frozen CGN, or `Parts`.
        interventions: how classes are drawn; uniformly by default. With parts on disk each object
            keeps its own texture by default.
        placement: where to put objects; by default they stay where they were.
        chunk: images generated at once; limits the memory.

    Raises:
        ArgumentError: the CGN lacks a class or is in training mode, or chunk is below 1.
        ArgumentTypeError: `cgn` has no mechanisms, or another argument has the wrong type.

    Examples:
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
        tied = self.interventions.is_tied
        return run_mechanisms(
            self.cgn, classes, generator, every, self.chunk, masks=masks, tied=tied
        )
