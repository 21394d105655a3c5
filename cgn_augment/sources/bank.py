"""Counterfactuals from a bank: N masks, foregrounds and backgrounds recombine to N³ images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from cgn_augment.checks import require_choice, require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.interventions import Interventions
from cgn_augment.sources.drawn import DrawnSource
from cgn_augment.types import FACTORS, Mechanisms, Step

StorageName = Literal["float32", "float16", "uint8"]

_BLOCK = 100
"""Places of a bank that are filled with noise from one generator."""

_LOWEST = (0.0, -1.0, -1.0)
"""The least value of masks, foregrounds and backgrounds; the greatest is 1."""


class BankSource(DrawnSource):
    """Keeps masks, foregrounds and backgrounds, and recombines them at random.

    Every factor of the bank belongs to a fixed class, the classes taking turns, so that a class is
    found without a search and each is equally frequent. With `refresh`, each step replaces the
    oldest factors. The contents are a function of (seed, rank, step) alone: `sample` brings them to
    its step, which costs `refresh` factors from one step to the next and at most a new filling from
    any other. The bank is filled when it is first drawn from.

    Args:
        cgn: a frozen CGN.
        size: masks, foregrounds and backgrounds kept, each.
        refresh: of each, how many are replaced per step; 0 keeps the bank as it was filled.
        interventions: how the classes are drawn; uniformly by default.
        seed: of the contents.
        storage: how factors are kept: "float32" (exact; 28 bytes a pixel), "float16" (14) or
            "uint8" (7; exact to half a grey level).
        chunk: factors generated at once; bounds the memory while filling.

    Raises:
        ArgumentError: a bank too small for its classes, a negative refresh or one larger than the
            bank, a class that the CGN lacks, a CGN in training, an unknown storage.
        ArgumentTypeError: `cgn` has no mechanisms, or another argument is of another kind.

    Example:
        >>> import torch
        >>> from cgn_augment import BankSource
        >>> from cgn_augment.generators import SmallCGN
        >>> source = BankSource(SmallCGN().freeze(), size=20, refresh=2)
        >>> source.sample(64, torch.Generator().manual_seed(0)).images.shape
        torch.Size([64, 3, 32, 32])
    """

    _name = "bank"
    _settings = "size", "refresh", "seed", "storage"

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
    ) -> None:
        super().__init__(cgn, interventions, chunk=chunk)
        self.size = require_count("size", size)
        self.refresh = require_count("refresh", refresh, 0)
        self.seed = require_count("seed", seed, 0)
        if refresh > size:
            raise ArgumentError(f"refresh ({refresh}) must not be larger than size ({size})")
        require_choice("storage", storage, get_args(StorageName))
        self.storage = storage
        self._dtype: torch.dtype = getattr(torch, storage)
        for factor, classes in zip(FACTORS, self._classes, strict=True):
            if size < len(classes):
                raise ArgumentError(
                    f"a bank of size {size} cannot hold each of the {len(classes)} classes of "
                    f"{factor}: make size at least {len(classes)}, or list fewer classes"
                )
        self._bank: list[Tensor] = []
        self._rank, self._number = 0, 0

    @property
    def num_bytes(self) -> int:
        """Memory that the filled bank takes, in bytes."""
        return self.size * self.image_size**2 * 7 * self._dtype.itemsize

    def _draw(self, classes: Tensor, generator: Generator, step: Step, masks: bool) -> list[Tensor]:
        self._bring_to(step)
        slots = self._draw_slots(classes, generator).to(self.device, non_blocking=True)
        first = 0 if masks else 1
        parts = zip(self._bank[first:], slots[first:], _LOWEST[first:], strict=True)
        return [_unpack(kept.index_select(0, places), low) for kept, places, low in parts]

    def _draw_slots(self, drawn: Tensor, generator: Generator) -> Tensor:
        """Returns for (3, N) classes a random place (3, N) of that class in the bank."""
        place = torch.rand(drawn.shape, generator=generator, dtype=torch.float64)
        every = self.interventions.num_per_shape
        place[0] = place[0, ::every].repeat_interleave(every)[: drawn.shape[1]]
        slots = []
        for classes, y, share in zip(self._classes, drawn, place, strict=True):
            turn = torch.searchsorted(classes, y)
            count = (self.size - 1 - turn) // len(classes) + 1
            slots.append(turn + len(classes) * (share * count).long())
        return torch.stack(slots)

    def _bring_to(self, step: Step) -> None:
        """Brings the contents to where they are at a step."""
        number = step.number if self.refresh else 0  # without, they are the same at every step
        ahead = number - self._number
        near = ahead >= 0 and ahead * self.refresh < self.size
        if self._bank and step.rank == self._rank and near:
            for later in range(self._number + 1, number + 1):
                self._refresh(self._bank, later)
            self._number = number
            return
        # The old bank goes first: there are never two in memory, nor a stale one if filling fails.
        self._bank = []
        self._rank, self._number = step.rank, number
        self._bank = self._fill(number)

    def _fill(self, number: int) -> list[Tensor]:
        """Builds the contents at a step: the first filling, less what was replaced since."""
        side = self.image_size
        bank = [
            torch.empty(self.size, channels, side, side, dtype=self._dtype, device=self.device)
            for channels in (1, 3, 3)
        ]
        # A bar for the eyes of a person only, and only where filling takes a while.
        with tqdm(total=self.size, desc="filling the bank", delay=2, disable=None) as bar:
            for start in range(0, self.size, _BLOCK):
                slots = torch.arange(start, min(start + _BLOCK, self.size))
                if slots[-1] >= number * self.refresh:  # else all of these are replaced below
                    self._generate(bank, slots, Purpose.BANK_FILL, start)
                bar.update(len(slots))
        if self.refresh:
            # Only the last time round the bank is still there.
            rounds = -(-self.size // self.refresh)
            for earlier in range(max(1, number - rounds + 1), number + 1):
                self._refresh(bank, earlier)
        return bank

    def _refresh(self, bank: list[Tensor], number: int) -> None:
        first = (number - 1) * self.refresh
        slots = torch.arange(first, first + self.refresh) % self.size
        self._generate(bank, slots, Purpose.BANK_REFRESH, number)

    def _generate(self, bank: list[Tensor], slots: Tensor, purpose: Purpose, key: int) -> None:
        """Draws what belongs to some places, which the classes share in turns."""
        generator = step_generator(purpose, self.seed, self._rank, key)
        classes = torch.stack([y[slots % len(y)] for y in self._classes])
        drawn = run_mechanisms(self.cgn, classes, generator, 1, self.chunk)
        for kept, values, low in zip(bank, drawn, _LOWEST, strict=True):
            kept[slots] = _pack(values, low, kept.dtype)


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
