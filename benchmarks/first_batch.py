"""Time from `python` to the first mixed batch, for each source, against a plain loader's first one.

    python benchmarks/first_batch.py

Each way is a new process, in turn, so that a slow moment of the machine meets all; ratios are taken
within a round. One round before, not counted, brings the files into the system's memory.
"""

from __future__ import annotations

import argparse
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

import numpy as np
from gpu_table import markdown, put_into
from PIL import Image
from tqdm import tqdm

from cgn_augment import load_cgn
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.writing import write_parts
from cgn_augment.shards import ShardConfig, render_shards

RESULT = Path(__file__).parent / "results" / "first_batch.json"
NAME = "first_batch.json"
CGN = "double-colored-mnist"

REAL = """
import torch
from torch.utils.data import DataLoader, TensorDataset
real = TensorDataset(torch.rand(640, 3, 32, 32) * 2 - 1, torch.arange(640) % 10)
"""
PLAIN = f"{REAL}next(iter(DataLoader(real, batch_size=64, shuffle=True)))"
MIXED = f"""{REAL}
from cgn_augment import BankSource, CounterfactualDataset, FreshSource, RealShapeSource
from cgn_augment import ShardSource, load_cgn, load_masker, load_parts
stream = CounterfactualDataset(real, {{}}, batch_size=64, value_range=(-1, 1), ratio=1.0)
next(iter(stream))
"""
_PARTS = 'BankSource(load_parts("{folder}/parts", 32), size=200)'
WAYS = {
    "plain loader": PLAIN,
    "`FreshSource`": MIXED.format(f'FreshSource(load_cgn("{CGN}"))'),
    "`BankSource` of a CGN, 2000 of each": MIXED.format(
        f'BankSource(load_cgn("{CGN}"), size=2000)'
    ),
    "`RealShapeSource`, textures of that bank": MIXED.format(
        f'RealShapeSource(load_masker("{CGN}"), BankSource(load_cgn("{CGN}"), size=2000), '
        "gate=None)"
    ),
    "`ShardSource`, 512 images held": MIXED.format('ShardSource("{folder}/shards", size=512)'),
    "`BankSource` of parts, 200 of each": MIXED.format(_PARTS),
}


def prepare(folder: Path) -> None:
    """Writes the shards and the parts that two of the ways read."""
    render_shards(load_cgn(CGN), folder / "shards", ShardConfig(1000, format="jpg", shard_size=100))
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[..., 3] = 0
    for label in range(10):
        place = folder / "photos" / str(label)
        place.mkdir(parents=True)
        for number in range(10):
            image = pixels.copy()
            image[12 + number : 30, 20:40] = 20 * label, 10 * number, 20, 255
            Image.fromarray(image).save(place / f"{number}.png")
    write_parts(folder / "photos", folder / "parts", PartConfig(masks="alpha"), num_workers=0)


def run_way(code: str, folder: Path) -> float:
    """Returns the seconds of a new process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code.replace("{folder}", str(folder))], check=True)
    return time.perf_counter() - start


def summarize(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Returns for each way its median seconds, and how they compare with the plain ones."""
    plain = next(iter(seconds.values()))
    rows = []
    for way, values in seconds.items():
        ratios = [own / base for own, base in zip(values, plain, strict=True)]
        more = [own - base for own, base in zip(values, plain, strict=True)]
        rows.append(
            {
                "way": way,
                "seconds": statistics.median(values),
                "ratio": statistics.median(ratios),
                "more": statistics.median(more),
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """Returns the table of docs/performance.md."""
    rows = [[row["way"], row["seconds"], row["more"], row["ratio"]] for row in result["rows"]]
    rows[0][2:] = [None, None]
    return "\n".join(markdown(["first batch of", "seconds", "more", "ratio"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="default: 8")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--into", type=Path, help="a page to write the table into")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        turns = [(number, way) for number in range(given.rounds + 1) for way in WAYS]
        for number, way in tqdm(turns, desc="processes"):
            taken = run_way(WAYS[way], Path(name))
            if number > 0:
                seconds[way].append(taken)
    result = {
        "what": "seconds of a new process up to its first batch; ratios and what is more than "
        "plain: medians within rounds",
        "command": f"python benchmarks/first_batch.py --rounds {given.rounds}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load at the start": load,
        },
        "rows": summarize(seconds),
        "seconds by round": seconds,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if given.into is not None:
        given.into.write_text(put_into(given.into.read_text(), NAME, table(result)))


if __name__ == "__main__":
    main()
