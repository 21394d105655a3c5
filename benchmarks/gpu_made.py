"""The counterfactual half of a batch alone: drawing, composing, matching; filling; fresh images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from gpu_setup import MEAN, MOVED, STD, Setup, Sizes
from gpu_timing import (
    Row,
    Way,
    count_waits,
    describe,
    measure_in_turns,
    spread,
    synchronize,
    time_calls,
    time_on_device,
    time_on_host,
)
from torch import Generator, Tensor

from cgn_augment import BankSource, FreshSource, Interventions, Step, match_real
from cgn_augment.cli.plan import Noise
from cgn_augment.sources.composing import compose_stored
from cgn_augment.stream.transforms import MatchReal

Form = tuple[torch.dtype, torch.memory_format]

PLAIN: Form = (torch.float32, torch.contiguous_format)
FORMS: dict[str, Form] = {
    "float32": PLAIN,
    "float32, channels last": (torch.float32, torch.channels_last),
    "bfloat16, channels last": (torch.bfloat16, torch.channels_last),
}
"""Forms in which real batches come."""


class Made(NamedTuple):
    """A way to make the counterfactual half of a batch.

    Attributes:
        source: what it is drawn from.
        match: brings it to the real images.
        bytes_each: bytes of a value of a kept factor.
        form: type and memory format of the batch.
        folded: whether the source maps the values while it composes, if that is all that `match`
            does; a stream has it so.
    """

    source: Any
    match: MatchReal
    bytes_each: int
    form: Form = PLAIN
    folded: bool = True

    def draw(self, num: int, generator: Generator) -> Tensor:
        """Makes images in the form of the batch, as a stream does."""
        dtype, kept = self.form
        side = self.source.image_size
        affine = self.match.as_affine(side, side)
        room: Tensor | None = None
        if affine is not None:
            shape = num, 3, side, side
            device = self.source.device
            room = torch.empty(shape, dtype=dtype, device=device, memory_format=kept)
            if self.folded:
                made: Tensor = self.source.sample(num, generator, out=room, affine=affine).images
                return made
        with torch.no_grad():
            if room is not None and self.form == PLAIN:
                drawn = self.source.sample(num, generator, out=room)
                return self.match(drawn.images, overwrite=True)
            made = self.match(self.source.sample(num, generator).images)
            return made.to(dtype, memory_format=kept) if room is None else room.copy_(made)


def least_bytes(num: int, source_pixels: int, pixels: int, each: int, written: int = 4) -> int:
    """Returns the bytes that must move: each factor read once, each image written once.

    A pixel has seven values, one of the mask and three of the foreground and the background each.
    """
    return num * (7 * each * source_pixels**2 + 3 * written * pixels**2)


def measure_made(setup: Setup, seconds: float, copy_gb_per_s: float) -> Row:
    """Measures drawing and matching the counterfactuals of a batch, against a copy of its bytes."""
    num, pixels = setup.sizes.batch, setup.sizes.pixels
    crop = {} if setup.sizes.small else {"resize": 256}
    resized = match_real(MEAN, STD, pixels)
    cropped = match_real(MEAN, STD, pixels, **crop)
    bank, plain = setup.bank, match_real(MEAN, STD)
    last = FORMS["bfloat16, channels last"]
    makers: dict[str, Callable[[], Made]] = {
        "parts, bank uint8": lambda: Made(bank(setup.parts), plain, 1),
        "parts, bank uint8, in two passes": lambda: Made(bank(setup.parts), plain, 1, folded=False),
        "parts, bank uint8, bfloat16, channels last": lambda: Made(
            bank(setup.parts), plain, 1, last
        ),
        "parts, bank uint8, bfloat16, channels last, in two passes": lambda: Made(
            bank(setup.parts), plain, 1, last, folded=False
        ),
        "parts, bank uint8, in the host's memory": lambda: Made(
            bank(setup.parts, memory="host"), plain, 1
        ),
        "parts, bank float32": lambda: Made(bank(setup.parts, storage="float32"), plain, 4),
        "parts, from memory": lambda: Made(FreshSource(setup.parts), plain, 4),
        "parts, bank uint8, placement": lambda: Made(bank(setup.parts, placement=MOVED), plain, 1),
        "CGN, bank uint8, resized": lambda: Made(bank(setup.cgn), resized, 1),
        "CGN, bank uint8, cropped": lambda: Made(bank(setup.cgn), cropped, 1),
        "CGN, bank float32, resized": lambda: Made(bank(setup.cgn, storage="float32"), resized, 4),
    }
    rows: list[Row] = []
    for name, make in makers.items():
        try:
            way, generator = make(), torch.Generator().manual_seed(0)
            call = partial(way.draw, num, generator)
            call()
            written = way.form[0].itemsize
            moved = least_bytes(num, way.source.image_size, pixels, way.bytes_each, written)
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


def measure_passes(device: torch.device, sizes: Sizes, seconds: float) -> Row:
    """Compares the made half whose values the source maps with one that is mapped afterwards.

    The bank is full of noise, which costs as much to draw from as anything else.
    """
    match, generator = match_real(MEAN, STD), torch.Generator().manual_seed(0)
    ways: dict[str, Way] = {}
    for storage, each in (("uint8", 1), ("float32", 4)):
        bank = BankSource(Noise(sizes.pixels, device), sizes.bank, storage=storage)  # type: ignore[arg-type]
        for name, form in FORMS.items():
            base = f"bank {storage}, {name}, in two passes"
            for folded in (False, True):
                made = Made(bank, match, each, form, folded)
                step = partial(made.draw, sizes.batch, generator)
                ways[f"bank {storage}, {name}" if folded else base] = Way(
                    step, base if folded else None
                )
    return {
        "what": f"{sizes.batch} counterfactuals of {sizes.pixels} pixels drawn from a filled bank "
        "and matched to the real images; ratio to those that are matched in a pass of their own",
        "rows": measure_in_turns(
            ways, device, seconds, num_steps=sizes.steps, warm_up=sizes.warm_up
        ),
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
    masks: Tensor,
    fores: Tensor,
    backs: Tensor,
    slots: Tensor,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype = torch.float32,
    kept: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """What a made half must do, in plain operations: gather, blend, normalise, cast."""
    mask = masks[slots[0]].float() / 255
    image = torch.lerp(backs[slots[2]].float(), fores[slots[1]].float(), mask)
    return (image * scale + shift).to(dtype, memory_format=kept)


def measure_compiled(setup: Setup, seconds: float, copy_gb_per_s: float) -> Row:
    """Measures the made half of bytes: as plain operations, compiled, and as the library has it."""
    num, pixels, device = setup.sizes.batch, setup.sizes.pixels, setup.device
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> Tensor:
        shape = setup.sizes.bank, channels, pixels, pixels
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)

    kept = draw(1), draw(3), draw(3)
    side = setup.sizes.pixels
    affine = match_real(MEAN, STD).as_affine(side, side)
    assert affine is not None  # noqa: S101
    places = torch.randint(setup.sizes.bank, (3, num), generator=generator)
    scale, shift = (torch.tensor(each)[:, None, None].to(device) for each in affine.of_bytes())
    compiled = torch.compile(gather_and_compose) if device.type == "cuda" else None

    def operations(way: Callable[..., Tensor], dtype: torch.dtype, form: Any) -> Tensor:
        # Every way brings the slots to the device, as a stream does in each step.
        slots = places.to(device, non_blocking=True)
        return way(*kept, slots, scale, shift, dtype, form)

    def library(dtype: torch.dtype, form: Any) -> Tensor:
        shape = num, 3, pixels, pixels
        room = torch.empty(shape, dtype=dtype, device=device, memory_format=form)
        return compose_stored(*kept, places, room, affine)[0]

    ways: dict[str, tuple[Callable[[], Tensor], torch.dtype]] = {}
    for name, (dtype, form) in FORMS.items():
        ways[f"plain operations, {name}"] = (
            partial(operations, gather_and_compose, dtype, form),
            dtype,
        )
        ways[f"the library, {name}"] = partial(library, dtype, form), dtype
        if compiled is not None:
            ways[f"compiled, {name}"] = partial(operations, compiled, dtype, form), dtype
    rows: list[Row] = []
    expected = gather_and_compose(*kept, places.to(device), scale, shift)
    for name, (way, dtype) in ways.items():
        try:
            with torch.no_grad():
                difference = (way().float() - expected).abs().max().item()
                moved = least_bytes(num, pixels, pixels, 1, dtype.itemsize)
                row = _time(way, setup, seconds / len(ways), moved, copy_gb_per_s)
            rows.append({"way": name, "largest_difference": difference, **row})
        except Exception as error:
            rows.append({"way": name, "error": describe(error)})
    return {"what": "gather, blend, normalise and cast of bytes, without a source", "rows": rows}


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
