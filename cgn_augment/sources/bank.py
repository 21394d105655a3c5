"""Where counterfactuals come from: drawn fresh for every image, or recombined from a bank.

A bank is what makes counterfactuals cheap enough for every step: N masks, N foregrounds and N
backgrounds recombine to N³ images, and composing them costs next to nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from cgn_augment.checks import require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.interventions import Interventions
from cgn_augment.masks.trust import UnseenWarning, redraw_unseen, require_contrast
from cgn_augment.types import FACTORS, Counterfactuals, Factors, Mechanisms, RealBatch

StorageName = Literal["float32", "float16", "uint8"]

_BLOCK = 100
"""Places of a bank that are filled with noise from one generator."""


class FreshSource:
    """Runs the three mechanisms for every image.

    Args:
        cgn: a frozen CGN.
        interventions: how the classes are drawn; uniformly by default.
        chunk: images generated at once; bounds the memory.
        min_contrast: texture and background are drawn again where `edge_contrast` is below it; 0
            takes every pair.

    Raises:
        ArgumentError: a class that the CGN lacks, a chunk below 1, a contrast outside [0, 2).
        ArgumentTypeError: `cgn` has no mechanisms, or another argument is of another kind.

    Example:
        >>> import torch
        >>> from cgn_augment import FreshSource, SmallCGN
        >>> source = FreshSource(SmallCGN().freeze())
        >>> source.sample(4, torch.Generator().manual_seed(0)).images.shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        cgn: Mechanisms,
        interventions: Interventions | None = None,
        *,
        chunk: int = 64,
        min_contrast: float = 0.0,
    ) -> None:
        self.cgn = _require_mechanisms(cgn)
        self.interventions = _require_interventions(interventions)
        self.chunk = require_count("chunk", chunk, 1)
        self.min_contrast, self._unseen = require_contrast(min_contrast), UnseenWarning()
        self.image_size, self.num_classes = cgn.image_size, cgn.num_classes
        for factor in FACTORS:
            self.interventions.choices(factor, self.num_classes)

    @property
    def device(self) -> torch.device:
        """Where the images are made."""
        return self.cgn.device

    @property
    def fingerprint(self) -> str:
        """Says of two sources whether they draw the same."""
        contrast = _contrast_key(self.min_contrast)
        return f"fresh({self.cgn.fingerprint}, {self.interventions}{contrast})"

    def restrict(self, class_map: ClassMap) -> FreshSource:
        """Returns a source that draws only the classes of `class_map`."""
        return FreshSource(
            self.cgn,
            self.interventions.restrict(class_map),
            chunk=self.chunk,
            min_contrast=self.min_contrast,
        )

    @torch.no_grad()
    def sample(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals; see `Source.sample`.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] on the CGN's device; labels there too.
        """
        return _compose_all(*self.sample_factors(num, generator, real))

    @torch.no_grad()
    def sample_factors(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> tuple[Factors, Tensor]:
        """Draws what the images of `sample` are composed of; see `FactorSource`."""

        def draw(num: int) -> tuple[Factors, Tensor]:
            classes = self.interventions.draw(
                num, self.num_classes, generator, None if real is None else real.classes
            )
            every = self.interventions.num_per_shape
            return draw_factors(self.cgn, classes, generator, every, self.chunk), classes

        factors, classes = draw(num)
        left = redraw_unseen(factors, classes, self.min_contrast, lambda places: draw(len(places)))
        self._unseen.add(left, self.min_contrast)
        return factors, classes


def draw_factors(
    cgn: Mechanisms, classes: Tensor, generator: torch.Generator, num_per_shape: int, chunk: int
) -> Factors:
    """Runs each mechanism once for each image (shapes: once for each group of `num_per_shape`).

    Args:
        cgn: a frozen CGN.
        classes: (3, N) int64 classes of shape, texture and background.
        generator: a CPU generator, for the noise and for the shuffling of textures.
        num_per_shape: this many neighbours have the same class of shape, and get the same mask.
        chunk: images that a mechanism makes at once.
    """
    num = classes.shape[1]
    shape, texture, background = classes.to(cgn.device, non_blocking=True)
    shape = shape[::num_per_shape]
    shape_noise = cgn.draw_noise(len(shape), generator)
    if cgn.shared_noise:
        texture_noise = background_noise = shape_noise.repeat_interleave(num_per_shape, 0)[:num]
    else:
        texture_noise = cgn.draw_noise(num, generator)
        background_noise = cgn.draw_noise(num, generator)
    foreground = _run(cgn.texture, texture_noise, texture, chunk)
    behind = _run(cgn.background, background_noise, background, chunk)
    mask = _run(cgn.shape, shape_noise, shape, chunk)
    return Factors(
        mask.repeat_interleave(num_per_shape, 0)[:num],
        cgn.shuffle(foreground, generator),
        cgn.shuffle(behind, generator),
    )


class BankSource:
    """Keeps masks, foregrounds and backgrounds, and recombines them at random.

    Every factor of the bank belongs to a fixed class, the classes taking turns, so that a class is
    found without a search and each is equally frequent. With `refresh`, each step replaces the
    oldest factors. The contents are a function of (seed, rank, step) alone: a resumed run rebuilds
    them. The bank is filled when it is first drawn from.

    Args:
        cgn: a frozen CGN.
        size: masks, foregrounds and backgrounds kept, each.
        refresh: of each, how many are replaced per step; 0 keeps the bank as it was filled.
        interventions: how the classes are drawn; uniformly by default.
        seed: of the contents.
        storage: how factors are kept: "float32" (exact; 28 bytes a pixel), "float16" (14) or
            "uint8" (7; exact to half a grey level).
        chunk: factors generated at once; bounds the memory while filling.
        min_contrast: texture and background are drawn again where `edge_contrast` is below it; 0
            takes every pair.

    Raises:
        ArgumentError: a bank too small for its classes, a negative refresh or one larger than the
            bank, a class that the CGN lacks, an unknown storage, a contrast outside [0, 2).
        ArgumentTypeError: `cgn` has no mechanisms, or another argument is of another kind.

    Example:
        >>> import torch
        >>> from cgn_augment import BankSource, SmallCGN
        >>> source = BankSource(SmallCGN().freeze(), size=20, refresh=2)
        >>> source.sample(64, torch.Generator().manual_seed(0)).images.shape
        torch.Size([64, 3, 32, 32])
    """

    def __init__(
        self,
        cgn: Mechanisms,
        size: int = 2000,
        refresh: int = 0,
        interventions: Interventions | None = None,
        *,
        seed: int = 0,
        storage: StorageName = "float32",
        chunk: int = 100,
        min_contrast: float = 0.0,
    ) -> None:
        self.cgn = _require_mechanisms(cgn)
        self.size = require_count("size", size, 1)
        self.refresh = require_count("refresh", refresh, 0)
        self.seed = require_count("seed", seed, 0)
        self.chunk = require_count("chunk", chunk, 1)
        self.min_contrast, self._unseen = require_contrast(min_contrast), UnseenWarning()
        self.interventions = _require_interventions(interventions)
        self.image_size, self.num_classes = cgn.image_size, cgn.num_classes
        if refresh > size:
            raise ArgumentError(f"refresh ({refresh}) must not be larger than size ({size})")
        if storage not in ("float32", "float16", "uint8"):
            raise ArgumentError(f"storage must be float32, float16 or uint8, got {storage!r}")
        self.storage = storage
        self._turns = [_Turns(self._classes(factor), size, factor) for factor in FACTORS]
        self._bank: Factors | None = None
        self._rank, self._step, self._next_step = 0, 0, 0

    @property
    def device(self) -> torch.device:
        """Where the bank is kept and the images are made."""
        return self.cgn.device

    @property
    def fingerprint(self) -> str:
        """Says of two sources whether they draw the same."""
        return (
            f"bank({self.cgn.fingerprint}, size={self.size}, refresh={self.refresh}, "
            f"seed={self.seed}, storage={self.storage}, {self.interventions}"
            f"{_contrast_key(self.min_contrast)})"
        )

    @property
    def num_bytes(self) -> int:
        """Memory that the filled bank takes, in bytes."""
        return self.size * self.image_size**2 * 7 * _dtype(self.storage).itemsize

    def restrict(self, class_map: ClassMap) -> BankSource:
        """Returns a bank, yet to be filled, that draws only the classes of `class_map`."""
        return BankSource(
            self.cgn,
            self.size,
            self.refresh,
            self.interventions.restrict(class_map),
            seed=self.seed,
            storage=self.storage,
            chunk=self.chunk,
            min_contrast=self.min_contrast,
        )

    def seek(self, step: int, rank: int = 0) -> None:
        """Brings the contents to where they are at `step` of `rank`.

        One step forward costs `refresh` images; any other way costs at most a new filling.
        """
        self._next_step = step
        if self._bank is not None and rank == self._rank:
            ahead = step - self._step
            if ahead == 0 or self.refresh == 0:
                self._step = step
                return
            if 0 < ahead * self.refresh < self.size:
                for later in range(self._step + 1, step + 1):
                    self._refresh(self._bank, later)
                self._step = step
                return
        # The old bank goes first: there are never two in memory, nor a stale one if filling fails.
        self._bank = None
        self._rank, self._step = rank, step
        self._bank = self._fill(step)

    @torch.no_grad()
    def sample(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals and moves on by one step; see `Source.sample`.

        Returns:
            Images (num, 3, H, W) float32 in [-1, 1] on the CGN's device; labels there too.
        """
        return _compose_all(*self.sample_factors(num, generator, real))

    @torch.no_grad()
    def sample_factors(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> tuple[Factors, Tensor]:
        """Draws what the images of `sample` are composed of, and moves on by one step too."""
        self.seek(self._next_step, self._rank)
        self._next_step += 1

        def draw(num: int) -> tuple[Factors, Tensor]:
            classes = self.interventions.draw(
                num, self.num_classes, generator, None if real is None else real.classes
            )
            return self._recombine(classes, generator), classes

        factors, classes = draw(num)
        left = redraw_unseen(factors, classes, self.min_contrast, lambda places: draw(len(places)))
        self._unseen.add(left, self.min_contrast)
        return factors, classes

    def _recombine(self, classes: Tensor, generator: torch.Generator) -> Factors:
        slots = self._draw_slots(classes, generator).to(self.device, non_blocking=True)
        bank = self._bank
        if bank is None:  # pragma: no cover - seek has just filled it
            raise RuntimeError("the bank is empty")
        return Factors(
            _unpack(bank.mask.index_select(0, slots[0]), 0.0),
            _unpack(bank.foreground.index_select(0, slots[1]), -1.0),
            _unpack(bank.background.index_select(0, slots[2]), -1.0),
        )

    def _classes(self, factor: str) -> tuple[int, ...]:
        return self.interventions.classes(factor, self.num_classes)

    def _draw_slots(self, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Returns for (3, N) classes a random place (3, N) of that class in the bank."""
        place = torch.rand(drawn.shape, generator=generator, dtype=torch.float64)
        every = self.interventions.num_per_shape
        place[0] = place[0, ::every].repeat_interleave(every)[: drawn.shape[1]]
        slots = [turns.slots(drawn[i], place[i]) for i, turns in enumerate(self._turns)]
        return torch.stack(slots)

    @torch.no_grad()
    def _fill(self, step: int) -> Factors:
        """Builds the contents at `step`: the first filling, less what was replaced since."""
        size, dtype = self.image_size, _dtype(self.storage)
        bank = Factors(
            torch.empty(self.size, 1, size, size, dtype=dtype, device=self.device),
            torch.empty(self.size, 3, size, size, dtype=dtype, device=self.device),
            torch.empty(self.size, 3, size, size, dtype=dtype, device=self.device),
        )
        starts = range(0, self.size, _BLOCK)
        # A bar for the eyes of a person only, and only where filling takes a while.
        with tqdm(total=self.size, desc="filling the bank", delay=2, disable=None) as bar:
            for start in starts:
                slots = torch.arange(start, min(start + _BLOCK, self.size))
                if slots[-1] >= step * self.refresh:  # else all of these are replaced below
                    self._generate(bank, slots, self._generator(Purpose.BANK_FILL, start))
                bar.update(len(slots))
        if self.refresh:
            # Only the last time round the bank is still there.
            rounds = -(-self.size // self.refresh)
            for earlier in range(max(1, step - rounds + 1), step + 1):
                self._refresh(bank, earlier)
        return bank

    def _refresh(self, bank: Factors, step: int) -> None:
        first = (step - 1) * self.refresh
        slots = torch.arange(first, first + self.refresh) % self.size
        self._generate(bank, slots, self._generator(Purpose.BANK_REFRESH, step))

    def _generator(self, purpose: Purpose, key: int) -> torch.Generator:
        return step_generator(purpose, self.seed, self._rank, key)

    @torch.no_grad()
    def _generate(self, bank: Factors, slots: Tensor, generator: torch.Generator) -> None:
        classes = torch.stack([turns.class_of(slots) for turns in self._turns])
        factors = draw_factors(self.cgn, classes, generator, 1, self.chunk)
        bank.mask[slots] = _pack(factors.mask, 0.0, bank.mask.dtype)
        bank.foreground[slots] = _pack(factors.foreground, -1.0, bank.mask.dtype)
        bank.background[slots] = _pack(factors.background, -1.0, bank.mask.dtype)


class _Turns:
    """The classes of one factor taking turns over the places of a bank."""

    def __init__(self, classes: tuple[int, ...], size: int, factor: str) -> None:
        if size < len(classes):
            raise ArgumentError(
                f"a bank of size {size} cannot hold each of the {len(classes)} classes of "
                f"{factor}: make size at least {len(classes)}, or list fewer classes"
            )
        self.classes = torch.tensor(classes)
        self._turn = torch.full((int(self.classes.max()) + 1,), -1)
        self._turn[self.classes] = torch.arange(len(classes))
        self._count = torch.div(
            size - torch.arange(len(classes)) + len(classes) - 1,
            len(classes),
            rounding_mode="floor",
        )

    def class_of(self, slots: Tensor) -> Tensor:
        return self.classes[slots % len(self.classes)]

    def slots(self, y: Tensor, place: Tensor) -> Tensor:
        """Returns the place of class `y` that the number `place` in [0, 1) points to."""
        turn = self._turn[y]
        return turn + len(self.classes) * (place * self._count[turn]).long()


def _compose_all(factors: Factors, classes: Tensor) -> Counterfactuals:
    """Composes factors that nobody needs any more."""
    images = compose(factors.mask, factors.foreground, factors.background, out=factors.background)
    return Counterfactuals(images, *classes.to(images.device, non_blocking=True))


def _contrast_key(min_contrast: float) -> str:
    """What a fingerprint says of it; nothing where it is off."""
    return f", min_contrast={min_contrast:g}" if min_contrast else ""


def _dtype(storage: StorageName) -> torch.dtype:
    return {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}[storage]


def _pack(values: Tensor, low: float, dtype: torch.dtype) -> Tensor:
    """Turns values in [low, 1] into the storage type."""
    if dtype is torch.uint8:
        return ((values - low) * (255 / (1 - low))).round_().to(dtype)
    return values.to(dtype)


def _unpack(values: Tensor, low: float) -> Tensor:
    """Turns stored values into float32 in [low, 1]."""
    if values.dtype is torch.uint8:
        return values.float().mul_((1 - low) / 255).add_(low)
    return values.float()


def _run(mechanism: object, noise: Tensor, y: Tensor, chunk: int) -> Tensor:
    parts = zip(torch.split(noise, chunk), torch.split(y, chunk), strict=True)
    return torch.cat([mechanism(u, classes) for u, classes in parts])  # type: ignore[operator]


def _require_mechanisms(cgn: Mechanisms) -> Mechanisms:
    if not isinstance(cgn, Mechanisms):
        raise ArgumentTypeError(
            f"a source needs a CGN (such as load_cgn returns), got {type(cgn).__name__}"
        )
    if getattr(cgn, "frozen", True) is False:
        raise ArgumentError(
            "the CGN is still in training: call cgn.freeze() before drawing from it"
        )
    return cgn


def _require_interventions(interventions: Interventions | None) -> Interventions:
    if interventions is None:
        return Interventions()
    if not isinstance(interventions, Interventions):
        raise ArgumentTypeError(
            f"interventions must be Interventions(…) or None, got {interventions!r}"
        )
    return interventions
