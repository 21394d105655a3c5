"""The counterfactual half of a batch alone: drawing, composing, matching; filling; fresh images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_setup import MEAN, MOVED, STD, Setup
from gpu_timing import (
    Row,
    count_waits,
    describe,
    spread,
    synchronize,
    time_calls,
    time_on_device,
    time_on_host,
)
from torch import Tensor

from cgn_augment import BankSource, FreshSource, Interventions, Step, match_real


def least_bytes(num: int, source_pixels: int, pixels: int, bytes_each: int) -> int:
    """Returns the bytes that must move: each factor read once, each image written once in float32.

    A pixel has seven values, one of the mask and three of the foreground and the background each.
    """
    return num * (7 * bytes_each * source_pixels**2 + 12 * pixels**2)


def measure_made(setup: Setup, seconds: float, copy_gb_per_s: float) -> Row:
    """Measures `source.sample` and `match_real` for a batch, against a copy of as many bytes."""
    num, pixels = setup.sizes.batch, setup.sizes.pixels
    crop = {} if setup.sizes.small else {"resize": 256}
    resized = match_real(MEAN, STD, pixels)
    cropped = match_real(MEAN, STD, pixels, **crop)
    bank, plain = setup.bank, match_real(MEAN, STD)
    makers: dict[str, Callable[[], tuple[Any, Any, int]]] = {
        "parts, bank uint8": lambda: (bank(setup.parts), plain, 1),
        "parts, bank float32": lambda: (bank(setup.parts, storage="float32"), plain, 4),
        "parts, from memory": lambda: (FreshSource(setup.parts), plain, 4),
        "parts, bank uint8, placement": lambda: (bank(setup.parts, placement=MOVED), plain, 1),
        "CGN, bank uint8, resized": lambda: (bank(setup.cgn), resized, 1),
        "CGN, bank uint8, cropped": lambda: (bank(setup.cgn), cropped, 1),
        "CGN, bank float32, resized": lambda: (bank(setup.cgn, storage="float32"), resized, 4),
    }
    rows: list[Row] = []
    for name, make in makers.items():
        try:
            source, transform, size = make()
            generator = torch.Generator().manual_seed(0)

            def call(source: Any = source, transform: Any = transform) -> Tensor:
                drawn = source.sample(num, generator, Step(0))  # noqa: B023
                with torch.no_grad():
                    made: Tensor = transform(drawn.images)
                return made

            call()
            moved = least_bytes(num, source.image_size, pixels, size)
            rows.append(
                {"way": name, **_time(call, setup, seconds / len(makers), moved, copy_gb_per_s)}
            )
        except Exception as error:
            rows.append({"way": name, "error": describe(error)})
    return {
        "what": f"{num} counterfactuals of {pixels} pixels drawn from a filled bank and matched to "
        "the real images; floor: the fewest bytes at the rate of a copy",
        "rows": rows,
    }


def _time(
    call: Callable[[], object], setup: Setup, seconds: float, moved: int, copy_gb_per_s: float
) -> Row:
    device = setup.device
    floor = moved / copy_gb_per_s / 1e9
    taken = spread([1e3 * value for value in time_calls(call, device, seconds / 2)])
    alone = time_on_device(call, device)
    busy = taken["median"] if alone is None else 1e3 * alone
    return {
        "ms": taken,
        "device_ms": None if alone is None else 1e3 * alone,
        "host_ms": 1e3 * time_on_host(call, device, 3 if setup.sizes.small else 10),
        "least_mb": moved / 1e6,
        "floor_ms": 1e3 * floor,
        "device_over_floor": busy / (1e3 * floor),
        "waits": count_waits(call, device),
    }


def gather_and_compose(
    masks: Tensor, fores: Tensor, backs: Tensor, slots: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """What a made half must do, in plain operations: gather, blend, normalise."""
    mask = masks[slots[0]].float() / 255
    image = torch.lerp(backs[slots[2]].float(), fores[slots[1]].float(), mask)
    return image * scale + shift


def measure_compiled(setup: Setup, seconds: float, copy_gb_per_s: float) -> Row:
    """Measures gathering, composing and normalising as operations of PyTorch, and compiled."""
    num, pixels, device = setup.sizes.batch, setup.sizes.pixels, setup.device
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> Tensor:
        shape = setup.sizes.bank, channels, pixels, pixels
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)

    kept = draw(1), draw(3), draw(3)
    scale, shift = (torch.rand(3, 1, 1).to(device) for _ in range(2))
    slots = torch.randint(setup.sizes.bank, (3, num), generator=generator).to(device)
    ways: dict[str, Callable[..., Tensor]] = {"plain operations": gather_and_compose}
    if device.type == "cuda":
        ways["compiled"] = torch.compile(gather_and_compose)
    rows: list[Row] = []
    expected = gather_and_compose(*kept, slots, scale, shift)
    moved = least_bytes(num, pixels, pixels, 1)
    for name, way in ways.items():
        try:

            def call(way: Callable[..., Tensor] = way) -> Tensor:
                with torch.no_grad():
                    return way(*kept, slots, scale, shift)

            difference = (call() - expected).abs().max().item()
            row = _time(call, setup, seconds / 2, moved, copy_gb_per_s)
            rows.append({"way": name, "largest_difference": difference, **row})
        except Exception as error:
            rows.append({"way": name, "error": describe(error)})
    return {"what": "gather, blend and normalise of bytes, without a source", "rows": rows}


def measure_filling(setup: Setup, seconds: float) -> Row:
    """Measures how many factors of each kind a second a bank is filled with."""
    small = setup.sizes.small
    few = Interventions(shape=[0, 1], texture=[0, 1], background=[0, 1])
    ways: dict[str, tuple[Any, int, int]] = {
        "digits": (lambda: setup.digits_cgn, 8 if small else 4000, 100),
        "CGN float32": (lambda: setup.cgn, 4 if small else 100, 50),
        "CGN bfloat16": (lambda: setup.half_cgn, 4 if small else 100, 50),
        "CGN bfloat16, graphs": (lambda: setup.graphed_cgn, 4 if small else 100, 50),
        "parts": (lambda: setup.parts, 8 if small else 2000, 100),
    }
    rows: list[Row] = []
    for name, (make, num, chunk) in ways.items():
        try:
            cgn, found = make(), []

            def fill(num: int = num, cgn: Any = cgn, chunk: int = chunk) -> None:
                rule = None if name == "parts" else few  # noqa: B023
                bank = BankSource(cgn, num, interventions=rule, chunk=chunk, storage="uint8")
                bank.sample(1, torch.Generator().manual_seed(0))

            found = time_calls(fill, setup.device, seconds / len(ways), least=2, most=5, warm_up=1)
            taken = spread(found)
            rows.append({"way": name, "num": num, "per_second": num / taken["median"]})
            rows[-1]["seconds"] = taken
        except Exception as error:
            rows.append({"way": name, "error": describe(error)})
    return {
        "what": "masks, foregrounds and backgrounds that fill a bank, each, a second",
        "rows": rows,
    }


def profile(setup: Setup) -> Row:
    """Lists where the device's time goes while a made half is drawn and a bank refreshed."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    device = setup.device
    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    plain = match_real(MEAN, STD)
    resized = match_real(MEAN, STD, setup.sizes.pixels)
    sources = {
        "parts, bank": (setup.bank(setup.parts), plain),
        "parts, bank, placement": (setup.bank(setup.parts, placement=MOVED), plain),
        "CGN, bank, resized": (setup.bank(setup.cgn), resized),
        "CGN bfloat16, refresh": (setup.bank(setup.half_cgn, refresh=setup.sizes.refresh), resized),
    }
    tables: Row = {}
    for name, (source, transform) in sources.items():
        generator = torch.Generator().manual_seed(0)
        try:
            for number in range(2):
                transform(source.sample(setup.sizes.batch, generator, Step(number)).images)
            synchronize(device)
            with watch(activities=kinds) as seen:
                transform(source.sample(setup.sizes.batch, generator, Step(2)).images)
                synchronize(device)
            key = "device_time_total" if device.type == "cuda" else "cpu_time_total"
            events = sorted(seen.key_averages(), key=lambda e: -getattr(e, f"self_{key}"))[:18]
            tables[name] = [
                f"{getattr(e, f'self_{key}') / 1e3:9.3f} ms {e.count:5d} x {e.key[:90]}"
                for e in events
            ]
        except Exception as error:
            tables[name] = describe(error)
    return {"what": "device time of one call, by operation", "tables": tables}
