"""What counterfactuals of photographs cost a training loop, at 224 and at 96 pixels.

    python SOME/make-photos PHOTOS
    cgn-augment parts PHOTOS/train PARTS --masks PHOTOS/train_masks
    python benchmarks/photographs_stream.py PHOTOS PARTS

Each result is a ratio to a plain loop of the same run over an `ImageFolder` (ToTensor, Normalize).
In a round the ways take turns, in changing order, so that a slow moment of the machine affects all
of them; ratios are taken within rounds, and their median counts. The first steps of a way in a
round are not timed: they use up what its workers had read ahead.

- images per second: a stream of ratio 1.0 (64 real images and 64 counterfactuals per step) over the
  plain loader's (64 real images per step), both with 0 or 2 workers and without a model; from a
  filled bank of parts that keeps its contents (refresh 0) or replaces 16 of each per step.
- training: a step of ResNet-18 on 32 real images of 96 pixels and 32 counterfactuals over one on 64
  real images, both with two workers; also with `prefetch=2`, a thread that draws ahead.

Seconds are wall time. Without workers there is processor time too (`cpu`), of all threads, which
other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2
from tqdm import tqdm

from cgn_augment import BankSource, CGNError, CounterfactualDataset, load_parts, match_real

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64
WARM_UP = 3
RESULTS = Path(__file__).parent / "results"

Way = tuple[Iterator[Any], Callable[[Any], None] | None, str | None]
"""Batches, what trains on them, and the way that they are compared to."""


def folder(photos: Path, size: int | None = None) -> ImageFolder:
    resize = [] if size is None else [v2.Resize(size, antialias=True)]
    steps = [*resize, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return ImageFolder(photos / "train", v2.Compose(steps))


def plain(images: ImageFolder, workers: int, batch: int) -> Iterator[Any]:
    """Batches without an end, so that no way of measuring meets the end of an epoch."""
    loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=workers)
    while True:
        yield from loader


def mixed(
    images: ImageFolder, bank: BankSource, workers: int, batch: int, prefetch: int = 0
) -> Iterator[Any]:
    stream = CounterfactualDataset(
        images,
        bank,
        batch_size=batch,
        num_workers=workers,
        ratio=1.0,
        drop_last=True,
        transform=match_real(MEAN, STD),
        prefetch=prefetch,
    )
    while True:
        yield from stream


def run(
    batches: Iterator[Any], num_steps: int, train: Callable[[Any], None] | None
) -> dict[str, float]:
    """Takes steps; returns seconds and this process's processor seconds of an image."""
    for _ in range(WARM_UP):
        next(batches)
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        batch = next(batches)
        images += len(batch[0])
        if train is not None:
            train(batch)
    ended = time.perf_counter(), time.process_time()
    return {"seconds": (ended[0] - start) / images, "cpu": (ended[1] - cpu) / images}


def trainer() -> Callable[[Any], None]:
    torch.manual_seed(0)
    model = resnet18(num_classes=8).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(batch: Any) -> None:
        images, labels = batch
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def make_ways(photos: Path, parts: Path, size: int) -> dict[str, Way]:
    large, small = folder(photos), folder(photos, 96)

    def bank(image_size: int, refresh: int) -> BankSource:
        source = load_parts(parts, image_size, class_to_idx=large.class_to_idx)
        return BankSource(source, size, refresh)

    ways: dict[str, Way] = {}
    for workers in (0, 2):
        base = f"plain, {workers} workers"
        ways[base] = plain(large, workers, BATCH), None, None
        for refresh in (0, 16):
            batches = mixed(large, bank(224, refresh), workers, BATCH)
            ways[f"mixed, {workers} workers, refresh {refresh}"] = batches, None, base
    train = trainer()
    ways["plain training"] = plain(small, 2, BATCH), train, None
    for refresh, prefetch in ((0, 0), (0, 2), (16, 0), (16, 2)):
        half = mixed(small, bank(96, refresh), 2, BATCH // 2, prefetch)
        ahead = f", prefetch {prefetch}" if prefetch else ""
        ways[f"mixed training, refresh {refresh}{ahead}"] = half, train, "plain training"
    return ways


def measure(ways: dict[str, Way], rounds: int, num_steps: int) -> dict[str, list[dict[str, float]]]:
    names = list(ways)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for batches, _, _ in ways.values():
        next(batches)  # starts the workers, and fills the bank
    for number in tqdm(range(rounds), desc="rounds"):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            batches, train, _ = ways[name]
            found[name].append(run(batches, num_steps, train))
    return found


def summarize(
    ways: dict[str, Way], found: dict[str, list[dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """Returns ratios: of images per second without a model, of seconds per step with one."""
    ratios = {}
    for name, (_, train, base) in ways.items():
        if base is None:
            continue
        pairs = [
            (own, plain) if train is not None else (plain, own)
            for own, plain in zip(found[name], found[base], strict=True)
        ]
        of_seconds = [above["seconds"] / below["seconds"] for above, below in pairs]
        low, _, high = statistics.quantiles(of_seconds, n=4)
        ratios[name] = {
            "median": statistics.median(of_seconds),
            "quartile_1": low,
            "quartile_3": high,
        }
        if "0 workers" in name:
            of_cpu = [above["cpu"] / below["cpu"] for above, below in pairs]
            ratios[name]["median_of_cpu"] = statistics.median(of_cpu)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder that make-photos wrote")
    parser.add_argument("parts", type=Path, help="folder that cgn-augment parts wrote of it")
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--steps", type=int, default=12, help="of a way in a round; default: 12")
    parser.add_argument("--bank", type=int, default=2000, help="default: 2000")
    parser.add_argument("--out", type=Path, default=RESULTS / "photographs_stream.json")
    arguments = parser.parse_args()
    load = os.getloadavg()
    ways = make_ways(arguments.photos, arguments.parts, arguments.bank)
    found = measure(ways, arguments.rounds, arguments.steps)
    ratios = summarize(ways, found)
    result = {
        "what": "images per second over the plain loader's; seconds of a training step over the "
        "plain one's; medians of ratios within a round",
        "command": "python benchmarks/photographs_stream.py PHOTOS PARTS "
        f"--rounds {arguments.rounds} --steps {arguments.steps} --bank {arguments.bank}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "device": "cpu",
            "load_average_before": load,
        },
        "ratios": ratios,
        "per_image": {
            name: {key: statistics.median(each[key] for each in values) for key in values[0]}
            for name, values in found.items()
        },
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in ratios.items():
        spread = f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}"
        cpu = f"; cpu {value['median_of_cpu']:.3f}" if "median_of_cpu" in value else ""
        print(f"{name:36} {value['median']:.3f}   (quartiles {spread}{cpu})")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
