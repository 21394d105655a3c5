"""Cost of counterfactuals per training step: bytes moved, FLOPs, and the time available.

Nothing here draws. Two rates describe a device: bytes copied per second, which limit the *made
half* of a batch (its counterfactuals), and factors drawn per second, which limit how many are
fresh. docs/performance.md explains the model and how close we get to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cgn_augment.checks import require_amount, require_choice, require_count, require_side
from cgn_augment.errors import ArgumentError
from cgn_augment.types import FACTORS, Mechanisms

BYTES = {"float32": 4, "float16": 2, "uint8": 1}
"""Bytes per value, by storage of a bank."""

VALUES = 7
"""Values per pixel of one mask (1), one foreground (3) and one background (3)."""


@dataclass(frozen=True)
class Rates:
    """Speed of a device.

    Attributes:
        name: name of the device.
        copy_gb_per_s: bytes of a copy within its memory, read plus written, in 10⁹ per second.
        made_over_floor: measured time of the made half, divided by the time its bytes
            need at that rate.
        resized_over_floor: the same, if the source's images have another size.
        tflops: measured rate of the generator while it draws, in 10¹² per second.
    """

    name: str
    copy_gb_per_s: float
    made_over_floor: float
    resized_over_floor: float
    tflops: float


@dataclass(frozen=True)
class Work:
    """The work of a step.

    Attributes:
        pixels: side of the images, in pixels.
        batch: real images per step.
        ratio: counterfactuals per real image.
        step_ms: duration of a training step on that many real images, in milliseconds.
        source_pixels: side of the source's images, in pixels.
        storage: storage of the bank.
        flops: operations to draw one mask, one foreground and one background; 0 if they are only
            read.

    Raises:
        ArgumentError: a value is impossible.
    """

    pixels: int = 224
    batch: int = 256
    ratio: float = 1.0
    step_ms: float = 180.0
    source_pixels: int = 256
    storage: str = "uint8"
    flops: float = 0.0

    def __post_init__(self) -> None:
        require_count("batch", self.batch)
        for name in ("pixels", "source_pixels"):
            require_side(name, getattr(self, name))
        require_choice("storage", self.storage, tuple(BYTES))
        require_amount("ratio", self.ratio)
        if not math.isfinite(self.step_ms):
            raise ArgumentError(f"step_ms must be a number of milliseconds, got {self.step_ms}")
        if not self.step_ms > 0:
            raise ArgumentError(f"step_ms must be above 0, got {self.step_ms}")

    @property
    def num(self) -> int:
        """Counterfactuals per step."""
        return round(self.batch * self.ratio)


def bytes_of_factors(pixels: int, storage: str = "uint8") -> int:
    """Returns the bytes of one mask, one foreground and one background in a bank.

    Args:
        pixels: side of the images, in pixels.
        storage: storage of the bank.

    Examples:
        >>> from cgn_augment.sources.cost import bytes_of_factors
        >>> bytes_of_factors(256)
        458752
    """
    return VALUES * BYTES[storage] * pixels**2


def bytes_of_made(num: int, source_pixels: int, pixels: int, storage: str = "uint8") -> int:
    """Returns the fewest bytes that `num` images need: factors are read, float32 images written.

    Args:
        num: number of images.
        source_pixels: side of the factors, in pixels.
        pixels: side of the images, in pixels.
        storage: storage of the bank.

    Examples:
        >>> from cgn_augment.sources.cost import bytes_of_made
        >>> bytes_of_made(256, 224, 224) / 1e6
        244.056064
    """
    return num * (bytes_of_factors(source_pixels, storage) + 3 * BYTES["float32"] * pixels**2)


def count_flops(cgn: Mechanisms) -> dict[str, int]:
    """Counts the floating-point operations of each mechanism for one image.

    A multiplication plus an addition count as two. Only matrix products and convolutions count,
    which is nearly all. Weights without memory (`without_memory`) are enough.

    Args:
        cgn: the CGN.

    Returns:
        Operations by factor.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.sources.cost import count_flops
        >>> count_flops(SmallCGN().freeze())["shape"] > 10**6
        True
    """
    noise = cgn.draw_noise(1, torch.Generator().manual_seed(0))
    y = torch.zeros(1, dtype=torch.int64, device=noise.device)
    found = {}
    for factor in FACTORS:
        found[factor] = count_flops_of(partial(getattr(cgn, factor), noise, y))
    return found


def count_flops_of(call: Callable[[], object]) -> int:
    """Counts the floating-point operations of a call, as `count_flops` does.

    Args:
        call: a function without arguments.
    """
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count  # slow to import

    def of_onednn(images: Any, kernel: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return conv_flop_count(images, kernel, out_shape)

    # PyTorch does not count this one.
    mapping = {torch.ops.aten.mkldnn_convolution: of_onednn}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Plan:
    """What a step costs, and what fits into it.

    Attributes:
        num: counterfactuals per step.
        made_mb: fewest bytes of the made half, in 10⁶.
        floor_ms: milliseconds these bytes take at the rate of a copy.
        made_ms: expected milliseconds.
        over_floor: ratio of the two, as measured.
        room_ms: milliseconds of the allowed overhead left after the made half.
        fresh_ms: milliseconds to draw one factor of each kind.
        refresh: factors of each kind that a step can replace.
        fresh_overhead: added share of the step if every counterfactual is fresh.
        bank: factors of each kind that fit into the memory.
        bank_mb_each: bytes of one factor of each kind, in 10⁶.
        uses: how often a factor of that bank is shown per step, on average.
    """

    num: int
    made_mb: float
    floor_ms: float
    made_ms: float
    over_floor: float
    room_ms: float
    fresh_ms: float
    refresh: int
    fresh_overhead: float
    bank: int
    bank_mb_each: float
    uses: float


def make_plan(work: Work, rates: Rates, *, overhead: float, bank_gb: float) -> Plan:
    """Computes what fits into a step.

    A side stream shares the device with the training, so none of its work is free; only the host's
    part is hidden.

    Args:
        work: the work of the step.
        rates: speed of the device.
        overhead: share by which a step may become longer.
        bank_gb: memory for the bank, in 10⁹ bytes.

    Raises:
        ArgumentError: overhead or memory is negative or not finite.

    Examples:
        >>> from cgn_augment.sources.cost import Rates, Work, make_plan
        >>> card = Rates("a card", 2000, made_over_floor=2, resized_over_floor=3, tflops=100)
        >>> plan = make_plan(Work(flops=2.5e11), card, overhead=0.05, bank_gb=4)
        >>> plan.refresh, plan.bank
        (3, 8719)
    """
    require_amount("overhead", overhead)
    require_amount("bank_gb", bank_gb)
    moved = bytes_of_made(work.num, work.source_pixels, work.pixels, work.storage)
    floor_ms = moved / rates.copy_gb_per_s / 1e6
    same_size = work.source_pixels == work.pixels
    over = rates.made_over_floor if same_size else rates.resized_over_floor
    made_ms = floor_ms * over
    room_ms = work.step_ms * overhead - made_ms
    fresh_ms = work.flops / rates.tflops / 1e9
    each = bytes_of_factors(work.source_pixels, work.storage)
    bank = int(bank_gb * 1e9 / each)
    refresh = work.num if fresh_ms == 0 else int(max(room_ms, 0) / fresh_ms)
    return Plan(
        num=work.num,
        made_mb=moved / 1e6,
        floor_ms=floor_ms,
        made_ms=made_ms,
        over_floor=over,
        room_ms=room_ms,
        fresh_ms=fresh_ms,
        refresh=min(refresh, bank),
        fresh_overhead=(made_ms + work.num * fresh_ms) / work.step_ms,
        bank=bank,
        bank_mb_each=each / 1e6,
        uses=work.num / bank if bank else 0.0,
    )


MEASURED = Rates("NVIDIA H200", 4252.0, 15.1, 27.5, 87.6)
"""From benchmarks/results/gpu.json: storage in bytes, the CGN in bfloat16 at its best batch."""
