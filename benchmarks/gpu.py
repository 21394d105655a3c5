"""All measurements on a GPU, in one process of at most eight minutes.

    python benchmarks/gpu.py --out gpu.json

Needs no network and no files except the repository's. Results are written to the file after each
part. A part that fails leaves its error there, and the next one runs. `--dry-run` runs the same
code at tiny sizes, on the CPU if there is no GPU.

- ceilings: bytes copied per second and matrix products, to compare the rest with.
- training: a step of ResNet-50, half of the images counterfactuals, against as many images that are
  already on the device.
- tests: the tests marked gpu, in their own process.
- made: the counterfactual half alone, against a copy of as many bytes.
- passes: the same, normalised and cast while it is composed, against a pass of its own.
- digits: a step of the classifier of digits, from a bank and with fresh images.
- memory: 2000 steps with a refreshed bank; allocated memory must not grow.
- filling: how fast a bank fills.
- generator: fresh images of the ImageNet CGN per second, against the published way.
- profile: where the time of the counterfactual half goes.
- compiled: the counterfactual half as plain operations of PyTorch, compiled, and the library's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_made import measure_compiled, measure_filling, measure_made, measure_passes, profile
from gpu_setup import FULL, SMALL, Setup
from gpu_table import table
from gpu_timing import Row, describe, describe_machine, measure_ceilings, read_card, tidy
from gpu_training import measure_digits, measure_memory, measure_training
from imagenet_speed import measure_generator

from cgn_augment.ranks import count_cores

REPO = Path(__file__).resolve().parents[1]
WEIGHTS = {
    "ceilings": 6,
    "training": 110,
    "tests": 110,
    "made": 25,
    "passes": 10,
    "digits": 25,
    "memory": 25,
    "filling": 20,
    "generator": 80,
    "profile": 8,
    "compiled": 20,
}
"""The parts in their order, and their shares of the time."""

Part = Callable[[float], Any]


class Results:
    """What was measured, as a file that is whole at any time.

    Args:
        path: the file.
        facts: what it begins with.
    """

    def __init__(self, path: Path, facts: Row) -> None:
        self.path, self.parts = path, {}
        self._all: Row = {**facts, "parts": self.parts}
        self.write()

    def write(self) -> None:
        """Writes the file anew, in one move."""
        new = self.path.with_suffix(self.path.suffix + ".new")
        new.write_text(json.dumps(self._all, indent=2) + "\n")
        new.replace(self.path)

    def get(self) -> Row:
        """Returns all that the file holds."""
        return self._all


def make_parts(setup: Setup, results: Results) -> dict[str, Part]:
    """Returns the parts by name; each takes the seconds that it may last."""

    def ceilings() -> Row:
        measured: Row | None = results.parts.get("ceilings", {}).get("result")
        return measured or measure_ceilings(setup.device, small=setup.sizes.small)

    def copy_rate() -> float:
        rate: float = ceilings()["copy_gb_per_s"]
        return rate

    return {
        "ceilings": lambda _: measure_ceilings(setup.device, small=setup.sizes.small),
        "training": lambda seconds: measure_training(setup, seconds),
        "tests": lambda seconds: run_tests(setup, seconds, results.path),
        "made": lambda seconds: measure_made(setup, seconds, copy_rate()),
        "passes": lambda seconds: measure_passes(setup.device, setup.sizes, seconds),
        "digits": lambda seconds: measure_digits(setup, seconds),
        "memory": lambda seconds: measure_memory(setup),
        "filling": lambda seconds: measure_filling(setup, seconds),
        "generator": lambda seconds: measure_generators(setup, seconds, ceilings()),
        "profile": lambda _: profile(setup),
        "compiled": lambda seconds: measure_compiled(setup, seconds, copy_rate()),
    }


def measure_generators(setup: Setup, seconds: float, ceilings: Row) -> Row:
    """Measures fresh images of the ImageNet CGN against the published way."""
    batches = (2,) if setup.sizes.small else (1, 4, 16, 64)
    dtypes = torch.float32, torch.bfloat16
    rows = measure_generator(setup.device, dtypes, batches, seconds, setup.sizes.small)
    return {
        "what": "fresh images of the ImageNet CGN a second; times the published way: over its "
        "best rate in float32; share: of the rate of a large matrix product of the type, for "
        "float32 of TF32, which convolutions use",
        "rows": compare([plain(row) for row in rows], ceilings["matmul_tflops"]),
    }


def compare(rows: list[Row], products: dict[str, float]) -> list[Row]:
    """Adds how many times the published way a rate is, and its share of a matrix product's."""
    best = max(
        (
            row.get("images_per_second", 0.0)
            for row in rows
            if (row["way"], row["dtype"]) == ("published", "float32")
        ),
        default=0.0,
    )
    for row in rows:
        if "error" not in row:
            row["times_published"] = row["images_per_second"] / best if best else None
            of_float32 = products.get("tf32", products["float32"])
            product = of_float32 if row["dtype"] == "float32" else products[row["dtype"]]
            row["share_of_product"] = row["tflops"] / product
    return rows


def plain(row: Row) -> Row:
    """Names types as JSON can hold them."""
    return {
        key: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for key, value in row.items()
    }


def run_tests(setup: Setup, seconds: float, out: Path) -> Row:
    """Runs the tests marked gpu; without a GPU they are only collected, of one file."""
    marked = sorted(
        str(path.relative_to(REPO))
        for path in (REPO / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text()
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "default", "--durations=20", "--continue-on-collection-errors", "-rfEs"]
    if setup.device.type != "cuda":
        marked, command = marked[:1], [*command, "--collect-only"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), *sys.path[1:]])}
    log = out.with_suffix(".tests.log")
    with log.open("w") as file:
        try:
            code: int | str = subprocess.run(
                [*command, *marked],
                cwd=REPO,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=max(seconds, 90),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {max(seconds, 90):.0f} seconds"
    lines = log.read_text().splitlines()
    counts = re.findall(
        r"(\d+) (passed|failed|skipped|error|deselected|test)", "\n".join(lines[-3:])
    )
    return {
        "code": code,
        "files": len(marked),
        "counts": {name: int(num) for num, name in counts},
        "failed": [line[:300] for line in lines if line.startswith(("FAILED", "ERROR "))],
        "end": lines[-60:],
    }


def run_parts(parts: dict[str, Part], setup: Setup, results: Results, budget: float) -> None:
    """Runs parts one after the other, each in its share of the time that is left."""
    began, left = time.perf_counter(), dict(parts)
    for name, part in parts.items():
        rest = max(0.0, budget - (time.perf_counter() - began))
        share = rest * WEIGHTS[name] / sum(WEIGHTS[each] for each in left)
        del left[name]
        start = time.perf_counter()
        print(f"{name}: about {share:.0f} s", flush=True)
        row: Row = {}
        try:
            row["result"] = part(share)
        except Exception as error:  # whatever it is, the next part must run
            row["error"] = describe(error)
            print(f"  {row['error']}", flush=True)
        row["seconds"] = round(time.perf_counter() - start, 1)
        results.parts[name] = row
        results.write()
        tidy(setup.device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="default: gpu.json")
    parser.add_argument("--parts", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--budget", type=float, default=420, help="seconds; default: 420")
    parser.add_argument("--device", help="default: cuda; the CPU in a dry run without a GPU")
    parser.add_argument("--dry-run", action="store_true", help="everything tiny")
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not arguments.dry_run and device == "cpu":
        parser.error("there is no GPU here: --dry-run runs the same code at tiny sizes")
    run(
        torch.device(device),
        arguments.out,
        [name for name in WEIGHTS if name in arguments.parts],
        budget=arguments.budget,
        small=arguments.dry_run,
    )


def run(device: torch.device, out: Path, names: list[str], *, budget: float, small: bool) -> Row:
    """Measures the named parts and prints a table; returns what the file holds."""
    setup = Setup(device, SMALL if small else FULL)
    if device.type == "cuda":  # as a training has it, whatever the environment says of threads
        torch.set_num_threads(count_cores())
    facts = {
        "command": f"python benchmarks/gpu.py --parts {' '.join(names)} --budget {budget:g}"
        + (" --dry-run" if small else ""),
        "machine": describe_machine(device),
        "small": small,
    }
    results = Results(out, facts)
    every = make_parts(setup, results)
    run_parts({name: every[name] for name in names}, setup, results, 0.0 if small else budget)
    if device.type == "cuda":
        results.get()["settings_after"] = read_card()
        results.write()
    print(table(results.get()))
    return results.get()


if __name__ == "__main__":
    main()
