"""Counterfactuals of the user's own images: the shape that the camera saw, everything else drawn.

x = m(x_real) f + (1 - m(x_real)) b. The label of the shape is the user's own, so a generator that
draws wrong shapes costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.checks import require_channels
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import compose
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.masks.cache import MaskCache, round_masks
from cgn_augment.masks.checks import require_masker, require_shape, require_unit_range
from cgn_augment.masks.given import GivenMasks
from cgn_augment.masks.trust import (
    GateCounter,
    MaskGate,
    UnseenWarning,
    redraw_unseen,
    require_contrast,
)
from cgn_augment.types import (
    Counterfactuals,
    Factors,
    FactorSource,
    Masker,
    RealBatch,
    RestrictableSource,
    SteppedSource,
)

Keep = Literal["texture", "background"]
Replace = Literal["resample", "generator"]

_SLACK = 0.02
"""By which images may leave [-1, 1]: interpolation and rounding."""


class RealShapeSource:
    """Keeps the shapes of the step's real images, and draws textures and backgrounds.

    Each step takes images of its real batch in random order, each once before one comes again. The
    images are seen as the user's pipeline made them, with its random transforms, so that mask and
    image are aligned; they are brought into [-1, 1] and to the generator's size first.

    Args:
        masker: finds the objects: a `Masker` such as `load_masker(name)`, the `u2net` of an
            `ImageNetCGN`, or `GivenMasks(key)` for masks that the dataset brings along.
        textures: draws textures and backgrounds: a `BankSource` or a `FreshSource`. Its
            interventions and the class map say of which classes.
        num_per_shape: so many neighbouring counterfactuals have the shape of one image.
        keep: "texture" keeps the image inside the mask and draws the background alone;
            "background" keeps the image outside it and draws the texture alone.
        gate: which masks are used; None uses all.
        replace: what stands in for an image whose mask is left out: "resample" takes another image
            of the batch, "generator" a shape that the generator draws, with its label.
        min_contrast: what is drawn is drawn again where `edge_contrast` is below it.
        mean: of the real images' normalisation, as in `match_real`; the default is of [-1, 1].
        std: likewise.
        cache_masks: keeps the mask of each item of a map-style dataset, for datasets without random
            transforms.
        cache_bytes: memory for that, a byte a pixel; later masks are found anew each time.
        chunk: images that the masker sees at once.

    Attributes:
        counts: real images whose masks were judged, by verdict: usable, empty, full, unsure.

    Raises:
        ArgumentError: a value that cannot be used.
        ArgumentTypeError: a masker that cannot be called, or textures that give no factors.

    Example:
        >>> import torch
        >>> from cgn_augment import BankSource, RealBatch, RealShapeSource, SmallCGN
        >>> from cgn_augment.masks import UNetMasker
        >>> bank = BankSource(SmallCGN().freeze(), size=20)
        >>> source = RealShapeSource(UNetMasker().eval(), bank, gate=None)
        >>> y = torch.tensor([7, 2, 2, 1])
        >>> real = RealBatch(torch.rand(4, 3, 32, 32), y, y)
        >>> made = source.sample(4, torch.Generator().manual_seed(0), real)
        >>> torch.equal(made.shape, y[made.real])
        True
    """

    def __init__(
        self,
        masker: Masker,
        textures: FactorSource,
        *,
        num_per_shape: int = 1,
        keep: Keep | None = None,
        gate: MaskGate | None = MaskGate(),  # noqa: B008 - frozen
        replace: Replace = "resample",
        min_contrast: float = 0.0,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        cache_masks: bool = False,
        cache_bytes: int = 2**30,
        chunk: int = 64,
    ) -> None:
        self.masker, self.textures = require_masker(masker), _require_textures(textures)
        for name, value, choices in (
            ("keep", keep, (None, "texture", "background")),
            ("replace", replace, ("resample", "generator")),
        ):
            if value not in choices:
                listed = ", ".join(map(str, choices))
                raise ArgumentError(f"{name} must be one of {listed}, got {value!r}")
        for name, number in (
            ("num_per_shape", num_per_shape),
            ("chunk", chunk),
            ("cache_bytes", cache_bytes),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ArgumentError(f"{name} must be an integer of 1 or more, got {number!r}")
        if gate is not None and not isinstance(gate, MaskGate):
            raise ArgumentTypeError(f"gate must be MaskGate(…) or None, got {gate!r}")
        self.num_per_shape, self.keep, self.gate, self.replace = num_per_shape, keep, gate, replace
        self.min_contrast, self._unseen = require_contrast(min_contrast), UnseenWarning()
        self.mean, self.std = require_channels("mean", mean), require_channels("std", std)
        if not (self.std > 0).all():
            raise ArgumentError(f"std must be above 0, got {std}")
        self.cache_masks, self.cache_bytes, self.chunk = cache_masks, cache_bytes, chunk
        self._scales = not torch.equal(torch.stack([self.mean, self.std]), torch.full((2, 3), 0.5))
        self.device: torch.device = getattr(textures, "device", torch.device("cpu"))
        self.image_size: int = textures.image_size  # type: ignore[attr-defined]
        self.num_classes: int = textures.num_classes  # type: ignore[attr-defined]
        self._cache = MaskCache(cache_bytes, self.device) if cache_masks else None
        self._counter = GateCounter()
        self._rank, self._next_step, self._checked = 0, 0, False

    @property
    def counts(self) -> dict[str, int]:
        """Real images whose masks were judged, by verdict; zeros without a gate."""
        return self._counter.counts

    @property
    def needs_items(self) -> bool:
        """Whether `sample` looks at `RealBatch.items`."""
        return self.cache_masks

    @cached_property
    def _masker_key(self) -> str:
        if hasattr(self.masker, "fingerprint"):
            return str(self.masker.fingerprint)
        name = type(self.masker).__name__
        # Behind the name, for some networks have no weights.
        return (
            f"{name}({hash_weights(self.masker)})" if isinstance(self.masker, nn.Module) else name
        )

    @property
    def fingerprint(self) -> str:
        """Says of two sources whether they draw the same."""
        masker = self._masker_key
        textures = getattr(self.textures, "fingerprint", type(self.textures).__name__)
        return (
            f"real_shapes({masker}, {textures}, num_per_shape={self.num_per_shape}, "
            f"keep={self.keep}, {self.gate}, replace={self.replace}, "
            f"min_contrast={self.min_contrast:g}, mean={self.mean.tolist()}, "
            f"std={self.std.tolist()})"
        )

    def restrict(self, class_map: ClassMap) -> RealShapeSource:
        """Returns a source whose textures and backgrounds are of the classes of `class_map`."""
        textures = self.textures
        if isinstance(textures, RestrictableSource):
            textures = textures.restrict(class_map)  # type: ignore[assignment]
        return self.with_options(textures=textures)

    def with_options(self, **options: Any) -> RealShapeSource:
        """Returns a source with other values of some of the arguments."""
        names = ("masker", "textures", "num_per_shape", "keep", "gate", "replace", "min_contrast")
        same = {name: getattr(self, name) for name in (*names, "cache_masks", "cache_bytes")}
        scale = {"mean": self.mean.tolist(), "std": self.std.tolist(), "chunk": self.chunk}
        return RealShapeSource(**{**same, **scale, **options})

    def seek(self, step: int, rank: int = 0) -> None:
        """Brings the textures to where they are at `step` of `rank`."""
        self._next_step, self._rank = step, rank

    @torch.no_grad()
    def sample(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals of the images of `real`; see `Source.sample`.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] at the generator's size, on its device; labels
            there too. `real` says which image the shape is of.

        Raises:
            ArgumentError: there is no real batch.
            DataError: its images are not in the range that mean and std say, or have no usable
                mask.
        """
        if real is None or len(real.images) == 0:
            raise ArgumentError(
                "RealShapeSource takes shapes from the real batch, and none was given: use it in a "
                "CounterfactualDataset, or pass real="
            )
        step, self._next_step = self._next_step, self._next_step + 1
        images = self.bring(real.images)
        masks = self.masks_of(images, real)
        chosen = self._choose(masks, num, generator)

        def draw(places: Tensor) -> tuple[Factors, Tensor]:
            if isinstance(self.textures, SteppedSource):
                self.textures.seek(step, self._rank)  # every drawing moves it on
            drawn, classes = self.textures.sample_factors(len(places), generator, real)
            return self._put_in(drawn, classes, images, masks, real, chosen[places.cpu()])

        factors, classes = draw(torch.arange(num))
        left = redraw_unseen(factors, classes, self.min_contrast, draw)
        self._unseen.add(left, self.min_contrast)
        made = compose(factors.mask, factors.foreground, factors.background)
        shape, texture, background = classes.to(made.device)
        return Counterfactuals(made, shape, texture, background, chosen.to(made.device))

    def bring(self, images: Tensor) -> Tensor:
        """Brings real images into [-1, 1] and to the generator's size.

        Args:
            images: (B, 3, H, W) float, normalised by `mean` and `std`.

        Returns:
            (B, 3, image_size, image_size) float32 on the generator's device.

        Raises:
            DataError: they are not in that range.
        """
        images = images.to(self.device, torch.float32)
        if self._scales:
            scale, shift = 2 * self.std.to(self.device), 2 * self.mean.to(self.device) - 1
            images = images * scale[:, None, None] + shift[:, None, None]
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        if not self._checked:
            least, most = float(images.min()), float(images.max())
            if not -1 - _SLACK <= least <= most <= 1 + _SLACK:  # also for NaN
                raise DataError(
                    f"real images span [{least:.3g}, {most:.3g}] where [-1, 1] was expected: pass "
                    "RealShapeSource the mean and std of your Normalize (0 and 1 for plain "
                    "ToTensor)"
                )
        return images

    def masks_of(self, images: Tensor, real: RealBatch) -> Tensor:
        """Returns the masks of images that were brought, (B, 1, H, W) float32 in [0, 1].

        Masks are rounded to 255 levels.

        Raises:
            ArgumentError: `cache_masks` without an index.
            DataError: the masker gave masks of another shape or range.
        """
        if isinstance(self.masker, GivenMasks):
            masks = self.masker.of_batch(real).to(self.device)
            if masks.shape[-2:] != images.shape[-2:]:
                masks = F.interpolate(masks, images.shape[-2:], mode="bilinear", antialias=True)
            masks = self._check(masks, len(images))
        elif self._cache is None:
            masks = self._run(images)
        elif real.items is None:
            raise ArgumentError(
                "cache_masks needs to know which items of the dataset a batch holds: pass "
                "CounterfactualDataset the map-style dataset itself with batch_size, or leave "
                "cache_masks out"
            )
        else:
            masks = self._cache.masks_of(images, real.items, self._run_whole)
        self._checked = True
        return masks

    def _run(self, images: Tensor) -> Tensor:
        masks = torch.cat([self.masker(part) for part in torch.split(images, self.chunk)])
        return self._check(masks, len(images))

    def _run_whole(self, images: Tensor) -> Tensor:
        """Gives the masker full chunks, so that a mask does not depend on what else is missing."""
        num = len(images)
        padded = torch.cat([images, images.new_zeros(-num % self.chunk, *images.shape[1:])])
        return self._run(padded)[:num]

    def _check(self, masks: Tensor, num: int) -> Tensor:
        require_shape(masks, num, self.image_size)
        if not self._checked:
            require_unit_range(masks)
        return round_masks(masks.float())

    def _choose(self, masks: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Returns for each counterfactual the image whose shape it has, -1 for a drawn one."""
        usable = torch.ones(len(masks), dtype=torch.bool)
        if self.gate is not None:
            verdicts = self.gate.judge(masks).cpu()
            self._counter.add(verdicts)
            usable = verdicts == 0
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
        rounds = [
            torch.randperm(len(places), generator=generator) for _ in range(0, shapes, len(places))
        ]
        chosen = places[torch.cat([*rounds, torch.empty(0, dtype=torch.int64)])[:shapes]]
        chosen = torch.where(usable[chosen], chosen, -1)
        return chosen.repeat_interleave(self.num_per_shape)[:num]

    def _put_in(
        self,
        drawn: Factors,
        classes: Tensor,
        images: Tensor,
        masks: Tensor,
        real: RealBatch,
        chosen: Tensor,
    ) -> tuple[Factors, Tensor]:
        """Puts masks, classes and what is kept of the chosen images in the place of drawn ones."""
        is_real, at = (chosen >= 0).to(self.device), chosen.clamp(min=0).to(self.device)
        wide = is_real[:, None, None, None]
        mask = torch.where(wide, masks[at], drawn.mask)
        foreground, background = drawn.foreground, drawn.background
        own = real.classes.to(classes.device)[chosen.clamp(min=0)]
        rows = [0]
        if self.keep == "texture":
            foreground, rows = torch.where(wide, images[at], foreground), [0, 1]
        elif self.keep == "background":
            background, rows = torch.where(wide, images[at], background), [0, 2]
        classes = classes.clone()
        classes[rows] = torch.where(chosen >= 0, own, classes[rows])
        return Factors(mask, foreground, background), classes


def _require_textures(textures: FactorSource) -> FactorSource:
    if not isinstance(textures, FactorSource):
        raise ArgumentTypeError(
            "textures must be a BankSource or a FreshSource, which give foregrounds and "
            f"backgrounds, got {type(textures).__name__}"
        )
    return textures
