"""The cost of a large set of photographs: taking it apart, its size on disk, streaming from it.

    python SOME/make-photos PHOTOS --per-class 6250
    python benchmarks/parts_large.py PHOTOS OUT

Photographs are those of make-photos: 50 000 of 224 pixels. They are taken apart with backgrounds
filled by copies, a worker per core; an existing set is not made again. Then a stream of them is
read without a model: 64 photographs and 64 counterfactuals per step, from a bank of 2000 parts with
16 replaced per step. Memory is the resident size of the process, after each tenth of the steps; it
must not grow once the bank is full.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from parts import RESULTS, describe, in_process, write
from photographs_stream import BATCH, MEAN, STD, folder
from tqdm import tqdm

from cgn_augment import BankSource, CounterfactualDataset, load_parts, match_real

MIB = 2**20


def stream(photos: Path, parts: Path, steps: int, bank: int) -> dict[str, Any]:
    """Reads a stream, and says what memory it took over the steps, in MiB."""
    torch.set_num_threads(1)
    process = psutil.Process()
    real = folder(photos)
    source = BankSource(load_parts(parts, 224, class_to_idx=real.class_to_idx), bank, refresh=16)
    batches = CounterfactualDataset(
        real, source, batch_size=BATCH, ratio=1.0, transform=match_real(MEAN, STD)
    )
    sizes, begun = [], time.perf_counter()
    every = (batch for _ in itertools.count() for batch in batches)
    for step, _ in enumerate(tqdm(itertools.islice(every, steps), total=steps), 1):
        if step % max(steps // 10, 1) == 0 or step == 1:
            sizes.append(round(process.memory_info().rss / MIB))
    return {
        "steps": steps,
        "bank": bank,
        "resident MiB": sizes,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "images a second": 2 * BATCH * steps / (time.perf_counter() - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder that make-photos wrote")
    parser.add_argument("parts", type=Path, help="folder for their parts, or with them")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--bank", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS / "parts_large.json")
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    if not (given.parts / "manifest.json").exists():
        found["environment"] = describe()
        found["parts"] = in_process(write, given.photos, given.parts, "copy")
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    found["stream"] = in_process(stream, given.photos, given.parts, given.steps, given.bank)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
