"""What counterfactuals cost a training loop: a filled bank, fresh images, and the naive way.

    python benchmarks/stream.py --cgn PATH_OF_A_CGN
    python benchmarks/stream.py --passes

Every result is a ratio to a baseline of the same run. Everything is measured in rounds: in a round
each way trains (or generates) for some steps in turn, so that a slow moment of the machine affects
all of them; ratios are taken within rounds, and their median counts.

- plain: the classifier's training step on 50 000 counterfactuals made in advance, from an in-memory
  TensorDataset in a plain DataLoader.
- bank: the same steps on counterfactuals alone, from a filled bank, through CounterfactualDataset.
- refreshed bank: the same, with 8 factors of each kind replaced per step.
- either of them with prefetch: a thread draws ahead (`prefetch=2`).
- naive: the whole CGN runs twice per batch, as in the published code, then the same training step.
- fresh: images per second of FreshSource against the naive way, without training.

`--passes` measures another thing: 64 counterfactuals of 224 pixels from a filled bank, normalised
and cast while they are composed, against a pass of its own for that.
"""

from __future__ import annotations

import argparse
import copy
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
from gpu_made import measure_passes
from gpu_setup import Sizes
from gpu_table import ways_as_table
from gpu_timing import describe_machine
from published_layers import use_published_layers
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from cgn_augment import (
    BankSource,
    CGNError,
    CounterfactualDataset,
    FreshSource,
    Source,
    load_cgn,
)
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from train_generator.classifier import MNISTClassifier, train_step

BATCH = 64
AHEAD = 2
"""Steps that a stream with prefetch makes ahead."""
RESULTS = Path(__file__).parent / "results"


def run_cgn_naively(cgn: SmallCGN, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs all three mechanisms, then tiles each texture and crops it, image by image."""
    mask = cgn.shape(torch.randn(len(y), cgn.noise_dim), y).repeat(1, 3, 1, 1)
    noise = torch.randn(len(y), cgn.noise_dim)
    foreground, background = cgn.texture(noise, y), cgn.background(noise, y)
    return mask, crop_tiles(foreground), crop_tiles(background)


def crop_tiles(images: Tensor) -> Tensor:
    size = images.shape[-1]
    tiled = images.repeat(1, 1, 2, 2)
    corners = torch.randint(size + 1, (len(images), 2)).tolist()
    crops = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(tiled, corners, strict=True)
    ]
    return torch.stack(crops)


@torch.no_grad()
def draw_naively(cgn: SmallCGN) -> tuple[Tensor, Tensor]:
    """The shape of one pass over the CGN in the foreground and background of a second one."""
    y = torch.randint(cgn.num_classes, (BATCH,))
    mask, _, _ = run_cgn_naively(cgn, y)
    _, foreground, background = run_cgn_naively(cgn, y[torch.randperm(BATCH)])
    return compose(mask, foreground, background), y


def forever(batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches


def trainer(batches: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    torch.manual_seed(0)
    model = MNISTClassifier().train()
    optimizer = torch.optim.Adadelta(model.parameters())
    return lambda: void(train_step(model, optimizer, *next(batches)))


def void(_: object) -> None:
    """Drops a result."""


def make_dataset(cgn: SmallCGN, num: int = 50_000) -> TensorDataset:
    """Counterfactuals in memory: what no generator costs, on the very same kind of image."""
    made = BankSource(cgn, size=2000).sample(num, torch.Generator().manual_seed(0))
    return TensorDataset(made.images, made.shape)


def make_stream(dataset: TensorDataset, source: Source, prefetch: int) -> CounterfactualDataset:
    """A stream whose batches hold nothing but counterfactuals."""
    return CounterfactualDataset(
        dataset,
        source,
        batch_size=BATCH,
        fraction=1.0,
        mix="replace",
        drop_last=True,
        prefetch=prefetch,
    )


def make_ways(cgn: SmallCGN) -> dict[str, Callable[[], None]]:
    dataset = make_dataset(cgn)
    plain = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)

    def train_on(refresh: int, prefetch: int) -> Callable[[], None]:
        source = BankSource(cgn, size=2000, refresh=refresh)
        return trainer(forever(make_stream(dataset, source, prefetch)))

    published = copy.deepcopy(cgn).to(memory_format=torch.contiguous_format)
    use_published_layers(published)
    naive = iter(lambda: draw_naively(published), None)
    source, generator = FreshSource(cgn), torch.Generator().manual_seed(0)
    return {
        "plain training": trainer(forever(plain)),
        "bank training": train_on(refresh=0, prefetch=0),
        "bank training, prefetch": train_on(refresh=0, prefetch=AHEAD),
        "refreshed bank training": train_on(refresh=8, prefetch=0),
        "refreshed bank training, prefetch": train_on(refresh=8, prefetch=AHEAD),
        "naive training": trainer(naive),
        "naive generation": lambda: void(draw_naively(published)),
        "fresh generation": lambda: void(source.sample(BATCH, generator)),
    }


def measure(
    ways: dict[str, Callable[[], None]], num_rounds: int, num_steps: int
) -> dict[str, list[float]]:
    """Returns seconds per step of each way in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        for _ in range(3):  # warm-up; fills the bank
            step()
    names = list(ways)
    for number in tqdm(range(num_rounds), desc="rounds"):
        first = number % len(names)  # each way goes first in turn
        for name in names[first:] + names[:first]:
            steps = num_steps // 3 if name.startswith("naive") else num_steps  # these take long
            start = time.perf_counter()
            for _ in range(steps):
                ways[name]()
            seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "quartile_1": low, "quartile_3": high}


def summarize(seconds: dict[str, list[float]]) -> dict[str, Any]:
    plain = seconds["plain training"]
    trained = [name for name in seconds if "training" in name and name != "plain training"]
    return {
        **{f"{name} / plain training": ratio(seconds[name], plain) for name in trained},
        "naive generation / plain training": ratio(seconds["naive generation"], plain),
        "fresh images per second / naive images per second": ratio(
            seconds["naive generation"], seconds["fresh generation"]
        ),
    }


def report(
    out: Path,
    command: str,
    ratios: dict[str, Any],
    seconds: dict[str, list[float]],
    **facts: object,
) -> None:
    """Writes what was measured as JSON, and prints the ratios."""
    result = {
        "what": "seconds per step of 64 images, and ratios within a round",
        "command": command,
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "device": "cpu",
        },
        **facts,
        "ratios": ratios,
        "seconds_per_step": {name: statistics.median(values) for name, values in seconds.items()},
        "seconds_per_step_by_round": seconds,
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in ratios.items():
        spread = f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}"
        print(f"{name:50} {value['median']:.3f}   (quartiles {spread})")


def report_passes(out: Path, seconds: float) -> None:
    """Measures and writes what a pass over the images costs, and prints the ratios."""
    load = os.getloadavg()
    sizes = Sizes(batch=BATCH, bank=BATCH, steps=2, warm_up=1)
    device = torch.device("cpu")
    result = {
        "command": f"python benchmarks/stream.py --passes --seconds {seconds:g}",
        "machine": {**describe_machine(device), "load_average_before": load},
        **measure_passes(device, sizes, seconds),
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(ways_as_table(result)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cgn", help="checkpoint of a small CGN")
    what.add_argument("--passes", action="store_true", help="what a pass over the images costs")
    parser.add_argument("--rounds", type=int, default=50, help="default: 50")
    parser.add_argument("--steps", type=int, default=12, help="of each way in a round; default: 12")
    parser.add_argument("--seconds", type=float, default=60, help="of --passes; default: 60")
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    arguments = parser.parse_args()
    if arguments.passes:
        report_passes(arguments.out or RESULTS / "passes.json", arguments.seconds)
        return
    ways = make_ways(load_cgn(arguments.cgn))
    seconds = measure(ways, arguments.rounds, arguments.steps)
    flags = f"--rounds {arguments.rounds} --steps {arguments.steps}"
    command = f"python benchmarks/stream.py {flags} --cgn {Path(arguments.cgn).name}"
    report(arguments.out or RESULTS / "stream.json", command, summarize(seconds), seconds)


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
