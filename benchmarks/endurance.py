"""Whether a stream of counterfactuals stays as it is over a million steps, and breaks off cleanly.

    python benchmarks/endurance.py

A narrow, untrained generator draws for a loop that reads real images with two workers. First
epochs are broken off after some steps, a thousand times; then a million steps are taken. Memory,
descriptors, threads and processes are looked at on the way, always between two epochs or two steps,
and are written as they come, so that a run that is stopped leaves what it has seen.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import trange

from cgn_augment import BankSource, CounterfactualDataset
from cgn_augment.generators import SmallCGN
from cgn_augment.pictures.sheets import save_figure

OUT = Path(__file__).parent / "results" / "endurance.json"
SETTINGS = {"batch_size": 2, "count": 1, "width": 1, "bank": 16, "refresh": 1, "num_workers": 2}
EPOCH = 20_000  # steps
BROKEN = 3  # steps after which an epoch is broken off


class Noise(Dataset[tuple[Tensor, int]]):
    """Real images: few, seen again and again, so that an epoch can be long."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.images[number % 64], number % 10


def make_stream() -> CounterfactualDataset:
    batch, workers = SETTINGS["batch_size"], SETTINGS["num_workers"]
    loader = DataLoader(
        Noise(EPOCH * batch), batch_size=batch, shuffle=True, drop_last=True, num_workers=workers
    )
    cgn = SmallCGN(width=SETTINGS["width"]).freeze()
    bank = BankSource(cgn, SETTINGS["bank"], SETTINGS["refresh"])
    return CounterfactualDataset(loader, bank, count=SETTINGS["count"])


def look(done: int) -> dict[str, float]:
    """Returns what this process and those that it has started hold now."""
    own = psutil.Process()
    others = [each for each in own.children(recursive=True) if each.status() != "zombie"]
    return {
        "done": done,
        "rss_mb": own.memory_info().rss / 1e6,
        "workers_rss_mb": sum(each.memory_info().rss for each in others) / 1e6,
        "descriptors": own.num_fds(),
        "threads": own.num_threads(),
        "processes": len(others),
    }


def break_off(num: int, every: int, save: Any) -> None:
    """Begins epochs and leaves each after a few steps."""
    stream = make_stream()
    for number in trange(num + 1, desc="epochs"):
        if number % every == 0:
            gc.collect()
            save("broken_epochs", look(number))
        if number < num:
            batches = iter(stream)
            for _ in range(BROKEN):
                next(batches)
            del batches


def take_steps(num: int, every: int, save: Any) -> None:
    """Takes epochs to their end until there are enough steps."""
    stream, done = make_stream(), 0
    with trange(num, desc="steps", mininterval=5) as bar:
        while done < num:
            for _ in stream:
                done += 1
                if done % every == 0:
                    save("steps", look(done))
                    bar.update(every)
                if done == num:
                    break


def draw(result: dict[str, Any]) -> Figure:
    """Draws memory and descriptors over the steps, and over the epochs that were broken off."""
    figure = Figure(figsize=(9, 3.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, part in zip(panels, ("steps", "broken_epochs"), strict=True):
        seen = result[part]
        done = [each["done"] for each in seen]
        lines = [("rss_mb", "C0", "memory of the training (MB)")]
        lines += [("workers_rss_mb", "C1", "of its two workers (MB)")] if part == "steps" else []
        lines += [("descriptors", "C2", "descriptors"), ("threads", "C3", "threads")]
        for key, color, label in lines:
            axes.plot(done, [each[key] for each in seen], color=color, label=label)
        axes.set(xlabel=part.replace("_", " "), yscale="log", ylim=(1, 2000))
        axes.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.62))
    panels[1].set_xlabel("epochs that were broken off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--epochs", type=int, default=1000, help="broken off; default: 1000")
    parser.add_argument("--looks", type=int, default=200, help="at each of both; default: 200")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--draw", type=Path, help="only draws what OUT holds, into this file")
    arguments = parser.parse_args()
    if arguments.draw is not None:
        save_figure(draw(json.loads(arguments.out.read_text())), arguments.draw)
        return
    torch.set_num_threads(1)
    start = time.process_time()
    result: dict[str, Any] = {
        "what": "memory in MB, descriptors, threads and worker processes of a training loop",
        "command": f"python benchmarks/endurance.py --steps {arguments.steps} "
        f"--epochs {arguments.epochs}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "processor": platform.machine(),
        },
        "settings": {**SETTINGS, "steps_of_an_epoch": EPOCH, "steps_before_the_break": BROKEN},
        "broken_epochs": [],
        "steps": [],
    }

    def save(part: str, seen: dict[str, float]) -> None:
        result[part].append(seen)
        result["cpu_seconds"] = round(time.process_time() - start)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    if arguments.epochs:
        break_off(arguments.epochs, max(1, arguments.epochs // arguments.looks), save)
    if arguments.steps:
        take_steps(arguments.steps, max(1, arguments.steps // arguments.looks), save)


if __name__ == "__main__":
    main()
