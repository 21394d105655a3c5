"""What mixing adds to a step of 64 images of 224 pixels, beside other methods, on the CPU.

    python benchmarks/peers.py

A step here is a batch ready to train on: 64 images of an in-memory data set, read by a plain
DataLoader in the main process, and transformed by each way. All ways give 64 mixed images, so ours
replaces all real ones (mix="replace", fraction=1.0). In a round each way takes steps in turn; the
differences to the plain step are taken within rounds.

- plain: the batch as read.
- torchvision's CutMix and MixUp (v2), timm's Mixup (half of the batches CutMix, as in timm's
  recipes) and kornia's RandomTransplantation, which pastes objects by given masks.
- ours with a filled bank: of a CGN of 256 pixels, whose factors the bank keeps at 224, or whose
  images are resized in each step; of parts; and with the real images' own shapes, by the same masks
  that kornia gets, on textures of parts.

The bank of the CGN is filled with noise, which costs the same to draw from as a CGN's images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_setup import MEAN, NUM_CLASSES, STD, draw_objects, forever
from gpu_timing import Row, Way, measure_in_turns
from kornia.augmentation import RandomTransplantation
from timm.data import Mixup
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from cgn_augment import BankSource, CounterfactualDataset, Parts, RealShapeSource, match_real
from cgn_augment.cli.plan import Noise
from cgn_augment.types import Source

RESULTS = Path(__file__).parent / "results"
PLAIN = "plain"


def make_data(num: int, pixels: int) -> tuple[TensorDataset, Tensor]:
    """Normalised images with labels and masks, and the images in [-1, 1]."""
    images, masks = draw_objects(num, pixels)
    images = (images + 0.1 * torch.randn(images.shape, generator=seeded())).clamp(-1, 1)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    labels = torch.arange(num) % NUM_CLASSES
    return TensorDataset(((images + 1) / 2 - mean) / std, labels, masks), images


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_ways(num: int, pixels: int, batch: int, bank: int) -> dict[str, Way]:
    data, images = make_data(num, pixels)
    with_masks = data.tensors
    without = TensorDataset(*data.tensors[:2])

    def read(dataset: TensorDataset) -> Iterator[Any]:
        return forever(DataLoader(dataset, batch, shuffle=True, drop_last=True))

    def on_labels(mix: Callable[[Tensor, Tensor], object]) -> Callable[[], object]:
        batches = read(without)
        return lambda: mix(*next(batches))

    def on_masks(mix: Callable[..., object]) -> Callable[[], object]:
        batches = read(data)

        def step() -> object:
            real, _, masks = next(batches)
            return mix(real, masks[:, 0].long())

        return step

    def ours(dataset: TensorDataset, source: Source, size: int | None = None) -> Any:
        stream = CounterfactualDataset(
            dataset,
            source,
            batch_size=batch,
            drop_last=True,
            mix="replace",
            fraction=1.0,
            transform=match_real(MEAN, STD, size),
        )
        batches = forever(stream)
        return lambda: next(batches)

    # Few are taken apart, for that costs seconds each; a bank draws the same way from any number.
    few = slice(0, 2 * NUM_CLASSES)
    clean, masks = draw_objects(2 * NUM_CLASSES, pixels)
    parts = Parts.from_images(clean, with_masks[1][few], masks, 2, gate=None)
    size = 256 if pixels == 224 else 2 * pixels
    noise = Noise(size, images.device, NUM_CLASSES)
    sources = {
        "ours, bank of a CGN": (
            without,
            BankSource(noise, bank, storage="uint8", image_size=pixels),
            None,
        ),
        "ours, bank of a CGN of another size": (
            without,
            BankSource(noise, bank, storage="uint8"),
            pixels,
        ),
        "ours, bank of parts": (without, BankSource(parts, bank, storage="uint8"), None),
        "ours, real shapes": (
            data,
            RealShapeSource(
                masks=2, textures=BankSource(parts, bank, storage="uint8"), mean=MEAN, std=STD
            ),
            None,
        ),
    }
    cutmix, mixup = v2.CutMix(num_classes=NUM_CLASSES), v2.MixUp(num_classes=NUM_CLASSES)
    either = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=NUM_CLASSES)
    paste = RandomTransplantation(excluded_labels=[0], p=1.0, data_keys=["input", "mask"])
    return {
        PLAIN: Way(on_labels(lambda *batch: batch)),
        "torchvision CutMix": Way(on_labels(cutmix), PLAIN),
        "torchvision MixUp": Way(on_labels(mixup), PLAIN),
        "timm Mixup": Way(on_labels(either), PLAIN),
        "plain with masks": Way(on_masks(lambda *batch: batch)),
        "kornia RandomTransplantation": Way(on_masks(paste), "plain with masks"),
        **{
            name: Way(ours(*given), "plain with masks" if given[0] is data else PLAIN)
            for name, given in sources.items()
        },
    }


def summarize(rows: list[Row], batch: int) -> list[Row]:
    """Adds what a way costs more than its plain step, in milliseconds and for an image."""
    ms = {row["way"]: row["ms"]["median"] for row in rows if "ms" in row}
    for row in rows:
        if "base" in row:
            row["added_ms"] = ms[row["way"]] - ms[row["base"]]
            row["added_ms_per_image"] = row["added_ms"] / batch
    return rows


def measure(num: int, pixels: int, batch: int, bank: int, seconds: float, steps: int) -> Row:
    ways = make_ways(num, pixels, batch, bank)
    load = os.getloadavg()[0]
    rows = measure_in_turns(ways, torch.device("cpu"), seconds, num_steps=steps, warm_up=1)
    return {
        "what": f"milliseconds of a batch of {batch} mixed images of {pixels} pixels, ready to "
        "train on, in the main process; ratios to the plain batch within a round",
        "environment": {
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "load_average_before": load,
            **{name: version(name) for name in ("torch", "torchvision", "timm", "kornia")},
        },
        "rows": summarize(rows, batch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=224, help="default: 224")
    parser.add_argument("--batch", type=int, default=64, help="default: 64")
    parser.add_argument("--images", type=int, default=256, help="of the data set; default: 256")
    parser.add_argument("--bank", type=int, default=200, help="default: 200")
    parser.add_argument("--seconds", type=float, default=90, help="default: 90")
    parser.add_argument("--steps", type=int, default=4, help="of a way in a round; default: 4")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    given = parser.parse_args()
    result = measure(
        given.images, given.pixels, given.batch, given.bank, given.seconds, given.steps
    )
    flags = [f"--{key} {getattr(given, key):g}" for key in ("pixels", "batch", "images", "bank")]
    result["command"] = f"python benchmarks/peers.py {' '.join(flags)} --seconds {given.seconds:g}"
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        if "error" in row:
            print(f"{row['way']:32} {row['error']}")
            continue
        added = f"{row['added_ms']:8.1f} ms more" if "added_ms" in row else ""
        print(f"{row['way']:32} {row['ms']['median']:8.1f} ms {added}")


if __name__ == "__main__":
    main()
