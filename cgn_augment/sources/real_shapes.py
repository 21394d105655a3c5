"""Counterfactuals with the shapes of the user's own images; the other factors are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from types import NoneType
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor

from cgn_augment.checks import require_channels, require_choice, require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import resize_images, standard_numbers
from cgn_augment.masks.cache import MaskCache, round_masks
from cgn_augment.masks.finding import (
    find_masks,
    identify_masker,
    read_masks,
    require_masker,
    require_masks,
)
from cgn_augment.masks.trust import GateCounter, MaskGate
from cgn_augment.sources.composing import compose_floats
from cgn_augment.sources.drawn import DrawnSource
from cgn_augment.sources.placement import Placement, require_placement
from cgn_augment.types import FACTORS, Affine, Counterfactuals, Masker, RealBatch, Step

Keep = Literal["texture", "background"]
Replace = Literal["resample", "generator"]

_SLACK = 0.02
"""How far interpolation and rounding may take images out of [-1, 1]."""

_MANY = 8
"""This many images without dark pixels are taken to be in [0, 1], not in [-1, 1]."""


class RealShapeSource:
    """Keeps the shapes of the step's real images, and draws textures and backgrounds.

    Computes x = m(x_real) f + (1 - m(x_real)) b. The label of the shape is the user's own, so a
    generator that draws wrong shapes does no harm. Each step takes images of its real batch in
    random order, each once before any comes again. The masker sees images after the user's
    pipeline, with its random transforms, so mask and image are aligned. They are first brought into
    [-1, 1] and to the generator's size.

    Args:
        masker: finds the objects: a `Masker` such as `load_masker(name)`, or the `u2net` of an
            `ImageNetCGN`. None if the dataset provides the masks.
        textures: draws textures and backgrounds: a `BankSource` or a `FreshSource`. Its
            interventions and the class map choose the classes. Its shapes are drawn only if
            `replace` needs them.
        masks: instead of a masker, the key or position of the masks in a batch: (B, 1, H, W) or (B,
            H, W); bool, uint8 of 0 to 255, or float in [0, 1]; any size in the images' aspect
            ratio. They have passed the user's own pipeline, so use a joint transform of image and
            mask (such as torchvision's v2 transforms of a `tv_tensors.Mask`) to keep the two
            aligned.
        num_per_shape: how many neighbouring counterfactuals share the shape of one image.
        keep: "texture" keeps the image inside the mask and draws only the background; "background"
            keeps the image outside the mask and draws only the texture.
        placement: where to put objects; by default they stay where they were.
        gate: which masks are used; None uses all.
        replace: substitute for an image whose mask is rejected: "resample" takes another image of
            the batch, "generator" a shape that the generator draws, with its label.
        mean: of the real images' normalisation, as in `match_real`; the default is for [-1, 1].
        std: likewise.
        cache_masks: keeps the mask of each item of a map-style dataset, for datasets without random
            transforms.
        cache_bytes: memory for that, one byte per pixel; masks beyond it are found again each time.
        chunk: images that the masker gets at once.

    Attributes:
        counts: number of real images for each verdict of the gate on their masks: usable, empty,
            full, unsure. Without a gate all are usable.
        needs_items: whether `sample` uses `RealBatch.items`.
        draws_apart: True: with `prefetch` on a CPU a thread runs the masker, which must then use no
            global random numbers.

    Raises:
        ArgumentError: a value cannot be used, or not exactly one of masker and masks is given.
        ArgumentTypeError: the masker cannot be called, or textures gives no factors.

    Examples:
        >>> import torch
        >>> from cgn_augment import BankSource, RealBatch, RealShapeSource
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.masks import UNetMasker
        >>> bank = BankSource(SmallCGN().freeze(), size=20)
        >>> source = RealShapeSource(UNetMasker().eval(), bank, gate=None)
        >>> y = torch.tensor([7, 2, 2, 1])
        >>> real = RealBatch(torch.rand(4, 3, 32, 32), y, y)
        >>> made = source.sample(4, torch.Generator().manual_seed(0), real=real)
        >>> torch.equal(made.shape, y[made.real])
        True
    """

    draws_apart = True

    def __init__(
        self,
        masker: Masker | None = None,
        textures: DrawnSource | None = None,
        *,
        masks: str | int | None = None,
        num_per_shape: int = 1,
        keep: Keep | None = None,
        placement: Placement | None = None,
        gate: MaskGate | None = MaskGate(),
        replace: Replace = "resample",
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        cache_masks: bool = False,
        cache_bytes: int = 2**30,
        chunk: int = 64,
    ) -> None:
        if (masker is None) == (masks is None):
            raise ArgumentError(
                "RealShapeSource takes either a masker, which finds the masks, or masks=, the key "
                f"or the position of masks in a batch; got {'neither' if masks is None else 'both'}"
            )
        if not isinstance(masks, (str, int, NoneType)):
            raise ArgumentTypeError(
                f"masks must be the key or the position of masks in a batch, got {masks!r}"
            )
        if not isinstance(textures, DrawnSource):
            raise ArgumentTypeError(
                "textures must be a BankSource or a FreshSource, which give foregrounds and "
                f"backgrounds, got {type(textures).__name__}"
            )
        if keep is not None:
            require_choice("keep", keep, get_args(Keep))
        if textures.placement is not None:
            raise ArgumentError(
                "the textures have a placement of their own, and the objects here are those of the "
                "real images: pass it to RealShapeSource(placement=…)"
            )
        if textures.interventions.is_tied and keep != "texture":
            raise ArgumentError(
                "Interventions(texture='shape') leaves the texture to the object, which here is in "
                "the real image: pass RealShapeSource(keep='texture'), or the textures' source "
                "other interventions"
            )
        self.placement = require_placement(placement)
        if placement is not None and keep == "background":
            raise ArgumentError(
                "with keep='background' the object is seen where it was, wherever it is put: leave "
                "placement out, or draw the background too"
            )
        require_choice("replace", replace, get_args(Replace))
        self.masker = None if masker is None else require_masker(masker)
        self.textures, self.masks, self.keep, self.replace = textures, masks, keep, replace
        self.num_per_shape = require_count("num_per_shape", num_per_shape)
        self.mean, self.std = require_channels("mean", mean), require_channels("std", std)
        if not (self.std > 0).all():
            raise ArgumentError(f"std must be above 0, got {std}")
        self.cache_masks = self.needs_items = cache_masks
        self.cache_bytes = require_count("cache_bytes", cache_bytes)
        self.chunk = require_count("chunk", chunk)
        self.device = textures.device
        self.image_size, self.num_classes = textures.image_size, textures.num_classes
        self._cache = MaskCache(cache_bytes, self.device) if cache_masks else None
        self.gate, self._counter = gate, GateCounter(gate)
        self._checked = False

    @property
    def counts(self) -> dict[str, int]:
        """Number of real images for each verdict of the gate on their masks."""
        return self._counter.counts

    @cached_property
    def _masker_key(self) -> str:
        return f"masks={self.masks!r}" if self.masker is None else identify_masker(self.masker)

    @property
    def fingerprint(self) -> str:
        """Equal for sources that draw identical images."""
        return (
            f"real_shapes({self._masker_key}, {self.textures.fingerprint}, "
            f"num_per_shape={self.num_per_shape}, keep={self.keep}, {self.gate}, "
            f"replace={self.replace}, mean={self.mean.tolist()}, std={self.std.tolist()}"
            f"{'' if self.placement is None else f', {self.placement}'})"
        )

    def restrict(self, class_map: ClassMap) -> RealShapeSource:
        """Returns a source whose textures and backgrounds have only classes of `class_map`.

        Args:
            class_map: the classes to keep to.
        """
        return self.with_options(textures=self.textures.restrict(class_map))

    def with_options(self, **options: Any) -> RealShapeSource:
        """Returns a copy of the source with some arguments replaced.

        Args:
            options: new values of the arguments, by name.
        """
        names = (
            "masker textures masks num_per_shape keep placement gate replace cache_masks "
            "cache_bytes chunk"
        )
        same = {name: getattr(self, name) for name in names.split()}
        scale = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return RealShapeSource(**{**same, **scale, **options})

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
        """Draws `num` counterfactuals with shapes of the images in `real`; see `Source.sample`.

        Args:
            num: number of images.
            generator: a CPU generator.
            step: the step they are for.
            real: the step's real batch.
            out: memory for the images, (num, 3, H, W) on the generator's device, of any floating
                type and memory format.
            affine: how to map the values of the images; by default not at all.

        Returns:
            Images (num, 3, H, W), float32 in [-1, 1] by default, at the generator's size, and
            labels, both on its device. The field `real` gives the image that each shape comes from.

        Raises:
            ArgumentError: there is no real batch.
            DataError: its images are out of the range that mean and std imply, or none has a usable
                mask.
        """
        if real is None or len(real.images) == 0:
            raise ArgumentError(
                "RealShapeSource takes shapes from the real batch, and none was given: use it in a "
                "CounterfactualDataset, or pass real="
            )
        looks = self.masks is None or self.keep is not None or not self._checked
        images = self.bring(real.images) if looks else real.images  # else only their masks are used
        found = self.masks_of(images, real)
        chosen = self._choose(found, num, generator)
        is_real, at = chosen >= 0, chosen.clamp(min=0)
        own_classes = real.classes.cpu()[at]
        shapes = torch.where(is_real, own_classes, -1)
        if self.keep is None and self.placement is None and bool(is_real.all()):
            made, mask, drawn = self.textures.sample_with(
                (found, at), generator, step, real, shapes=shapes, out=out, affine=affine
            )
        else:
            parts, drawn = self.textures.sample_factors(
                num, generator, step, real, masks=not bool(is_real.all()), shapes=shapes
            )
            wide, here = is_real.to(self.device)[:, None, None, None], at.to(self.device)
            foreground, background = parts[-2:]
            mask = torch.where(wide, found[here], parts[0]) if len(parts) == 3 else found[here]
            if self.keep == "texture":
                foreground = torch.where(wide, images[here], foreground)
            elif self.keep == "background":
                background = torch.where(wide, images[here], background)
            if self.placement is not None:
                moves = self.placement.draw(num, generator, self.num_per_shape)
                mask, foreground = self.placement.move(mask, foreground, moves)
            made = compose_floats(mask, foreground, background, out, affine)
        own = torch.tensor([factor in ("shape", self.keep) for factor in FACTORS])[:, None]
        classes = torch.where(own & is_real, own_classes, drawn.cpu())
        shape, texture, behind = classes.to(made.device)
        return Counterfactuals(made, shape, texture, behind, chosen.to(made.device), mask)

    def bring(self, images: Tensor) -> Tensor:
        """Brings real images into [-1, 1] and to the generator's size.

        Args:
            images: (B, 3, H, W) float, normalised by `mean` and `std`.

        Returns:
            (B, 3, image_size, image_size) float32 on the generator's device.

        Raises:
            DataError: the images are out of that range.
        """
        images = images.to(self.device, torch.float32)
        scale, shift = 2 * self.std.to(self.device), 2 * self.mean.to(self.device) - 1
        images = self._resize(images * scale[:, None, None] + shift[:, None, None])
        if not self._checked:
            least, most = float(images.min()), float(images.max())
            if not -1 - _SLACK <= least <= most <= 1 + _SLACK:  # also for NaN
                raise DataError(
                    f"real images span [{least:.3g}, {most:.3g}] where [-1, 1] was expected: pass "
                    "RealShapeSource the mean and std of your Normalize (0 and 1 for plain "
                    "ToTensor)"
                )
            if len(images) >= _MANY and least >= -_SLACK:
                raise DataError(
                    f"all of {len(images)} real images span [{least:.3g}, {most:.3g}], as images "
                    "in [0, 1] do, where [-1, 1] was expected: pass RealShapeSource the mean and "
                    "std of your Normalize (0 and 1 for plain ToTensor)"
                )
        return images

    def masks_of(self, images: Tensor, real: RealBatch) -> Tensor:
        """Returns the masks of images that `bring` has returned, rounded to 255 levels.

        Args:
            images: (B, 3, H, W) float32 in [-1, 1].
            real: the real batch they come from.

        Returns:
            (B, 1, H, W) float32 in [0, 1].

        Raises:
            ArgumentError: `cache_masks` is on, but the items of the batch are unknown.
            DataError: the masker gave masks of another shape or range.
        """
        if self.masks is not None:
            # Checked before resizing, which may leave [0, 1] by a rounding error.
            given = read_masks(real.batch, self.masks, real.images, look=not self._checked)
            found = round_masks(self._resize(given.to(self.device)))
        elif self._cache is None:
            found = self._run(images)
        elif real.items is None:
            raise ArgumentError(
                "cache_masks needs to know which items of the dataset a batch holds: pass "
                "CounterfactualDataset the map-style dataset itself with batch_size, or leave "
                "cache_masks out"
            )
        else:
            found = self._cache.masks_of(images, real.items, self._run_whole)
        self._checked = True
        return found

    def _run(self, images: Tensor) -> Tensor:
        masks = find_masks(self.masker, images, self.chunk)  # type: ignore[arg-type]
        expected = (len(images), 1, *images.shape[-2:])
        return round_masks(require_masks(masks, expected, look=not self._checked))

    def _run_whole(self, images: Tensor) -> Tensor:
        """Gives the masker full chunks, so that a mask does not depend on the others."""
        num = len(images)
        padded = torch.cat([images, images.new_zeros(-num % self.chunk, *images.shape[1:])])
        return self._run(padded)[:num]

    def _resize(self, images: Tensor) -> Tensor:
        return resize_images(images, (self.image_size, self.image_size))

    def _choose(self, masks: Tensor, num: int, generator: Generator) -> Tensor:
        """Returns for each counterfactual the image that gives its shape; -1 if it is drawn."""
        usable = self._counter.usable(masks)
        places = torch.arange(len(masks))
        if self.replace == "resample":
            places = places[usable]
            if len(places) == 0:
                raise DataError(
                    f"none of the {len(masks)} real images of a step has a usable mask "
                    f"({self.counts} so far): look at the masks, pass another gate=MaskGate(…), or "
                    "replace='generator'"
                )
        shapes = math.ceil(num / self.num_per_shape)
        num_rounds = math.ceil(shapes / len(places))
        rounds = [torch.randperm(len(places), generator=generator) for _ in range(num_rounds)]
        chosen = places[torch.cat([*rounds, places[:0]])[:shapes]]
        chosen = torch.where(usable[chosen], chosen, -1)
        return chosen.repeat_interleave(self.num_per_shape)[:num]
