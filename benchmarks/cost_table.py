"""FLOPs and fewest bytes of each part of a mixed step, and the floor that they set on a device.

    python benchmarks/cost_table.py --into docs/performance.md

FLOPs are counted in the networks, bytes follow from the shapes; rates, and what a part really took
on the device, are those of gpu.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from gpu_table import markdown, put_into

from cgn_augment import load_cgn
from cgn_augment.cli.plan import imagenet_without_memory
from cgn_augment.sources.cost import BYTES, VALUES, bytes_of_factors, bytes_of_made, count_flops

RESULTS = Path(__file__).parent / "results"
NUM, SIDE = 256, 224
_FLOAT, _COLOURS = BYTES["float32"], 3
ONE_PASS = "all of it in one pass, from bytes to float32"
GENERATOR = "ImageNet CGN: all three factors"


class Part(NamedTuple):
    """Of a step with `NUM` counterfactuals of `SIDE` pixels, but for networks: of one image.

    Attributes:
        what: it is.
        flops: of convolutions and matrix products.
        moved: the fewest bytes that it reads and writes when it runs alone.
    """

    what: str
    flops: int = 0
    moved: int = 0


def find_parts() -> list[Part]:
    """Returns the parts, in the order of a step and then of the networks."""
    pixels = NUM * SIDE**2
    kept = bytes_of_factors(SIDE)
    placed = VALUES - _COLOURS  # a mask and a foreground
    small, large = (
        count_flops(load_cgn("double-colored-mnist")),
        count_flops(imagenet_without_memory()),
    )
    biggan = large["texture"]
    return [
        Part("gather from a bank of bytes", 0, 2 * NUM * kept),
        Part("move placed objects, mask and foreground, float32", 0, 2 * placed * _FLOAT * pixels),
        Part("compose, float32", 0, (VALUES + _COLOURS) * _FLOAT * pixels),
        Part("normalise, float32", 0, 2 * _COLOURS * _FLOAT * pixels),
        Part("cast to bfloat16", 0, _COLOURS * (_FLOAT + 2) * pixels),
        Part(ONE_PASS, 0, bytes_of_made(NUM, SIDE, SIDE)),
        *(Part(f"small CGN: {factor}", flops) for factor, flops in small.items()),
        Part("ImageNet CGN: a BigGAN, of which each factor has one", biggan),
        Part("ImageNet CGN: U2-Net, of the shape alone", large["shape"] - biggan),
        Part(GENERATOR, sum(large.values())),
    ]


def find_measured(parts: dict[str, Any]) -> dict[str, float]:
    """Returns microseconds of the parts that gpu.json has: a bank of parts, and our generator."""
    made = {row["way"]: row for row in parts["made"]["result"]["rows"]}
    rates = [
        row["images_per_second"]
        for row in parts["generator"]["result"]["rows"]
        if row["dtype"] == "bfloat16" and row["way"] != "published"
    ]
    return {ONE_PASS: 1e3 * made["parts, bank uint8"]["device_ms"], GENERATOR: 1e6 / max(rates)}


def table() -> str:
    """Returns the table in Markdown."""
    parts = json.loads((RESULTS / "gpu.json").read_text())["parts"]
    measured = find_measured(parts)
    ceilings = parts["ceilings"]["result"]
    copy, product = ceilings["copy_gb_per_s"], ceilings["matmul_tflops"]["bfloat16"]
    rows = []
    for part in find_parts():
        floor = part.flops / product / 1e6 + part.moved / copy / 1e3
        flops = part.flops / 1e9 if part.flops else None
        took = measured.get(part.what)
        moved = part.moved / 1e6 if part.moved else None
        rows.append([part.what, flops, moved, floor, took, took and took / floor])
    head = ["part", "GFLOP", "MB", "floor, microseconds", "measured", "times the floor"]
    return "\n".join(markdown(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, help="a page to write the table into")
    given = parser.parse_args()
    print(table())
    if given.into is not None:
        given.into.write_text(put_into(given.into.read_text(), "cost", table()))


if __name__ == "__main__":
    main()
