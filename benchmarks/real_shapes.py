"""What counterfactuals of the user's own images cost a training loop.

    python benchmarks/real_shapes.py --cgn NAME --masker NAME

As benchmarks/stream.py: in rounds, each way in turn, ratios within the rounds.

- plain: the classifier's training step on counterfactuals that were made beforehand, from an
  in-memory TensorDataset in a plain DataLoader.
- real shapes: the same steps on counterfactuals of the batch's own images alone, whose masks are
  found at every step; textures and backgrounds come from a filled bank.
- cached real shapes: the same, with `cache_masks=True`, once every item's mask is known.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from stream import BATCH, RESULTS, forever, make_dataset, measure, ratio, trainer
from torch.utils.data import DataLoader

from cgn_augment import (
    BankSource,
    CGNError,
    CounterfactualDataset,
    RealShapeSource,
    SmallCGN,
    UNetMasker,
    load_cgn,
    load_masker,
)


def make_ways(cgn: SmallCGN, masker: UNetMasker) -> dict[str, Callable[[], None]]:
    dataset = make_dataset(cgn)
    plain = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)

    def stream(cache_masks: bool) -> CounterfactualDataset:
        source = RealShapeSource(masker, BankSource(cgn, size=2000), cache_masks=cache_masks)
        return CounterfactualDataset(
            dataset, source, batch_size=BATCH, fraction=1.0, mix="replace", drop_last=True
        )

    cached = stream(cache_masks=True)
    for _ in cached:  # an epoch finds all masks
        pass
    return {
        "plain training": trainer(forever(plain)),
        "real shapes training": trainer(forever(stream(cache_masks=False))),
        "cached real shapes training": trainer(forever(cached)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cgn", default="wildlife-mnist", help="default: %(default)s")
    parser.add_argument("--masker", default="wildlife-mnist", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=26, help="default: 26")
    parser.add_argument("--steps", type=int, default=30, help="of each way in a round; default: 30")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_shapes.json")
    arguments = parser.parse_args()
    masker = load_masker(arguments.masker)
    seconds = measure(make_ways(load_cgn(arguments.cgn), masker), arguments.rounds, arguments.steps)
    plain = seconds["plain training"]
    ratios = {
        f"{name} / plain training": ratio(seconds[name], plain)
        for name in ("real shapes training", "cached real shapes training")
    }
    result = {
        "what": "seconds per step of 64 images, and ratios within a round",
        "command": f"python benchmarks/real_shapes.py --rounds {arguments.rounds} "
        f"--steps {arguments.steps} --cgn {Path(arguments.cgn).name} "
        f"--masker {Path(arguments.masker).name}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "device": "cpu",
        },
        "masker_width": masker.width,
        "ratios": ratios,
        "seconds_per_step": {name: statistics.median(values) for name, values in seconds.items()},
        "seconds_per_step_by_round": seconds,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in ratios.items():
        spread = f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}"
        print(f"{name:50} {value['median']:.3f}   (quartiles {spread})")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
