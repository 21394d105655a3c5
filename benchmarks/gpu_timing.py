"""Times work on a device: medians and quartiles of ways that take turns."""

from __future__ import annotations

import gc
import itertools
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

GIB = 2**30
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way of taking a step, and the way that it is compared to.

    Args:
        step: takes one step; whatever it starts on the device may still run when it returns.
        base: name of the way whose time is the divisor.
        share: of the steps of a block that this way takes; less than 1 for a slow one.
    """

    step: Callable[[], object]
    base: str | None = None
    share: float = 1.0


def synchronize(device: torch.device) -> None:
    """Waits for all that runs on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tidy(device: torch.device) -> None:
    """Gives memory back, so that parts of a benchmark do not meet each other's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Returns the most memory of tensors since the last reset, in GiB."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / GIB


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the quartiles.

    Examples:
        >>> spread([1.0, 2.0, 3.0])
        {'median': 2.0, 'quartile_1': 1.0, 'quartile_3': 3.0}
    """
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    return {"median": middle, "quartile_1": low, "quartile_3": high}


def time_calls(
    call: Callable[[], object],
    device: torch.device,
    seconds: float,
    *,
    least: int = 5,
    most: int = 100,
    warm_up: int = 3,
) -> list[float]:
    """Returns the seconds of one call each, one call after the other, without waiting between.

    On a GPU a call takes as long as the slower of the host, which launches, and the device.
    """
    for _ in range(warm_up):
        call()
    synchronize(device)
    end = time.perf_counter() + seconds
    if device.type != "cuda":
        found: list[float] = []
        while len(found) < least or (len(found) < most and time.perf_counter() < end):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        return found
    marks = [torch.cuda.Event(enable_timing=True)]
    marks[0].record()
    while len(marks) <= least or (len(marks) <= most and time.perf_counter() < end):
        call()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
        if len(marks) % 8 == 0:  # the host must not run ahead without end
            marks[-4].synchronize()
    synchronize(device)
    return [first.elapsed_time(last) / 1e3 for first, last in itertools.pairwise(marks)]


def time_on_device(call: Callable[[], object], device: torch.device, num: int = 10) -> float | None:
    """Returns the seconds of a call on the device alone, as if the host launched in no time.

    The device is kept busy first, while the host launches the calls. None without a GPU.
    """
    if device.type != "cuda":
        return None
    call()
    synchronize(device)
    start = time.perf_counter()
    call()
    launch = time.perf_counter() - start
    synchronize(device)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(min(1.0, 2 * num * launch + 1e-3) * 2e9))  # cycles of about 2 GHz
    first.record()
    for _ in range(num):
        call()
    last.record()
    synchronize(device)
    return first.elapsed_time(last) / 1e3 / num


def time_on_host(call: Callable[[], object], device: torch.device, num: int = 10) -> float:
    """Returns the median seconds until a call returns, on an idle device."""
    found = []
    for _ in range(num):
        synchronize(device)
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    synchronize(device)
    return statistics.median(found)


def count_waits(call: Callable[[], object], device: torch.device) -> int | None:
    """Returns how often a call makes the host wait for the device, as PyTorch counts it."""
    if device.type != "cuda":
        return None
    import warnings

    call()
    synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def measure_in_turns(
    ways: dict[str, Way],
    device: torch.device,
    seconds: float,
    *,
    num_steps: int,
    warm_up: int = 2,
    least_rounds: int = 3,
) -> list[Row]:
    """Measures ways in rounds, in each of which all take a block of steps, the first in turn.

    A slow moment of the machine meets all ways, so the ratios are taken within the rounds. The
    first steps of a block are not timed: they use up what was prefetched while others ran. A way
    that fails leaves its error.
    """
    ways, errors = dict(ways), {}
    found: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float | None] = dict.fromkeys(ways)
    began, rounds = time.perf_counter(), -1  # the first round warms up
    while True:
        names = list(ways)
        first = rounds % max(len(names), 1)
        for name in names[first:] + names[:first]:
            way = ways[name]
            steps = max(1, round(num_steps * way.share))
            try:
                block = _take_block(way, device, steps, warm_up)
            except Exception as error:
                errors[name] = describe(error)
                del ways[name]
                tidy(device)
                continue
            if rounds >= 0:
                found[name].append(block)
                peaks[name] = peak_gib(device)
        rounds += 1
        taken = time.perf_counter() - began
        if not ways or (rounds >= least_rounds and taken * (rounds + 2) / (rounds + 1) > seconds):
            break
    rows: list[Row] = []
    for name in found:
        if name in errors or not found[name]:
            rows.append({"way": name, "error": errors.get(name, "not measured")})
            continue
        row: Row = {"way": name, "ms": spread([1e3 * value for value in found[name]])}
        row["rounds"], row["peak_gib"] = len(found[name]), peaks[name]
        rows.append(row)
    for row in rows:
        base = ways[row["way"]].base if row["way"] in ways else None
        if base is not None and base in ways:
            pairs = zip(found[row["way"]], found[base], strict=False)
            row["base"], row["ratio"] = base, spread([own / plain for own, plain in pairs])
    return rows


def _take_block(way: Way, device: torch.device, num_steps: int, warm_up: int) -> float:
    for _ in range(warm_up):
        way.step()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for _ in range(num_steps):
        way.step()
    synchronize(device)
    return (time.perf_counter() - start) / num_steps


def describe(error: BaseException) -> str:
    """Returns the kind of an error, its text and where it arose."""
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-3:]
    places = " <- ".join(f"{each.filename.split('/')[-1]}:{each.lineno}" for each in where[::-1])
    return f"{type(error).__name__}: {str(error)[:600]} ({places})"


def measure_ceilings(device: torch.device, *, small: bool) -> Row:
    """Measures what the device can do at best: bytes copied and products of matrices.

    Returns:
        `copy_gb_per_s` (bytes read and written), `from_host_gb_per_s` (pinned) and, by type,
        `matmul_tflops`.
    """
    num = 2**20 if small else 2**30
    given = torch.randint(256, (num,), dtype=torch.uint8, device=device)
    taken = torch.empty_like(given)
    seconds = spread(time_calls(lambda: taken.copy_(given), device, 1.0, most=50))["median"]
    row: Row = {"copy_gb_per_s": 2 * num / seconds / 1e9}
    if device.type == "cuda":
        host = torch.randint(256, (num // 4,), dtype=torch.uint8).pin_memory()
        part = taken[: num // 4]
        call = lambda: part.copy_(host, non_blocking=True)  # noqa: E731
        row["from_host_gb_per_s"] = num / 4 / spread(time_calls(call, device, 1.0))["median"] / 1e9
    side = 64 if small else 8192
    kinds = {"float32": ("highest", torch.float32), "bfloat16": ("highest", torch.bfloat16)}
    if device.type == "cuda":
        kinds["tf32"] = ("high", torch.float32)
    row["matmul_tflops"] = {}
    before = torch.get_float32_matmul_precision()
    for name, (precision, dtype) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        try:
            first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(first)
            call = lambda a=first, b=second, c=out: torch.matmul(a, b, out=c)  # noqa: E731
            taken_by = spread(time_calls(call, device, 1.0, most=20))["median"]
        finally:
            torch.set_float32_matmul_precision(before)
        row["matmul_tflops"][name] = 2 * side**3 / taken_by / 1e12
    return row


def describe_machine(device: torch.device) -> Row:
    """Returns what the figures were measured on."""
    row: Row = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        row["card"], row["memory_gib"] = facts.name, round(facts.total_memory / GIB, 1)
        row["multiprocessors"], row["cuda"] = facts.multi_processor_count, torch.version.cuda
        row["cudnn"] = torch.backends.cudnn.version()
        row["settings"] = read_card()
    return row


def read_card() -> dict[str, str]:
    """Returns driver, clocks and temperature, as the card says; it changes nothing."""
    asked = (
        "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,power.draw,"
        "temperature.gpu,utilization.gpu,memory.used"
    )
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": describe(error)}
    values = answer.stdout.strip().splitlines()[0].split(", ")
    return dict(zip(asked.split(","), values, strict=False))
