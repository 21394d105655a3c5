"""Counterfactuals from a bank: N masks, foregrounds and backgrounds recombine to N³ images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from cgn_augment.checks import require_choice, require_count, require_side
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, resize_images, step_generator
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.interventions import Interventions
from cgn_augment.sources.ahead import Ahead
from cgn_augment.sources.composing import compose_stored, unpack
from cgn_augment.sources.drawn import DrawnSource, OwnMasks
from cgn_augment.sources.placement import Placement
from cgn_augment.sources.turns import Turns
from cgn_augment.types import FACTORS, Affine, Mechanisms, Step

StorageName = Literal["float32", "float16", "uint8"]
MemoryName = Literal["device", "host"]

_BLOCK = 100
"""Slots of a bank that are filled with noise from one generator."""

_LOWEST = (0.0, -1.0, -1.0)
"""Smallest values of masks, foregrounds and backgrounds; the greatest is 1."""


class BankSource(DrawnSource):
    """Keeps masks, foregrounds and backgrounds, and recombines them at random.

    Each slot of the bank belongs to a fixed class, and the classes take turns, so each is equally
    frequent and found without a search. With `refresh`, each step replaces the oldest factors. The
    contents are a function of (seed, rank, step) alone. `sample` brings them to its step: `refresh`
    factors from one step to the next, and at most a full refill after a jump. The first draw fills
    the bank. For parts on disk, threads read and decode the next step's replacements in advance,
    which does not change what is drawn.

    Args:
        cgn: a frozen CGN, or `Parts`.
        size: number of masks, of foregrounds and of backgrounds to keep.
        refresh: number of each to replace per step; 0 keeps the bank as filled.
        interventions: how classes are drawn; uniformly by default. With parts on disk each object
            keeps its own texture by default.
        placement: where to put objects; by default they stay where they were.
        seed: seed of the contents.
        storage: how factors are kept: "float32" (exact; 28 bytes a pixel), "float16" (14) or
            "uint8" (7; exact to half a grey level). By default uint8 for parts on disk, which is
            exact for their pictures, and float32 for everything else.
        chunk: factors generated at once; limits the memory needed for filling.
        memory: where factors are kept: on the "device" of the CGN, or in the memory of its "host",
            for a bank larger than a GPU's. Each step then copies what it shows to the GPU. The
            images are the same.
        image_size: height and width of the images, in pixels; by default the CGN's own. Factors are
            resized to it (bilinear, antialiased) when they are drawn, instead of every image in
            every step.

    Raises:
        ArgumentError: the bank is too small for its classes, refresh is negative or larger than the
            bank, the CGN lacks a class or is in training mode, storage or memory is unknown, or
            image_size is not a size. When it is filled: it does not fit into the memory of the
            device.
        ArgumentTypeError: `cgn` has no mechanisms, or another argument has the wrong type.

    Examples:
        >>> import torch
        >>> from cgn_augment import BankSource
        >>> from cgn_augment.generators import SmallCGN
        >>> source = BankSource(SmallCGN().freeze(), size=20, refresh=2)
        >>> source.sample(64, torch.Generator().manual_seed(0)).images.shape
        torch.Size([64, 3, 32, 32])
    """

    _name = "bank"
    _settings = "size", "refresh", "seed", "storage"
    _others = "chunk", "memory", "image_size"

    def __init__(
        self,
        cgn: Mechanisms,
        size: int = 2000,
        refresh: int = 0,
        interventions: Interventions | None = None,
        *,
        placement: Placement | None = None,
        seed: int = 0,
        storage: StorageName | None = None,
        chunk: int = 100,
        memory: MemoryName = "device",
        image_size: int | None = None,
    ) -> None:
        super().__init__(cgn, interventions, placement=placement, chunk=chunk)
        if image_size is not None:
            self.image_size = require_side("image_size", image_size)
        self.size = require_count("size", size)
        self.refresh = require_count("refresh", refresh, 0)
        self.seed = require_count("seed", seed, 0)
        if refresh > size:
            raise ArgumentError(f"refresh ({refresh}) must not be larger than size ({size})")
        self.storage: str = getattr(cgn, "storage", "float32") if storage is None else storage
        require_choice("storage", self.storage, get_args(StorageName))
        self.memory = memory
        require_choice("memory", memory, get_args(MemoryName))
        self._dtype: torch.dtype = getattr(torch, self.storage)
        as_bytes: Mechanisms | None = getattr(cgn, "as_bytes", None)
        keeps_bytes = self.storage == "uint8" and self.image_size == cgn.image_size
        self._drawn = as_bytes if as_bytes is not None and keeps_bytes else cgn
        self._ahead = (
            None if as_bytes is None or refresh == 0 else Ahead(self._draw_refresh, cgn.device)
        )
        for factor, classes in zip(FACTORS, self._classes, strict=True):
            if size < len(classes):
                raise ArgumentError(
                    f"a bank of size {size} cannot hold each of the {len(classes)} classes of "
                    f"{factor}: make size at least {len(classes)}, or list fewer classes"
                )
        self._num_classes = torch.tensor([[len(classes)] for classes in self._classes])
        self._turn_of = _positions(self._classes)
        self._slots_of = (size - 1 - self._turn_of) // self._num_classes + 1
        self._bank: list[Tensor] = []
        self._turns = Turns()
        self._rank, self._number = 0, 0

    @property
    def fingerprint(self) -> str:
        """Equal for sources that draw identical images."""
        resized = "" if self.image_size == self.cgn.image_size else f" at {self.image_size} pixels"
        return super().fingerprint + resized

    @property
    def num_bytes(self) -> int:
        """Memory of the filled bank, in bytes."""
        return self.size * self.image_size**2 * 7 * self._dtype.itemsize

    @property
    def _place(self) -> torch.device:
        """Device of the kept factors."""
        return self.device if self.memory == "device" else torch.device("cpu")

    def _compose(
        self,
        classes: Tensor,
        generator: Generator,
        step: Step,
        out: Tensor | None,
        affine: Affine | None,
        own: OwnMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.placement is not None:
            return super()._compose(classes, generator, step, out, affine, own)
        with self._turns.take(self._place, self._bank):
            self._bring_to(step)
            masks, foregrounds, backgrounds = self._bank
            slots = self._draw_slots(classes, generator)
            if own is not None:
                masks, slots[0] = own
            return compose_stored(
                masks, foregrounds, backgrounds, slots, out, affine, device=self.device
            )

    def _draw(self, classes: Tensor, generator: Generator, step: Step, masks: bool) -> list[Tensor]:
        with self._turns.take(self._place, self._bank):
            self._bring_to(step)
            slots = self._draw_slots(classes, generator).to(self._place, non_blocking=True)
            first = 0 if masks else 1
            parts = zip(self._bank[first:], slots[first:], _LOWEST[first:], strict=True)
            # Copies, so that a later refresh does not change them.
            return [unpack(kept, places, low, self.device) for kept, places, low in parts]

    def _draw_slots(self, drawn: Tensor, generator: Generator) -> Tensor:
        """Returns for each of (3, N) classes a random slot of that class, (3, N)."""
        place = torch.rand(drawn.shape, generator=generator, dtype=torch.float64)
        every = self.interventions.num_per_shape
        if every > 1:
            place[0] = place[0, ::every].repeat_interleave(every)[: drawn.shape[1]]
        turn = self._turn_of.gather(1, drawn)
        count = self._slots_of.gather(1, drawn)
        slots = (place * count).long().mul_(self._num_classes).add_(turn)
        if self.interventions.is_tied:
            slots[1] = slots[0]
        return slots

    def _bring_to(self, step: Step) -> None:
        """Brings the contents to the state for a step."""
        number = step.number if self.refresh else 0  # without refresh all steps have the same
        ahead = number - self._number
        near = ahead >= 0 and ahead * self.refresh < self.size
        if self._bank and step.rank == self._rank and near:
            for later in range(self._number + 1, number + 1):
                self._refresh(self._bank, later)
            self._number = number
            self._look_ahead(step)
            return
        # Free the old bank first: there are never two in memory, and no stale one if filling fails.
        self._bank = []
        self._rank, self._number = step.rank, number
        try:
            self._bank = self._fill(number)
        except torch.OutOfMemoryError as error:
            raise ArgumentError(self._too_large()) from error
        self._look_ahead(step)

    def _too_large(self) -> str:
        keep = "" if self.memory == "host" else "keep it in the host's memory with memory='host', "
        smaller = "" if self.storage == "uint8" else "pass storage='uint8', "
        return (
            f"a bank of {self.size} masks, foregrounds and backgrounds takes "
            f"{self.num_bytes / 1e9:.3g} GB, and {self.device} ran out of memory as it was filled: "
            f"{keep}{smaller}make size smaller, or chunk ({self.chunk} factors are drawn at once)"
        )

    def _look_ahead(self, step: Step) -> None:
        if self._ahead is not None:
            self._ahead.begin(step.rank, step.number + 1)

    def _fill(self, number: int) -> list[Tensor]:
        """Builds the contents at a step: the first filling, less what was replaced since."""
        side = self.image_size
        bank = [
            torch.empty(self.size, channels, side, side, dtype=self._dtype, device=self._place)
            for channels in (1, 3, 3)
        ]
        # Progress bar for interactive use, if filling takes long.
        with tqdm(total=self.size, desc="filling the bank", delay=2, disable=None) as bar:
            for start in range(0, self.size, _BLOCK):
                slots = torch.arange(start, min(start + _BLOCK, self.size))
                if slots[-1] >= number * self.refresh:  # else the loop below replaces all of them
                    self._generate(bank, slots, Purpose.BANK_FILL, start)
                bar.update(len(slots))
        if self.refresh:
            # Only factors from the last round are still in the bank.
            rounds = -(-self.size // self.refresh)
            for earlier in range(max(1, number - rounds + 1), number + 1):
                self._refresh(bank, earlier)
        return bank

    def _refresh(self, bank: list[Tensor], number: int) -> None:
        if self._ahead is None:
            drawn = self._draw_refresh(self._rank, number)
        else:
            drawn = self._ahead.take(self._rank, number)
        self._keep(bank, self._refreshed_at(number), drawn)

    def _refreshed_at(self, number: int) -> Tensor:
        """Returns the slots that a step replaces."""
        first = (number - 1) * self.refresh
        return torch.arange(first, first + self.refresh) % self.size

    def _draw_refresh(self, rank: int, number: int) -> list[Tensor]:
        places = self._refreshed_at(number)
        return self._draw_for(places, step_generator(Purpose.BANK_REFRESH, self.seed, rank, number))

    def _generate(self, bank: list[Tensor], slots: Tensor, purpose: Purpose, key: int) -> None:
        """Draws the factors of some slots and stores them."""
        generator = step_generator(purpose, self.seed, self._rank, key)
        self._keep(bank, slots, self._draw_for(slots, generator))

    def _draw_for(self, slots: Tensor, generator: Generator) -> list[Tensor]:
        """Draws factors for some slots; the classes take turns."""
        classes = torch.stack([y[slots % len(y)] for y in self._classes])
        tied = self.interventions.is_tied
        drawn = run_mechanisms(self._drawn, classes, generator, 1, self.chunk, tied=tied)
        if self.image_size == self.cgn.image_size:
            return drawn
        size = (self.image_size, self.image_size)
        return [
            resize_images(values, size).clamp_(low, 1)
            for values, low in zip(drawn, _LOWEST, strict=True)
        ]

    @staticmethod
    def _keep(bank: list[Tensor], slots: Tensor, drawn: list[Tensor]) -> None:
        for kept, values, low in zip(bank, drawn, _LOWEST, strict=True):
            kept[slots] = _pack(values, low, kept.dtype).to(kept.device)


def _positions(lists: list[Tensor]) -> Tensor:
    """Returns for each list (K,) of classes a row with the position of each class, (3, most)."""
    table = torch.zeros(len(lists), 1 + max(int(classes[-1]) for classes in lists)).long()
    for row, classes in zip(table, lists, strict=True):
        row[classes] = torch.arange(len(classes))
    return table


def _pack(values: Tensor, low: float, dtype: torch.dtype) -> Tensor:
    """Turns values in [low, 1] into the storage type; bytes stay as they are."""
    if values.dtype is dtype:
        return values
    if dtype is torch.uint8:
        return ((values - low) * (255 / (1 - low))).round_().to(dtype)
    return values.to(dtype)
