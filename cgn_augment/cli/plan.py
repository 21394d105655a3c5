"""The command `cgn-augment plan`: what size of bank and how many fresh factors fit into a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tabulate import tabulate
from torch import Tensor

from cgn_augment.checks import require_amount, require_count
from cgn_augment.cli.screen import find_width
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import ImageNetCGN, load_cgn
from cgn_augment.generators.checkpoint import require_device
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.generators.layout import without_memory
from cgn_augment.parts.set import PartSet
from cgn_augment.sources.bank import BankSource, StorageName
from cgn_augment.sources.cost import (
    MEASURED,
    Plan,
    Rates,
    Work,
    bytes_of_made,
    count_flops,
    make_plan,
)
from cgn_augment.stream.transforms import MatchReal, match_real
from cgn_augment.types import Mechanisms

Card = Literal["measured", "here"]

_LEAST_WIDTH = 20  # of the column with reasons


def plan(
    pixels: int = 224,
    batch: int = 256,
    ratio: float = 1.0,
    step_ms: float = 180.0,
    cgn: str = "imagenet",
    overhead: float = 0.05,
    device_gb: float = 4.0,
    storage: StorageName = "uint8",
    card: Card = "measured",
    device: str = "cpu",
) -> None:
    """Computes what size of bank and how many fresh factors fit into a training step.

    Args:
        pixels: side of your images, in pixels. The bank is planned to keep larger images of a
            generator at this size, as by BankSource(image_size=…).
        batch: real images per step.
        ratio: counterfactuals per real image.
        step_ms: duration of your training step on that many real images alone, in milliseconds.
        cgn: imagenet for the CGN of the paper's size, parts (or their folder) for parts of
            photographs, or the path or name of a generator.
        overhead: share by which counterfactuals may lengthen a step.
        device_gb: memory that the bank may take, in GB.
        storage: storage of the bank.
        card: measured uses the device of docs/performance.md; here measures --device, which takes
            seconds.
        device: for --card here: where to measure, such as cpu or cuda.
    """
    # Before a network is opened:
    require_amount("overhead", overhead)
    require_amount("device_gb", device_gb)
    Work(pixels, batch, ratio, step_ms, storage=storage)
    here = _require_here(device, card)
    network = _open(cgn, here or torch.device("meta"))
    side = pixels if network is None else min(pixels, network.image_size)
    flops = 0 if network is None else sum(count_flops(network).values())
    work = Work(pixels, batch, ratio, step_ms, side, storage, flops)
    rates = MEASURED if here is None else measure_rates(work, network, here)
    found = make_plan(work, rates, overhead=overhead, bank_gb=device_gb)
    print(describe_plan(work, rates, found, overhead, device_gb, find_width()))


def _require_here(device: str, card: Card) -> torch.device | None:
    """Returns the device to measure, or None if nothing is measured."""
    if card == "here":
        with suppress(RuntimeError):  # not a device; `require_device` will report it
            if torch.device(device).type not in ("cpu", "cuda"):
                raise ArgumentError(f"device {device} is not measured: take cpu or cuda")
        return require_device(device)
    if device != "cpu":
        raise ArgumentError(
            f"--device {device} is where --card here measures, and the plan would be of "
            f"{MEASURED.name}: pass --card here too, or leave the device out"
        )
    return None


def _open(cgn: str, device: torch.device) -> Mechanisms | None:
    """Returns the network to count and measure; without memory on "meta"; None for parts."""
    if cgn == "parts":
        return None
    if Path(cgn).expanduser().is_dir():
        PartSet.open(cgn)  # or an error that says what the folder lacks
        return None
    if cgn != "imagenet":
        return load_cgn(cgn, device=device if device.type != "meta" else "cpu")
    if device.type == "meta":
        return imagenet_without_memory()
    return ImageNetCGN().freeze().to(device)


def imagenet_without_memory() -> ImageNetCGN:
    """Returns the CGN of the paper's size in its drawing form, without weights, to count FLOPs."""
    with without_memory():
        return ImageNetCGN(folded=True).eval().requires_grad_(False)


def describe_plan(
    work: Work,
    rates: Rates,
    plan: Plan,
    overhead: float,
    bank_gb: float,
    width: int | None = None,
) -> str:
    """Returns the plan as a table of what, how much and why; the last is wrapped to the width."""
    allowed = work.step_ms * overhead
    rows = [
        [
            "a step",
            f"{work.step_ms:.4g} ms",
            f"{work.batch} real images of {work.pixels} pixels and {plan.num} counterfactuals, on "
            f"{rates.name}",
        ],
        ["allowed", f"{allowed:.3g} ms", f"{overhead:.1%} of a step"],
        [
            "made half",
            f"{plan.made_ms:.3g} ms",
            f"{plan.made_mb:.4g} MB at least, {plan.floor_ms:.3g} ms at {rates.copy_gb_per_s:.0f} "
            f"GB/s, times {plan.over_floor:.3g} as measured",
        ],
        [
            "bank",
            f"{plan.bank} of each",
            f"{bank_gb:g} GB at {plan.bank_mb_each:.3g} MB ({work.source_pixels} pixels, "
            f"{work.storage}); each is shown {plan.uses:.2g} times a step",
        ],
    ]
    if work.flops:
        rows += [
            [
                "a fresh factor of each",
                f"{plan.fresh_ms:.3g} ms",
                f"{work.flops / 1e9:.4g} GFLOP at {rates.tflops:.3g} TFLOP/s as measured",
            ],
            ["refresh", f"{plan.refresh} a step", _turnover(plan)],
            [
                "all fresh",
                f"{1 + plan.fresh_overhead:.3g} of a step",
                f"{plan.num} fresh factors of each in every step",
            ],
        ]
    else:
        rows.append(["refresh", "", "parts are read, not drawn: of parts on disk, by threads"])
    left = None
    if width is not None:
        taken = sum(max(len(row[column]) for row in rows) + 2 for column in (0, 1))
        left = [None, None, max(_LEAST_WIDTH, width - taken)]
    return tabulate(rows, tablefmt="plain", disable_numparse=True, maxcolwidths=left)


def _turnover(plan: Plan) -> str:
    if plan.room_ms <= 0:
        return "the made half alone takes more than is allowed: lower --ratio or raise --overhead"
    if plan.refresh == 0:
        return f"{plan.room_ms:.3g} ms are left, less than one takes: keep the bank as it is"
    steps = plan.bank // plan.refresh
    return f"in the {plan.room_ms:.3g} ms left; all of the bank is new after {steps} steps"


# Measuring ---------------------------------------------------------------------------------------


class Noise:
    """Mechanisms that cost almost nothing, to measure everything else."""

    shared_noise, fingerprint = True, "noise"

    def __init__(self, image_size: int, device: torch.device, num_classes: int = 1) -> None:
        self.image_size, self.device, self.num_classes = image_size, device, num_classes

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws (num, 1) numbers in [0, 1)."""
        return torch.rand(num, 1, generator=generator).to(self.device)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns masks (N, 1, H, W) of one value each."""
        return self._spread(noise, 1)

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns images (N, 3, H, W) of one value each."""
        return self._spread(noise, 3)

    background = texture

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the images unchanged."""
        return images

    def _spread(self, noise: Tensor, channels: int) -> Tensor:
        return noise[:, :, None, None].expand(-1, channels, self.image_size, self.image_size)


def measure_rates(
    work: Work, cgn: Mechanisms | None, device: torch.device, seconds: float = 1.0
) -> Rates:
    """Measures a device: a copy, the made half of a step, and how fast the CGN draws."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(256, (2**27,), dtype=torch.uint8, device=device)
    taken = torch.empty_like(given)
    copying = _median_seconds(lambda: taken.copy_(given), device, seconds)
    rate = 2 * len(given) / copying / 1e9
    num = require_count("counterfactuals of a step", work.num)
    over = {}
    for side in {work.pixels, work.source_pixels}:
        bank = BankSource(Noise(side, device), 64, storage=work.storage)  # type: ignore[arg-type]
        match = match_real(0.5, 0.25, work.pixels)
        call = partial(_sample, bank, match, num)
        made = _median_seconds(call, device, seconds)
        over[side] = made * rate * 1e9 / bytes_of_made(num, side, work.pixels, work.storage)
    tflops = 1.0
    if cgn is not None:
        few = 64 if device.type == "cuda" else 1
        classes = torch.zeros(3, few, dtype=torch.int64)
        with torch.no_grad():
            drawing = _median_seconds(
                lambda: run_mechanisms(cgn, classes, generator, 1, few), device, seconds
            )
        tflops = work.flops * few / drawing / 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Rates(name, rate, over[work.pixels], over[work.source_pixels], tflops)


def _sample(bank: BankSource, match: MatchReal, num: int) -> Tensor:
    """Draws images as a stream does, which maps them while they are composed if it can."""
    generator, side = torch.Generator().manual_seed(0), bank.image_size
    affine = match.as_affine(side, side)
    drawn = bank.sample(num, generator, affine=affine).images
    return drawn if affine is not None else match(drawn)


def _median_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Returns the median time of synchronised calls, after one to warm up."""

    def take() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    take()
    found, end = [take()], time.perf_counter() + seconds
    while len(found) < 50 and time.perf_counter() < end:
        found.append(take())
    return statistics.median(found)
