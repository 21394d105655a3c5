"""The review page of cut-outs: time to write it, its size, first paint, scrolling, memory.

    python benchmarks/review.py [--photos FOLDER] [--out FILE]

Photographs are those of make-photos (224 pixels, 8 classes, 400 each), made unless --photos names a
folder of them; their backgrounds are not filled (--fill none). Needs a Chromium (see `browser`).

- write: seconds of wall time and of CPU in its own process, and the growth of its largest resident
  size, over a tenth of the photographs and over all of them: it should not grow with the set.
- first paint and load: milliseconds after navigation, each in five new browsers with an empty
  profile: median, least and most.
- first picture: the same, until the first picture of a card appears.
- end: milliseconds from a jump to the end of the page until its last picture is drawn.
- pictures: how many are decoded then; the others are far from the visible area.
- keys: milliseconds for an arrow key and Space, median of 50.
- worst first: one mask in twenty is made wrong on purpose, in one of four ways. The share of these
  that the gate leaves out or that come in the first tenth, or the first fifth, of their class.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from browser import Browser
from parts import describe, make_photos, take_a_tenth
from PIL import Image

from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.review import write_review
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.writing import write_parts

RESULTS = Path(__file__).parent / "results"
SPAWN = multiprocessing.get_context("spawn")
TIMES = 5
WATCH = """
const look = () => {
  if (document.querySelector(".card img")?.naturalWidth) window.firstPicture = performance.now();
  else requestAnimationFrame(look);
};
look();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="made by make-photos")
    parser.add_argument("--out", type=Path, default=RESULTS / "review.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = given.photos or make_photos(folder / "photos")
        results: dict[str, Any] = {"environment": describe()}
        for name, place in (("tenth", take_a_tenth(photos, folder / "tenth")), ("all", photos)):
            config = PartConfig(masks=str(place / "train_masks"), fill="none")
            write_parts(place / "train", folder / name, config, progress=True)
            with SPAWN.Pool(1) as pool:
                results[name] = pool.apply(write, (folder / name, folder / f"{name}.html"))
            print(name, json.dumps(results[name]))
        results["page"] = look(folder / "all.html", folder)
        print(json.dumps(results["page"], indent=1))
        results["worst first"] = find_spoiled(photos, folder)
        print(json.dumps(results["worst first"], indent=1))
        given.out.write_text(json.dumps(results, indent=1) + "\n")


def write(place: Path, page: Path) -> dict[str, float]:
    parts = PartSet.open(place)
    parts.read(0)  # what is imported late
    before, began = usage(), time.perf_counter()
    write_review(parts, page)
    after, seconds = usage(), time.perf_counter() - began
    return {
        "images": len(parts),
        "MB of the page": page.stat().st_size / 1e6,
        "seconds": seconds,
        "CPU seconds": after[0] - before[0],
        "MB of memory": after[1] - before[1],
    }


def usage() -> tuple[float, float]:
    """Returns seconds of CPU, and the largest resident size in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def look(page: Path, folder: Path) -> dict[str, Any]:
    paints, pictures, loads, ends = [], [], [], []
    keys: list[float] = []
    for number in range(TIMES):
        with Browser(folder / f"browser{number}") as browser:
            browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            browser.open(page)
            browser.wait("window.firstPicture")
            pictures.append(browser.evaluate("firstPicture"))
            paints.append(
                browser.evaluate("performance.getEntriesByName('first-paint')[0].startTime")
            )
            loads.append(
                browser.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
            )
            browser.evaluate("cards[0].button.focus()")
            for _ in range(50 // TIMES):
                began = time.perf_counter()
                browser.press("ArrowRight")
                browser.press(" ")
                keys.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            browser.evaluate("scrollTo(0, document.body.scrollHeight)")
            browser.wait("cards.at(-1).pictures[0].naturalWidth > 0")
            ends.append(1000 * (time.perf_counter() - began))
            decoded = browser.evaluate("document.querySelectorAll('img[src]').length")
            version = browser.call("Browser.getVersion")["product"]
    return {
        "browser": version,
        "first paint ms": spread(paints),
        "first picture ms": spread(pictures),
        "load ms": spread(loads),
        "end ms": spread(ends),
        "keys ms": spread(keys),
        "pictures": decoded,
    }


def find_spoiled(photos: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Makes masks wrong, and looks where on the page the images stand."""
    shutil.copytree(photos / "train_masks", folder / "masks")
    paths = sorted((folder / "masks").rglob("*.png"))
    rng = random.Random(0)
    spoiled: dict[str, str] = {}
    for number, path in enumerate(rng.sample(paths, len(paths) // 20)):
        kind = list(SPOIL)[number % len(SPOIL)]
        with Image.open(path) as mask, Image.open(rng.choice(paths)) as other:
            wrong = SPOIL[kind](np.array(mask), np.array(other))
        Image.fromarray(wrong).save(path)
        spoiled[f"{path.parent.name}/{path.stem}"] = kind
    config = PartConfig(masks=str(folder / "masks"), fill="none")
    write_parts(photos / "train", folder / "spoiled", config, progress=True)
    page = write_review(PartSet.open(folder / "spoiled"), folder / "spoiled.html")
    text = page.read_text(encoding="utf-8").split('id="facts">')[1].split("</script>")[0]
    found: dict[str, list[tuple[bool, float]]] = {kind: [] for kind in SPOIL}
    for group in json.loads(text)["classes"]:
        for place, (key, state, *_) in enumerate(group["entries"]):
            if key in spoiled:
                found[spoiled[key]].append((state > 0, place / group["num"]))
    return {
        kind: {
            "images": len(places),
            "left out by the gate": statistics.mean(out for out, _ in places),
            "or in the first tenth": statistics.mean(place < 0.1 for _, place in places),
            "or in the first fifth": statistics.mean(place < 0.2 for _, place in places),
        }
        for kind, places in found.items()
    }


def erase_half(mask: Any, other: Any) -> Any:
    """Leaves the upper half of the object."""
    rows = np.flatnonzero(mask.max(axis=1) > 127)
    return np.where(np.arange(len(mask))[:, None] < rows.mean(), mask, 0).astype(np.uint8)


SPOIL = {
    "half of the object": erase_half,
    "mask of another image": lambda mask, other: other,
    "both masks": np.maximum,
    "opacity 0.6 to 0.9 in stripes": lambda mask, other: (
        mask * np.where(np.arange(len(mask))[:, None] // 8 % 2, 0.6, 0.9)
    ).astype(np.uint8),
}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
