"""The cost of taking photographs apart and reading their parts: rate, memory, size on disk.

    python benchmarks/parts.py [--photos FOLDER] [--fill copy telea]
    python benchmarks/parts.py --photos FOLDER --read PARTS

Photographs are those of make-photos (224 pixels, 8 classes, 400 each), made unless --photos names a
folder of them. Each way runs in its own process, first over a tenth of the photographs and then
over all of them, with a worker per core. Results are added to those of other ways in --out, so the
benchmark can be stopped.

- rate: images per second of wall time, on a machine that may have other work.
- CPU: milliseconds per image of all processes together, from reading to writing, which other work
  changes little; "minutes on two quiet cores" is that, times the images, over two.
- plain: CPU milliseconds to read an image and its mask and to encode both like parts, without
  cutting or filling, in one process: the baseline of the ratio.
- memory: the largest resident size of the writing process and of a worker.
- read: microseconds of CPU to read an object and a background of a random image, and to decode a
  photograph with Pillow, in rounds in which both take turns. --read measures only this, on an
  existing set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.input_listed import photos_of_place
from cgn_augment.parts.making import read_photo
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.writing import write_parts

RESULTS = Path(__file__).parent / "results"
TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "make-photos"
SPAWN = multiprocessing.get_context("spawn")
SIZE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="made by make-photos")
    parser.add_argument("--fill", nargs="+", default=["copy", "telea", "none"])
    parser.add_argument("--read", type=Path, help="a set of parts of --photos; measures no other")
    parser.add_argument("--out", type=Path, default=RESULTS / "parts.json")
    given = parser.parse_args()
    if given.read and not given.photos:
        parser.error("--read needs --photos, whose files are decoded beside its parts")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = given.photos or make_photos(folder / "photos")
        results = json.loads(given.out.read_text()) if given.out.exists() else {}
        if given.read:
            results["read"] = in_process(read, given.read, photos)
            given.out.write_text(json.dumps(results, indent=1) + "\n")
            print("read", json.dumps(results["read"], indent=1))
            return
        tenth = take_a_tenth(photos, folder / "tenth")
        for fill in given.fill:
            baseline = in_process(plain, photos)
            results[fill] = {"environment": describe(), "plain CPU ms an image": baseline}
            for name, place in (("tenth", tenth), ("all", photos)):
                out = folder / f"{fill}-{name}"
                found = in_process(write, place, out, fill)
                found["CPU over plain"] = found["CPU ms an image"] / baseline
                results[fill][name] = found
                if name == "all":
                    results["read"] = in_process(read, out, photos)
                given.out.write_text(json.dumps(results, indent=1) + "\n")
                print(fill, name, json.dumps(found, indent=1))


def make_photos(folder: Path) -> Path:
    subprocess.run([sys.executable, TOOL, folder, "--test-per-class", "1"], check=True)
    return folder


def take_a_tenth(photos: Path, folder: Path) -> Path:
    """Copies a tenth of the images of each class, and their masks."""
    for kind in (photos / "train").iterdir():
        for target in ("train", "train_masks"):
            (folder / target / kind.name).mkdir(parents=True)
        for image in sorted(kind.iterdir())[::10]:
            mask = photos / "train_masks" / kind.name / f"{image.stem}.png"
            shutil.copy(image, folder / "train" / kind.name)
            shutil.copy(mask, folder / "train_masks" / kind.name)
    return folder


def in_process(function: Any, *arguments: Any) -> Any:
    """Returns what a function returns in a process of its own, which may start others."""
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=send, args=(sender, function, *arguments))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def send(sender: Any, function: Any, *arguments: Any) -> None:
    sender.send(function(*arguments))


def write(photos: Path, out: Path, fill: str) -> dict[str, float]:
    config = PartConfig(masks=str(photos / "train_masks"), fill=fill, size=SIZE)  # type: ignore[arg-type]
    begun, before = time.perf_counter(), cpu_seconds()
    manifest = write_parts(photos / "train", out, config)
    seconds, used = time.perf_counter() - begun, cpu_seconds() - before
    if manifest is None:
        raise SystemExit("the set is not complete")
    num = manifest.num_samples
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    writer, worker = (resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds)
    return {
        "images": num,
        "left out": num - sum(manifest.class_counts["usable"]),
        "images a second": num / seconds,
        "CPU ms an image": 1000 * used / num,
        "minutes on two quiet cores": used / 2 / 60,
        "writer MiB": writer,
        "worker MiB": worker,
        "kB an image on disk": manifest.num_bytes / num / 1000,
    }


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of those that it has ended."""
    return sum(os.times()[:4])


def plain(photos: Path) -> float:
    """Returns the CPU milliseconds to read and encode an image."""
    config = PartConfig(masks=str(photos / "train_masks"))
    listed = photos_of_place(str(photos / "train"), config).photos[::10]
    begun = time.process_time()
    with tempfile.TemporaryFile() as file:
        for photo in listed:
            image, mask = read_photo(photo, SIZE)
            image.save(file, "JPEG", quality=95, subsampling=0)
            rows, columns = (np.flatnonzero((mask > 0.5).any(axis=axis)) for axis in (1, 0))
            if len(rows):
                image.putalpha(Image.fromarray((mask * 255).astype(np.uint8)))
                box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                image.crop(box).save(file, "WEBP", lossless=True, method=0, exact=True)
            file.seek(0)
    return 1000 * (time.process_time() - begun) / len(listed)


def read(out: Path, photos: Path, num: int = 500, rounds: int = 8) -> dict[str, Any]:
    begun = time.perf_counter()
    parts = PartSet.open(out)
    opening = time.perf_counter() - begun
    images = sorted((photos / "train").rglob("*.jpg"))
    reading, decoding = [], []
    for turn in range(rounds):
        rng = random.Random(turn)
        order = [rng.randrange(len(parts)) for _ in range(num)]
        begun = time.process_time()
        for number in order:
            parts.read(number)
        reading.append((time.process_time() - begun) / num)
        begun = time.process_time()
        for number in order:
            with Image.open(images[number % len(images)]) as image:
                np.asarray(image.convert("RGB"))
        decoding.append((time.process_time() - begun) / num)
    ratios = [one / other for one, other in zip(reading, decoding, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "environment": describe(),
        "seconds to open": opening,
        "microseconds a part": 1e6 * statistics.median(reading),
        "microseconds a photograph": 1e6 * statistics.median(decoding),
        "ratio": {"median": middle, "quartile_1": low, "quartile_3": high},
    }


def describe() -> dict[str, Any]:
    names = ("torch", "numpy", "pillow", "scipy")
    load = os.getloadavg()[0]
    return {
        **{name: version(name) for name in names},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load at the start": round(load, 1),
    }


if __name__ == "__main__":
    main()
