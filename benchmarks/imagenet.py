"""The cost of one counterfactual at ImageNet's size, against the published way of making it.

    python benchmarks/imagenet.py

Full size, 256x256 pixels, float32, one image at a time, on the CPU. Both ways have the same random
weights, which do not change the cost. Everything is measured in rounds in which both ways take
turns, so that a slow moment of the machine affects both; ratios are taken within rounds. Both wall
time and processor time (of all threads) are given; other programs disturb the latter less.

- published: four BigGANs of the package as it is, with spectral norms computed at every call, and
  U2-Net on the images of two of them.
- ours: `load_cgn` on a file of the published form, then the three mechanisms.

Both make the same image; a difference above 1e-4 fails the benchmark. FLOPs count convolutions and
matrix products. "half precision" is the difference of images and masks in bfloat16 and float16 from
those in float32: root mean square and maximum. Memory is the peak of the process while ours is
loaded and while it draws, minus what it held before, in its own process. Libraries were imported
before.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from imagenet_speed import draw
from memory import peak
from published_layers import PublishedCGN
from torch import Tensor

from cgn_augment import load_cgn
from cgn_augment.generators import ImageNetCGN
from cgn_augment.generators.layout import without_memory
from cgn_augment.sources.cost import count_flops_of

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4
MIB = 2**20


def make_published(seed: int) -> PublishedCGN:
    torch.manual_seed(seed)
    return PublishedCGN()


def measure_product(size: int = 1024, calls: int = 5) -> float:
    """Returns the FLOP/s of the machine's own product of matrices, of processor time."""
    first, second = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(calls):
        start = time.process_time()
        first @ second
        times.append(time.process_time() - start)
    return float(2 * size**3 / min(times))


def measure_memory(path: str) -> None:
    """Prints the memory of loading and drawing, in MiB; runs in a process of its own."""
    with without_memory():
        ImageNetCGN()  # imports what its parts need
    before = peak()
    cgn = load_cgn(path)
    loaded = peak()
    weights = sum(v.numel() * v.element_size() for v in cgn.state_dict().values()) / MIB
    noise = cgn.draw_noise(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        draw(cgn, noise, torch.tensor([207]))
    print(json.dumps({"weights": weights, "loading": loaded - before, "drawing": peak() - before}))


def read_memory(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory", str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    memory: dict[str, float] = json.loads(answer)
    return {name: round(value) for name, value in memory.items()}


def measure_half(cgn: ImageNetCGN, noise: Tensor, y: Tensor) -> dict[str, Any]:
    """Returns how far half precision is from float32, and the spread of the images."""
    kinds = {"image": draw, "mask": lambda network, *given: network.shape(*given)}
    exact = {kind: call(cgn, noise, y) for kind, call in kinds.items()}
    found: dict[str, Any] = {"standard deviation of the image": exact["image"].std().item()}
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(cgn).to(dtype)
        for kind, call in kinds.items():
            apart = (call(half, noise, y) - exact[kind]).abs()
            name = f"{kind}, {str(dtype).removeprefix('torch.')}"
            found[name] = {"rms": apart.square().mean().sqrt().item(), "most": apart.max().item()}
    return found


def ratio(times: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [o / p for o, p in zip(times["ours"], times["published"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": statistics.median(ratios), "quartiles": [quartiles[0], quartiles[2]]}


def measure(rounds: int, seed: int) -> dict[str, Any]:
    published = make_published(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cgn.pth"
        torch.save(published.state_dict(), path)
        memory = read_memory(path)
        cgn = load_cgn(path)
    if not isinstance(cgn, ImageNetCGN):
        raise SystemExit("the file was taken for one of a small CGN")
    noise, y = cgn.draw_noise(1, torch.Generator().manual_seed(seed)), torch.tensor([207])
    ways = {
        "published": lambda: published(noise, y, 1.0),
        "ours": lambda: draw(cgn, noise, y),
    }
    with torch.no_grad():
        difference = (ways["published"]() - ways["ours"]()).abs().max().item()
        if difference > TOLERANCE:
            raise SystemExit(f"the two ways differ by {difference}")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter(), time.process_time()
                way()
                seconds[name].append(time.perf_counter() - start[0])
                processor[name].append(time.process_time() - start[1])
        flops = {
            "published": count_flops_of(ways["published"]),
            "ours": count_flops_of(ways["ours"]),
        }
        half = measure_half(cgn, noise, y)
    taken = {name: statistics.median(values) for name, values in processor.items()}
    return {
        "ratio": ratio(seconds),
        "processor_ratio": ratio(processor),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "processor_seconds": taken,
        "flops": flops,
        "flops_per_second": {name: flops[name] / taken[name] for name in ways},
        "flops_per_second_of_a_product": measure_product(),
        "largest_difference": difference,
        "half_precision": half,
        "memory_mib": memory,
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/imagenet.py "
        f"--rounds {rounds}",
        "rounds": {"seconds": seconds, "processor_seconds": processor},
        "environment": {
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "load_before": os.getloadavg()[0],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "imagenet.json")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory is not None:
        measure_memory(arguments.memory)
        return
    result = measure(arguments.rounds, arguments.seed)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=2))


if __name__ == "__main__":
    main()
