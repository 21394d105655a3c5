"""Inputs of the GPU benchmark: drawn images, generators with random weights, parts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from imagenet_speed import TINY
from torch import Tensor

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    Interventions,
    Parts,
    Placement,
    load_cgn,
    match_real,
)
from cgn_augment.generators import ImageNetCGN, SmallCGN
from cgn_augment.types import Source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_CLASSES = 4
FEW = list(range(NUM_CLASSES))
MOVED = Placement(scale=(0.7, 1.3), shift=0.2, rotate=15, flip=0.5)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        pixels: of the real images, and of parts.
        batch: real images of a step.
        bank: factors that a bank keeps of each kind.
        refresh: factors of each kind that a step replaces, where it does.
        steps: of each way in a round.
        rounds: at least.
        warm_up: steps before each block, which are not timed.
        digits: real digits of a step.
        flat_steps: steps over which memory must not grow.
        small: whether all is as small as can be, for a run without a GPU.
    """

    pixels: int = 224
    batch: int = 256
    bank: int = 256
    refresh: int = 64
    steps: int = 4
    rounds: int = 3
    warm_up: int = 2
    digits: int = 256
    flat_steps: int = 2000
    small: bool = False


FULL = Sizes()
SMALL = Sizes(
    pixels=32,
    batch=2,
    bank=8,
    refresh=2,
    steps=1,
    rounds=1,
    warm_up=0,
    digits=4,
    flat_steps=12,
    small=True,
)


@dataclass
class Setup:
    """Makes what the parts of the benchmark share, once and when it is asked for."""

    device: torch.device
    sizes: Sizes
    notes: list[str] = field(default_factory=list)

    @cached_property
    def cgn(self) -> ImageNetCGN:
        """The CGN of the paper's size, 256 pixels, with random weights, which cost what any do."""
        torch.manual_seed(0)
        cgn = ImageNetCGN(TINY, unet_width=4) if self.sizes.small else ImageNetCGN()
        return cgn.freeze().to(self.device)

    @cached_property
    def half_cgn(self) -> ImageNetCGN:
        """The same in bfloat16."""
        return copy.deepcopy(self.cgn).to(torch.bfloat16)

    @cached_property
    def graphed_cgn(self) -> ImageNetCGN:
        """The same, which replays what it launches."""
        return copy.deepcopy(self.half_cgn).use_graphs(self.device.type == "cuda")

    @cached_property
    def digits_cgn(self) -> SmallCGN:
        """A bundled CGN of digits."""
        cgn = load_cgn("colored-mnist", device=self.device)
        assert isinstance(cgn, SmallCGN)  # noqa: S101
        return cgn

    @cached_property
    def parts(self) -> Parts:
        """Parts of drawn images, whose textures repeat themselves, so that they are soon whole."""
        num, side = (8, 32) if self.sizes.small else (48, self.sizes.pixels)
        images, masks = draw_objects(num, side)
        labels = torch.arange(num) % NUM_CLASSES
        return Parts.from_images(
            images.to(self.device), labels, masks.to(self.device), num // NUM_CLASSES, chunk=16
        )

    def bank(self, cgn: Any, **settings: Any) -> BankSource:
        """A filled bank of few classes, so that it may be small."""
        rule = None
        if not isinstance(cgn, Parts):
            rule = Interventions(shape=FEW, texture=FEW, background=FEW)
        settings = {"chunk": 64, "storage": "uint8", **settings}
        bank = BankSource(cgn, self.sizes.bank, interventions=rule, **settings)
        bank.sample(1, torch.Generator().manual_seed(0))
        return bank

    def transform(self, source: Source) -> Any:
        """Brings counterfactuals to the size and the values of the real images."""
        size = None if source.image_size == self.sizes.pixels else self.sizes.pixels  # type: ignore[attr-defined]
        return match_real(MEAN, STD, size)

    def real(self, num: int, *, where: str = "device", batches: int = 4) -> list[Any]:
        """Ready batches of drawn real images, channels last: on the device or in pinned memory."""
        made = []
        for number in range(batches):
            generator = torch.Generator().manual_seed(number)
            shape = num, 3, self.sizes.pixels, self.sizes.pixels
            images = torch.rand(shape, generator=generator)
            mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
            images = images.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
            if where == "device":
                made.append((images.to(self.device), labels.to(self.device)))
            elif self.device.type == "cuda":
                made.append((images.pin_memory(), labels.pin_memory()))
            else:
                made.append((images, labels))
        return made

    def stream(
        self, real: list[Any], source: Source, *, prefetch: int = 0, **settings: Any
    ) -> Iterator[Any]:
        """Mixed batches without an end, in epochs of 64 steps."""
        if prefetch:
            settings["prefetch"] = prefetch
        stream = CounterfactualDataset(
            real * (64 // len(real)), source, device=self.device, ratio=1.0, **settings
        )
        return forever(stream)


def can_prefetch() -> bool:
    """Returns whether this version of the package makes steps ahead."""
    return "prefetch" in inspect.signature(CounterfactualDataset).parameters


def forever(batches: Any) -> Iterator[Any]:
    """Begins the batches again where they end."""
    while True:
        yield from batches


def draw_objects(num: int, side: int) -> tuple[Tensor, Tensor]:
    """Draws images (N, 3, side, side) in [-1, 1] of a pattern each, and masks of a disc."""
    generator = torch.Generator().manual_seed(0)
    tile = side // 8
    tiles = torch.randn(num, 3, tile, tile, generator=generator)
    tiles = F.avg_pool2d(F.pad(tiles, (1, 1, 1, 1), mode="circular"), 3, stride=1).mul(2).tanh()
    images = tiles.repeat(1, 1, 8, 8)[..., :side, :side].contiguous()
    line = torch.linspace(-1, 1, side)
    disc = (line[:, None] ** 2 + line[None] ** 2 < 0.3).float()
    return images, disc.expand(num, 1, side, side).clone()
