"""What a million and a billion images cost, from the rates that the other benchmarks measured.

    python benchmarks/scale.py --measure        # bytes of an image by format, a few seconds
    python benchmarks/scale.py --into docs/scale.md

Nothing is timed here: hours are computed from the results of the others, and bytes are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, get_args

from gpu_table import markdown, put_into

from cgn_augment import load_cgn
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards.config import ImageFormat

RESULTS = Path(__file__).parent / "results"
CGN = "double-colored-mnist"
MILLION, BILLION = 10**6, 10**9
_HOUR = 3600


class Cost(NamedTuple):
    """Of one image.

    Attributes:
        what: is done.
        unit: "core" of the CPU, or "GPU".
        seconds: of one unit.
        source: the file that the rate is from.
    """

    what: str
    unit: str
    seconds: float
    source: str


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def find_costs() -> list[Cost]:
    """Returns what each kind of work takes, as measured."""
    apart = read("parts_large.json")["parts"]["CPU ms an image"] / 1000
    quick = read("parts.json")["none"]["all"]["CPU ms an image"] / 1000
    masks = read("mask_rates.json")
    cores, rate = masks["environment"]["threads"], masks["rows"]
    grabcut = cores / rate["grabcut"]["images_per_second"]
    salient = cores / rate["u2net.onnx"]["images_per_second"]
    written = read("shards.json")["write"]
    cores = written["environment"]["cores"]
    small = cores * statistics.median(written["seconds_per_image"]["write"])
    large = read("imagenet.json")["processor_seconds"]["ours"]
    rows = read("gpu.json")["parts"]["generator"]["result"]["rows"]
    best = {
        kind: max(
            row.get("images_per_second", 0)
            for row in rows
            if row["dtype"] == kind and row["way"] != "published"
        )
        for kind in ("float32", "bfloat16")
    }
    return [
        Cost("take photographs apart, 224 pixels, `--fill copy`", "core", apart, "parts_large"),
        Cost("the same, `--fill none`", "core", quick, "parts"),
        Cost("find masks with `grabcut`, 112 pixels", "core", grabcut, "mask_rates"),
        Cost("find masks with `u2net.onnx`, 320 pixels", "core", salient, "mask_rates"),
        Cost("render a small CGN, 32 pixels, jpg", "core", small, "shards"),
        Cost("draw the ImageNet CGN, 256 pixels, float32", "core", large, "imagenet"),
        *(
            Cost(f"the same on an H200, {kind}", "GPU", 1 / rate, "gpu")
            for kind, rate in best.items()
        ),
    ]


def find_bytes() -> list[tuple[str, float]]:
    """Returns the bytes of an image in a set, by what it holds."""
    parts = read("parts_large.json")["parts"]["kB an image on disk"] * 1000
    small = read("scale.json")["bytes_an_image"]
    raw = 3 * 256**2
    return [
        ("parts of a photograph, 224 pixels", parts),
        *((f"32 pixels, `{kind}`", float(small[kind])) for kind in get_args(ImageFormat)),
        ("256 pixels, `npy` (float32, by its definition)", 4.0 * raw),
    ]


def tables() -> str:
    """Returns both tables in Markdown."""
    work = [
        [
            cost.what,
            _scaled(cost.seconds * MILLION / _HOUR, f"{cost.unit}-hours"),
            _scaled(cost.seconds * BILLION / _HOUR, f"{cost.unit}-hours"),
            f"[{cost.source}.json](../benchmarks/results/{cost.source}.json)",
        ]
        for cost in find_costs()
    ]
    space = [
        [what, f"{size / 1000:.3g} kB", f"{size / 1e3:.3g} GB", f"{size / 1e3:.3g} TB"]
        for what, size in find_bytes()
    ]
    lines = [
        *markdown(["work", "a million images", "a billion", "rate from"], work),
        "",
        *markdown(["an image in a set", "bytes", "a million", "a billion"], space),
    ]
    return "\n".join(lines)


def _scaled(hours: float, unit: str) -> str:
    return f"{hours:.2g} {unit}" if hours < 100 else f"{float(f'{hours:.2g}'):,.0f} {unit}"


def measure(num: int = 1024) -> dict[str, float]:
    """Returns the bytes of an image in a tar of a bundled generator, with label and facts."""
    found = {}
    for kind in get_args(ImageFormat):
        with tempfile.TemporaryDirectory() as folder:
            manifest = render_shards(
                load_cgn(CGN), Path(folder, "set"), ShardConfig(num, format=kind)
            )
        if manifest is not None:
            found[kind] = manifest.num_bytes / num
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="bytes of an image by format")
    parser.add_argument("--into", type=Path, help="a page to write the tables into")
    given = parser.parse_args()
    if given.measure:
        result = {
            "what": f"bytes of an image of {CGN} in a shard, with its label and facts",
            "command": "python benchmarks/scale.py --measure",
            "bytes_an_image": measure(),
        }
        (RESULTS / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    if given.into is not None:
        given.into.write_text(put_into(given.into.read_text(), "scale", tables()))
    print(tables())


if __name__ == "__main__":
    main()
