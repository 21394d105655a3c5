"""The cost of writing and reading shards, and the memory that a large set takes.

    python benchmarks/shards.py --cgn PATH_OF_A_CGN

Every result is a ratio to a baseline of the same run. Writing and reading are measured in rounds:
in a round each way does its work in turn, in changing order; ratios are taken within rounds, and
their median counts.

- generate: two processes with one thread each draw images and drop them.
- write: two ranks of `render_shards` draw as many and write them as jpg, encoding in a thread.
- encode in threads, in processes: one process draws and encodes as many, without writing.
- published: one process draws one image at a time with the published layers and writes each as a
  png file with a row of a CSV file.
- bare webdataset: a shuffled pipeline that decodes jpg files and labels into batches of 64.
- ShardSource: the same images in batches of 64.
- memory: the largest resident size of a process that renders 20 000 images, then of one that
  renders 200 000. The CGN is narrow, so that this takes minutes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image
from published_layers import use_published_layers
from torch import Tensor
from tqdm import tqdm

from cgn_augment import CGNError, FreshSource, ShardSource, load_cgn
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards.write import encode_ahead
from cgn_augment.types import Step

RESULTS = Path(__file__).parent / "results"
SPAWN = multiprocessing.get_context("spawn")
BATCH = 64
NUM_RANKS = 2


class Kept:
    """An executor that its users cannot end: starting processes is not what is measured."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    @contextmanager
    def __call__(self, _: int) -> Iterator[Executor]:
        """Lends the executor."""
        yield self.executor


def serve(path: str, rank: int, connection: Connection) -> None:
    """Works for one rank: gets (way, images, folder) and answers when that is done."""
    torch.set_num_threads(1)
    cgn, executors = load_cgn(path), {}
    while (order := connection.recv()) is not None:
        way, num, folder = order
        if way == "generate":
            source = FreshSource(cgn)
            for step in range(num // BATCH):
                source.sample(BATCH, torch.Generator().manual_seed(step))
        elif way == "write":
            config = ShardConfig(num=num * NUM_RANKS, shard_size=num, format="jpg")
            render_shards(cgn, folder, config, rank=rank, world_size=NUM_RANKS)
        else:
            if way not in executors:
                kinds = {
                    "encode in threads": lambda: ThreadPoolExecutor(1),
                    "encode in processes": lambda: ProcessPoolExecutor(1, SPAWN),
                }
                executors[way] = Kept(kinds[way]())
            jobs = ((0, block) for block in range(num // BATCH))
            for _ in encode_ahead(cgn, ShardConfig(num=num, format="jpg"), jobs, 1, executors[way]):
                pass
        connection.send(None)
    for kept in executors.values():
        kept.executor.shutdown()


def run_all(cgn: SmallCGN, *classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs all three mechanisms, as every pass of the published code does, and crops textures."""
    size, (shape, texture, background) = cgn.image_size, classes
    drawn = []
    noise = torch.randn(1, cgn.noise_dim)
    for image in (cgn.texture(noise, texture), cgn.background(noise, background)):
        top, left = torch.randint(size + 1, (2,)).tolist()
        tiled = image.repeat(1, 1, 2, 2)
        drawn.append(tiled[:, :, top : top + size, left : left + size])
    return cgn.shape(torch.randn(1, cgn.noise_dim), shape), drawn[0], drawn[1]


@torch.no_grad()
def write_as_published(cgn: SmallCGN, num: int, folder: Path) -> None:
    """Draws image by image, in two passes over the CGN, and writes a png and a row of each."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for number in range(num):
            y = torch.randint(cgn.num_classes, (3, 1))
            mask = run_all(cgn, y[0], y[0], y[0])[0]
            _, foreground, background = run_all(cgn, *y)
            image = compose(mask, foreground, background)
            pixels = ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            name = f"{number:06d}.png"
            Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(folder / name)
            rows.writerow([name, *y[:, 0].tolist()])


def writers(path: str, folder: Path, num: int) -> dict[str, Callable[[], float]]:
    """Returns the ways of writing: functions that return seconds per image."""
    links, processes = [], []
    for rank in range(NUM_RANKS):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=serve, args=(path, rank, theirs), daemon=False)
        process.start()
        links.append(ours)
        processes.append(process)

    def ranks(way: str, used: int) -> Callable[[], float]:
        def measure() -> float:
            out = folder / "set"
            start = time.perf_counter()
            for link in links[:used]:
                link.send((way, num, str(out)))
            for link in links[:used]:
                link.recv()
            seconds = time.perf_counter() - start
            shutil.rmtree(out, ignore_errors=True)
            return seconds / (num * used)

        return measure

    published = copy.deepcopy(load_cgn(path)).to(memory_format=torch.contiguous_format)
    use_published_layers(published)

    def as_published() -> float:
        out, few = folder / "published", max(num // 16, 8)
        start = time.perf_counter()
        write_as_published(published, few, out)
        seconds = time.perf_counter() - start
        shutil.rmtree(out)
        return seconds / few

    def stop() -> float:
        for link, process in zip(links, processes, strict=True):
            link.send(None)
            process.join()
        return 0.0

    return {
        "generate": ranks("generate", NUM_RANKS),
        "write": ranks("write", NUM_RANKS),
        "encode in threads": ranks("encode in threads", 1),
        "encode in processes": ranks("encode in processes", 1),
        "published": as_published,
        "stop": stop,
    }


def readers(path: str, folder: Path, num: int) -> dict[str, Callable[[], float]]:
    """Returns the ways of reading a set of jpg files."""
    out = folder / "read"
    render_shards(load_cgn(path), out, ShardConfig(num=4096, shard_size=512, format="jpg"))
    urls = sorted(str(name) for name in out.glob("*.tar"))
    pipeline = webdataset.WebDataset(urls, shardshuffle=8, detshuffle=True, seed=0).repeat()
    pipeline = pipeline.shuffle(256, seed=0).decode("torchrgb").to_tuple("jpg", "json")
    pipeline = pipeline.map_tuple(lambda image: image * 2 - 1, lambda facts: facts["shape"])
    bare, source = iter(pipeline.batched(BATCH)), ShardSource(out, refresh=BATCH, size=BATCH)
    generator, steps = torch.Generator().manual_seed(0), itertools.count()

    def timed(step: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            for _ in range(num // BATCH):
                step()
            return (time.perf_counter() - start) / (num // BATCH * BATCH)

        return measure

    return {
        "bare webdataset": timed(lambda: next(bare)),
        "ShardSource": timed(lambda: source.sample(BATCH, generator, Step(next(steps)))),
    }


def measure(ways: dict[str, Callable[[], float]], num_rounds: int) -> dict[str, list[float]]:
    """Returns seconds per image of each way in each round, after one round that does not count."""
    names, seconds = list(ways), {name: [] for name in ways}
    for number in tqdm(range(-1, num_rounds), desc="rounds"):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken = ways[name]()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "quartile_1": low, "quartile_3": high}


def render_for_memory(num: int, out: str, connection: Connection) -> None:
    """Renders with a narrow CGN, and answers with the largest resident size in bytes."""
    torch.manual_seed(0)
    config = ShardConfig(num=num, format="jpg", shard_size=2000)
    render_shards(SmallCGN(width=4).freeze(), out, config)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_memory(folder: Path, nums: tuple[int, int]) -> dict[str, Any]:
    peaks = {}
    for num in nums:
        out = folder / f"memory{num}"
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=render_for_memory, args=(num, str(out), theirs))
        process.start()
        peaks[num] = ours.recv()
        process.join()
        shutil.rmtree(out)
    return {
        "peak_bytes": {str(num): peak for num, peak in peaks.items()},
        "ratio": peaks[nums[1]] / peaks[nums[0]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cgn", default="double-colored-mnist", help="name or path of a CGN")
    parser.add_argument("--rounds", type=int, default=12, help="default: 12")
    parser.add_argument("--images", type=int, default=1024, help="a rank in a round; default: 1024")
    parser.add_argument("--parts", nargs="+", default=["write", "read", "memory"])
    parser.add_argument("--memory", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--out", type=Path, default=RESULTS / "shards.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    environment = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "webdataset": version("webdataset"),
        "pillow": version("pillow"),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }
    command = (
        f"python benchmarks/shards.py --rounds {arguments.rounds} --images {arguments.images} "
        f"--cgn {Path(arguments.cgn).name}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "write" in arguments.parts:
            ways = writers(arguments.cgn, folder, arguments.images)
            stop = ways.pop("stop")
            seconds = measure(ways, arguments.rounds)
            stop()
            result["write"] = {
                "command": command,
                "environment": environment,
                "ratios": {
                    "write speed / generate speed": ratio(seconds["generate"], seconds["write"]),
                    "write speed / published speed": ratio(seconds["published"], seconds["write"]),
                    "encode in threads speed / in processes": ratio(
                        seconds["encode in processes"], seconds["encode in threads"]
                    ),
                },
                "seconds_per_image": seconds,
            }
        if "read" in arguments.parts:
            seconds = measure(readers(arguments.cgn, folder, arguments.images), arguments.rounds)
            speed = ratio(seconds["bare webdataset"], seconds["ShardSource"])
            result["read"] = {
                "command": command,
                "environment": environment,
                "ratios": {"ShardSource speed / bare webdataset speed": speed},
                "seconds_per_image": seconds,
            }
        if "memory" in arguments.parts:
            nums = tuple(arguments.memory)
            result["memory"] = {
                "command": "python benchmarks/shards.py --parts memory --memory "
                f"{nums[0]} {nums[1]}",
                "environment": environment,
                **measure_memory(folder, nums),
            }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for part in ("write", "read"):
        for label, value in result.get(part, {}).get("ratios", {}).items():
            spread = f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}"
            print(f"{label:50} {value['median']:.3f}   (quartiles {spread})")
    if "memory" in result:
        print(f"{'peak memory, large set / small set':50} {result['memory']['ratio']:.3f}")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
