"""What an import of a loop's names costs, against `import torch`, which it cannot do without.

    python benchmarks/import_time.py

Each in new processes, in turn, so that a slow moment of the machine meets both; the ratio is that
of the medians. One round before, not counted, brings the files into the system's memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from tqdm import trange

RESULTS = Path(__file__).parent / "results"
IMPORTS = {
    "torch": "import torch",
    "cgn_augment": "from cgn_augment import BankSource, CounterfactualDataset, load_cgn",
}


def time_import(package: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS[package]], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="default: 10")
    parser.add_argument("--out", type=Path, default=RESULTS / "import_time.json")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {package: [] for package in IMPORTS}
    for number in trange(arguments.rounds + 1, desc="rounds"):
        for package in IMPORTS:
            taken = time_import(package)
            if number > 0:
                seconds[package].append(taken)
    medians = {package: statistics.median(values) for package, values in seconds.items()}
    result = {
        "what": "seconds of a new process that imports a package",
        "imports": IMPORTS,
        "command": f"python benchmarks/import_time.py --rounds {arguments.rounds}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "processor": platform.machine(),
        },
        "ratio": medians["cgn_augment"] / medians["torch"],
        "seconds": medians,
        "seconds_by_round": seconds,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"cgn_augment / torch {result['ratio']:.3f}")


if __name__ == "__main__":
    main()
