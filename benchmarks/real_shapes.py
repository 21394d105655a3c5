"""What counterfactuals of the user's own images cost a training loop.

    python benchmarks/real_shapes.py --cgn NAME --masker NAME

As in benchmarks/stream.py: in rounds, each way in turn, ratios within rounds.

- plain: the classifier's training step on counterfactuals made in advance, from an in-memory
  TensorDataset in a plain DataLoader.
- real shapes: the same steps only on counterfactuals of the batch's own images, whose masks are
  found at every step; textures and backgrounds come from a filled bank.
- cached real shapes: the same, with `cache_masks=True`, once every item's mask is known.
- either of them with prefetch: a thread draws ahead (`prefetch=2`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from stream import (
    AHEAD,
    BATCH,
    RESULTS,
    forever,
    make_dataset,
    make_stream,
    measure,
    ratio,
    report,
    trainer,
)
from torch.utils.data import DataLoader

from cgn_augment import BankSource, CGNError, RealShapeSource, load_cgn, load_masker
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import UNetMasker


def make_ways(cgn: SmallCGN, masker: UNetMasker) -> dict[str, Callable[[], None]]:
    dataset = make_dataset(cgn)
    plain = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)

    def train_on(prefetch: int, *, cached: bool) -> Callable[[], None]:
        source = RealShapeSource(masker, BankSource(cgn, size=2000), cache_masks=cached)
        stream = make_stream(dataset, source, prefetch)
        if cached:
            for _ in stream:  # an epoch finds all masks
                pass
        return trainer(forever(stream))

    return {
        "plain training": trainer(forever(plain)),
        "real shapes training": train_on(0, cached=False),
        "real shapes training, prefetch": train_on(AHEAD, cached=False),
        "cached real shapes training": train_on(0, cached=True),
        "cached real shapes training, prefetch": train_on(AHEAD, cached=True),
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
        for name in seconds
        if name != "plain training"
    }
    flags = f"--rounds {arguments.rounds} --steps {arguments.steps}"
    names = f"--cgn {Path(arguments.cgn).name} --masker {Path(arguments.masker).name}"
    command = f"python benchmarks/real_shapes.py {flags} {names}"
    report(arguments.out, command, ratios, seconds, masker_width=masker.width)


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
