"""Quality and speed of filling holes.

    python benchmarks/fill.py PHOTOS

PHOTOS holds photographs of objects, `train/CLASS/NAME.jpg`, and their true masks,
`train_masks/CLASS/NAME.png`. Every method fills the same holes: those of `cgn_augment`, wider than
the object by a margin. "unblended" is `complete`, which copies at full size without blending, in
the object's own mask widened by one pixel.

Measured for each background, between neighbouring pixels, in grey levels:

- edge: mean |difference| across the edge of the true mask, relative to that in the band. The whole
  hole is made up, so anything visible there is a silhouette that was carried inwards.
- seam: the same across the edge of the hole, between made-up and real pixels.
- rim: as seam, two pixels further out, since copies are blended up to there.
- texture: mean square difference in the hole, relative to that in the band.
- seconds: processor time of the filler alone.

Half a level is added to both sides of each ratio, so that a plain sky does not divide by zero.

The band is the real image within 24 pixels of the hole, so that a smooth sky is not compared with
rough ground. Reported for each ratio over the images: median, mean, and the largest of nine tenths
of them. A perfect filling has 1 everywhere, with a spread, since no two places of a scene are
alike: "real" measures the same in the real image, with the hole moved to a place where all is real.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from cgn_augment.masks.trust import MaskGate
from cgn_augment.parts.blend import BAND as BLENDED
from cgn_augment.parts.cut import take_apart, widen
from cgn_augment.parts.fill import find_filler
from cgn_augment.parts.textures import complete

RESULTS = Path(__file__).parent / "results"
BAND = 24
METHODS = ("copy", "telea", "navier-stokes", "none", "unblended")
BARS = {"edge": (0.0, 1.3), "seam": (0.0, 1.3), "rim": (0.0, 1.3), "texture": (0.7, 1.3)}


def fill_by_opencv(image: Tensor, hole: Tensor, flag: int) -> Tensor:
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    made = cv2.inpaint(pixels, hole.numpy().astype(np.uint8), 3, flag)
    return torch.from_numpy(made).permute(2, 0, 1)


def fill_unblended(image: Tensor, hole: Tensor) -> Tensor:
    made, _ = complete(image[None] / 127.5 - 1, (~hole)[None, None].float())
    return ((made[0] + 1) * 127.5).round().to(torch.uint8)


def make_filler(method: str) -> Callable[[Tensor, Tensor], Tensor]:
    if method == "navier-stokes":
        return partial(fill_by_opencv, flag=cv2.INPAINT_NS)
    return fill_unblended if method == "unblended" else find_filler(method)


def make_hole(mask: NDArray[np.float32], method: str) -> NDArray[np.bool_]:
    if method == "unblended":
        return ndimage.maximum_filter(mask > 0.5, 3)
    return widen(mask)


def differences(
    image: NDArray[np.float32], first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Returns how far neighbouring pixels differ, one from the first set, one from the second."""
    found = []
    for a, b in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        chosen = (first[a] & second[b]) | (second[a] & first[b])
        found.append((image[a] - image[b])[chosen])
    return np.concatenate(found)


def measure(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    hole: NDArray[np.bool_],
    band: NDArray[np.bool_],
) -> dict[str, float]:
    outside = differences(image, band, band)
    level, energy = np.abs(outside).mean() + 0.5, np.square(outside).mean() + 0.5
    wide = ndimage.binary_dilation(hole, iterations=BLENDED)
    return {
        "edge": float((np.abs(differences(image, mask, ~mask)).mean() + 0.5) / level),
        "seam": float((np.abs(differences(image, hole, ~hole)).mean() + 0.5) / level),
        "rim": float((np.abs(differences(image, wide, ~wide)).mean() + 0.5) / level),
        "texture": float((np.square(differences(image, hole, hole)).mean() + 0.5) / energy),
    }


def grey(image: Tensor) -> NDArray[np.float32]:
    return image.numpy().astype(np.float32).mean(axis=0)


def band_around(hole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = ~hole & (ndimage.distance_transform_edt(~hole) <= BAND)
    return found


def measure_real(
    image: Tensor, mask: NDArray[np.bool_], hole: NDArray[np.bool_]
) -> dict[str, float] | None:
    """Measures real pixels for comparison: those of the hole moved to the nearest free place."""
    best: tuple[float, int, int] | None = None
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    for row in range(-int(rows[0]), hole.shape[0] - int(rows[-1]), 4):
        for column in range(-int(columns[0]), hole.shape[1] - int(columns[-1]), 4):
            far = abs(row) + abs(column)
            if best is not None and far >= best[0]:
                continue
            if not (np.roll(hole, (row, column), (0, 1)) & hole).any():
                best = far, row, column
    if best is None:
        return None
    moved, moved_mask = (np.roll(each, best[1:], (0, 1)) for each in (hole, mask))
    return measure(grey(image), moved_mask, moved, band_around(moved) & ~hole)


def read(path: Path) -> tuple[Tensor, Tensor]:
    mask_path = path.parents[2] / "train_masks" / path.parent.name / f"{path.stem}.png"
    image, mask = Image.open(path).convert("RGB"), Image.open(mask_path).convert("L")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(np.array(mask))[None] / 255


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "of nine tenths": ordered[max(round(0.9 * len(ordered)) - 1, 0)],
    }


def pasted(part_object: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """The object before magenta and green, which show a halo."""
    back = torch.tensor([255, 0, 255]).view(3, 1, 1).repeat(1, *size).float()
    back[:, : size[0] // 2] = torch.tensor([0.0, 255, 0]).view(3, 1, 1)
    top, left, height, width = box
    here = back[:, top : top + height, left : left + width]
    here += part_object[3:] / 255 * (part_object[:3] - here)
    return back.round().to(torch.uint8)


def draw(rows: list[list[Tensor]], names: list[str], path: Path) -> None:
    side = rows[0][0].shape[-1]
    sheet = Image.new("RGB", (side * len(names), side * len(rows) + 20), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((column * side + 4, 4), name, fill="black")
        for row, cells in enumerate(rows):
            cell = Image.fromarray(cells[column].permute(1, 2, 0).numpy())
            sheet.paste(cell, (column * side, 20 + row * side))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--num", type=int, default=200, help="images (default: 200)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, default=RESULTS / "fill.json")
    parser.add_argument("--sheet", type=Path, help="a PNG of some of the images")
    parser.add_argument("--every", type=int, default=8, help="images for one in the sheet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    paths = sorted((arguments.photos / "train").rglob("*.jpg"))
    num = min(arguments.num, len(paths))
    paths = [paths[len(paths) * place // num] for place in range(num)]
    found: dict[str, dict[str, list[float]]] = {}
    rows = []
    for number, path in enumerate(tqdm(paths, desc="images")):
        image, mask = read(path)
        soft = mask[0].numpy()
        part = take_apart(image, mask, filler="none", gate=MaskGate())
        if part.object is None or part.background is None:
            continue
        cells = [image, mask.mul(255).round().to(torch.uint8).expand(3, -1, -1)]
        cells.append(pasted(part.object, part.box, part.size))
        real = measure_real(image, soft > 0.5, widen(soft))
        for name, value in (real or {}).items():
            found.setdefault("real", {}).setdefault(name, []).append(value)
        for method in arguments.methods:
            hole = make_hole(soft, method)
            fill = make_filler(method)
            start = time.process_time()
            made = fill(image, torch.from_numpy(hole))
            values = {"seconds": time.process_time() - start}
            values |= measure(grey(made), soft > 0.5, hole, band_around(hole))
            for name, value in values.items():
                found.setdefault(method, {}).setdefault(name, []).append(value)
            cells.append(made)
        if number % arguments.every == 0:
            rows.append(cells)
    table = {
        method: {name: summary(values) for name, values in by_name.items()}
        for method, by_name in found.items()
    }
    for method, by_name in table.items():
        line = (
            f"{name} {v['median']:.3f} {v['mean']:.3f} {v['of nine tenths']:.3f}"
            for name, v in by_name.items()
        )
        print(f"{method:14}", " | ".join(line))
    result = {
        "what": "holes of removed objects, filled: ratios, 1 is best, and seconds an image",
        "command": f"python benchmarks/fill.py PHOTOS --num {arguments.num}",
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "opencv": cv2.__version__,
            "processor": platform.machine(),
        },
        "images": len(paths),
        "bars": BARS,
        "methods": table,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.sheet:
        draw(rows, ["image", "mask", "object", *arguments.methods], arguments.sheet)


if __name__ == "__main__":
    main()
