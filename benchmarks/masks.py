"""How well maskers find objects, and how much refinement helps.

    python benchmarks/masks.py PHOTOS --num 50 --masker masker.safetensors --learned MASKS

PHOTOS holds photographs of objects, `train/CLASS/NAME.jpg`, and their true masks,
`train_masks/CLASS/NAME.png`. From each class `--num` are drawn, none of which has a mask in the
folder `--learned`, from which a masker learned. Measured for each is the intersection over union
with the true mask, both above 1/2: mean, standard deviation over images, and mean of each class;
and the images per second, including reading and writing.

- Maskers: GrabCut without a mask, the bundled maskers, and those of `--masker`.
- Refinements, on the first `--refined` photographs: of what each masker found (only the best of the
  bundled ones), and of true masks made worse: shifted by 4 pixels, widened or narrowed by 4, and
  blurred as by a masker of low resolution (an eighth).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from cgn_augment.images.finding import find_labelled_images, read_image
from cgn_augment.images.reading import resize_mask, to_mask
from cgn_augment.masks import bundled_maskers, load_masker
from cgn_augment.masks.refine import Mask, refine
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import write_masks

RESULTS = Path(__file__).parent / "results"
PIXELS = 4

REFINEMENTS = {
    "none": MaskSettings(),
    "largest": MaskSettings(largest=True),
    "close": MaskSettings(close=True),
    "largest, close": MaskSettings(largest=True, close=True),
    "guided": MaskSettings(edges="guided"),
    "grabcut": MaskSettings(edges="grabcut"),
    "largest, close, guided": MaskSettings(largest=True, close=True, edges="guided"),
    "largest, close, grabcut": MaskSettings(largest=True, close=True, edges="grabcut"),
}


class Photo(NamedTuple):
    """An image, its class and its true mask."""

    label: str
    name: str
    pixels: NDArray[np.uint8]
    truth: Mask


def _blur(mask: Mask) -> Mask:
    height, width = mask.shape
    return resize_mask(resize_mask(mask, (height // 8, width // 8)), (height, width))


def _widen(mask: Mask) -> Mask:
    return ndimage.binary_dilation(mask > 0.5, iterations=PIXELS).astype(np.float32)


def _narrow(mask: Mask) -> Mask:
    return ndimage.binary_erosion(mask > 0.5, iterations=PIXELS).astype(np.float32)


WORSE: dict[str, Callable[[Mask], Mask]] = {
    "true, shifted": lambda mask: np.roll(mask, (PIXELS, PIXELS), (0, 1)),
    "true, wider": _widen,
    "true, narrower": _narrow,
    "true, blurred": _blur,
}


def read_photos(folder: Path, num: int, learned: Path | None = None) -> list[Photo]:
    """Draws `num` images of each class, of which none was learned from."""
    found = find_labelled_images(folder / "train")
    names = {p: p.relative_to(folder / "train").with_suffix(".png").as_posix() for p in found.paths}
    pairs = [
        (path, label)
        for path, label in zip(found.paths, found.labels, strict=True)
        if learned is None or not (learned / names[path]).is_file()
    ]
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    photos, counts = [], [0] * len(found.classes)
    for path, label in (pairs[place] for place in order):
        counts[label] += 1
        if counts[label] > num:
            continue
        name = names[path]
        with Image.open(folder / "train_masks" / name) as mask:
            truth = to_mask(mask)
        photos.append(Photo(found.classes[label], name, np.asarray(read_image(path)), truth))
    return photos


def overlap(mask: Mask, truth: Mask) -> float:
    """The intersection over union."""
    found, true = mask > 0.5, truth > 0.5
    return float((found & true).sum() / max(1, (found | true).sum()))


def measure(photos: Sequence[Photo], masks: Sequence[Mask]) -> dict[str, object]:
    """Returns how well masks agree with the true ones."""
    found = np.array([overlap(m, photo.truth) for photo, m in zip(photos, masks, strict=True)])
    labels = np.array([photo.label for photo in photos])
    return {
        "iou": round(float(found.mean()), 3),
        "std": round(float(found.std()), 3),
        "above 0.8": round(float((found > 0.8).mean()), 3),
        "by class": {str(n): round(float(found[labels == n].mean()), 3) for n in np.unique(labels)},
    }


def run_masker(photos: Sequence[Photo], masker: str, size: int | None) -> tuple[list[Mask], float]:
    """Returns masks as the command writes them, and the images a second."""
    with tempfile.TemporaryDirectory() as place:
        images, out = Path(place) / "images", Path(place) / "masks"
        for photo in photos:
            path = images / photo.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo.pixels).save(path)
        started = time.perf_counter()
        bundled = masker in bundled_maskers()  # which the command refuses for photographs
        found_by = load_masker(masker) if bundled else masker
        write_masks(images, out, found_by, MaskSettings(size=32 if bundled else size))
        rate = len(photos) / (time.perf_counter() - started)
        masks = []
        for photo in photos:
            with Image.open(out / photo.name) as file:
                masks.append(to_mask(file))
    return masks, rate


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--num", type=int, default=5, help="images of each class")
    parser.add_argument("--masker", action="append", default=[], help="such as u2net.onnx")
    parser.add_argument("--refined", type=int, help="photographs to refine; default: all")
    parser.add_argument("--learned", type=Path, help="masks that a masker learned from")
    parser.add_argument("--sizes", type=int, nargs="*", default=[112, 224, 320], help="of GrabCut")
    parser.add_argument("--out", type=Path, default=RESULTS / "masks.json")
    given = parser.parse_args()
    photos = read_photos(given.photos, given.num, given.learned)
    kinds: dict[str, tuple[str, int | None]] = {
        **{f"grabcut, {size} pixels": ("grabcut", size) for size in given.sizes},
        **{name: (name, None) for name in bundled_maskers()},
        **{Path(name).name: (name, None) for name in given.masker},
    }
    few = photos[: given.refined]
    results: dict[str, dict[str, Any]] = {}
    found: dict[str, list[Mask]] = {}
    for name, (masker, size) in tqdm(kinds.items(), desc="maskers"):
        found[name], rate = run_masker(photos, masker, size)
        results[name] = {"images a second": round(rate, 2), "all": measure(photos, found[name])}
    bundled = bundled_maskers()
    best = max(bundled, key=lambda name: results[name]["all"]["iou"])
    for name in tqdm([name for name in kinds if name not in bundled or name == best], "refining"):
        results[name] |= _refined(few, found[name][: len(few)])
    for name, worsen in tqdm(WORSE.items(), desc="true masks made worse"):
        results[name] = _refined(few, [worsen(photo.truth) for photo in few])
    facts = {
        "command": f"python benchmarks/masks.py PHOTOS --num {given.num} --refined {len(few)} ...",
        "learned from": 0 if given.learned is None else len(list(given.learned.rglob("*.png"))),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "opencv": version("opencv-python-headless"),
        "images": len(photos),
        "results": results,
    }
    given.out.write_text(json.dumps(facts, indent=1) + "\n")
    for name, result in results.items():
        refined: dict[str, Any] = {**result.get("refined", {}), "all": result.get("all")}
        told = [f"{kind} {each['iou']}" for kind, each in refined.items() if each]
        print(f"{name:24}", ", ".join(told))


def _refined(photos: Sequence[Photo], masks: Sequence[Mask]) -> dict[str, object]:
    refined = {}
    for kind, settings in REFINEMENTS.items():
        started = time.perf_counter()
        made = [refine(p.pixels, mask, settings) for p, mask in zip(photos, masks, strict=True)]
        seconds = (time.perf_counter() - started) / len(photos)
        refined[kind] = {**measure(photos, made), "ms an image": round(1000 * seconds, 1)}
    return {"refined": refined}


if __name__ == "__main__":
    main()
