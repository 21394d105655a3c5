"""How many masks a second each masker finds on this machine, and whether memory stays flat.

    python benchmarks/mask_rates.py PHOTOS --unet runs/masker/masker.safetensors

PHOTOS is a folder of photographs. Each masker writes the masks of a few and of more of them, as
`cgn-augment masks` does, each time in a new process with a thread for each core. The rate is of the
photographs that the second run has more, so that opening the masker is not in it. Weights do not
change what a network costs: those that cannot be had here are random. `u2net.onnx` is our U2-Net,
exported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from memory import peak
from torch import nn
from torchvision.models import segmentation
from tqdm import tqdm

from cgn_augment.files import replacing
from cgn_augment.generators.u2net import U2Net
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import write_masks

OUT = Path(__file__).parent / "results" / "mask_rates.json"
COUNTS = (16, 64)
"""Photographs of the first run and of the second one."""

MANY = (5_000, 50_000, 1_300_000)
"""Photographs whose masks the table has the time of."""


class Way(NamedTuple):
    """A masker.

    Attributes:
        masker: as the command names it; a file lies in the folder of files.
        settings: others than the default.
    """

    masker: str
    settings: Mapping[str, Any] = MappingProxyType({})


TORCHVISION = ("deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large")
WAYS = {
    "grabcut": Way("grabcut"),
    "u2net.pth": Way("u2net.pth"),
    "u2net.onnx": Way("u2net.onnx"),
    **{
        f"torchvision/{name}": Way(f"torchvision/{name}", {"weights": f"{name}.pth"})
        for name in TORCHVISION
    },
    "a U-Net of 80 masks, 96 pixels": Way("unet.safetensors"),
    "the same, --edges grabcut": Way("unet.safetensors", {"edges": "grabcut"}),
    "the same, --edges guided": Way("unet.safetensors", {"edges": "guided"}),
}


def export(network: nn.Module, path: Path, size: int) -> Path:
    """Writes a network as ONNX that takes any number of images."""
    given = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        torch.onnx.export(
            network,
            (given,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    return path


def write_files(folder: Path, unet: Path) -> None:
    """Writes the files that the maskers are opened from."""
    torch.manual_seed(0)
    network = U2Net().eval()
    torch.save(network.state_dict(), folder / "u2net.pth")
    export(network, folder / "u2net.onnx", 320)
    for name in TORCHVISION:
        model = getattr(segmentation, name)(weights=None, weights_backbone=None, aux_loss=True)
        torch.save(model.state_dict(), folder / f"{name}.pth")
    (folder / "unet.safetensors").symlink_to(unet.resolve())


def write_once(name: str, files: Path, images: Path, out: Path) -> None:
    """Writes masks in this process; prints its seconds, and the most memory it held in MiB."""
    way = WAYS[name]
    settings = dict(way.settings)
    if "weights" in settings:
        settings["weights"] = str(files / settings["weights"])
    file = files / way.masker
    start = time.perf_counter()
    write_masks(images, out, str(file) if file.is_file() else way.masker, MaskSettings(**settings))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mib": peak()}))


def measure(name: str, photos: list[Path], files: Path) -> dict[str, float]:
    """Returns the rate of a masker, in photographs a second, and the memory of both runs."""
    runs = []
    for count in COUNTS:
        with TemporaryDirectory() as place:
            images = Path(place) / "images"
            images.mkdir()
            for number, path in enumerate(photos[:count]):
                (images / f"{number}{path.suffix}").symlink_to(path)
            own = [sys.executable, __file__, str(images), "--once", name, "--files", str(files)]
            told = subprocess.run(
                [*own, "--out", f"{place}/masks"], check=True, capture_output=True, text=True
            )
            runs.append(json.loads(told.stdout))
    few, more = runs
    return {
        "images_per_second": (COUNTS[1] - COUNTS[0]) / (more["seconds"] - few["seconds"]),
        "peak_mib": few["peak_mib"],
        "peak_mib_of_more": more["peak_mib"],
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """Returns a Markdown table of rates, of hours for many photographs, and of memory."""
    head = ["masker", "photographs a second", *(f"{num:,}".replace(",", " ") for num in MANY)]
    lines = [[*head, f"MiB, {COUNTS[0]} and {COUNTS[1]} photographs"], ["---"] * (len(head) + 1)]
    for name, row in rows.items():
        rate = row["images_per_second"]
        memory = f"{row['peak_mib']:.0f} and {row['peak_mib_of_more']:.0f}"
        title = f"`{name}`" if "," not in name else name
        lines.append([title, f"{rate:.3g}", *(_duration(num / rate) for num in MANY), memory])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of photographs, and folders in it")
    parser.add_argument("--unet", type=Path, help="a file of train-generator masker")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once is not None:
        write_once(given.once, given.files, given.photos, given.out)
        return
    if given.unet is None or not given.unet.is_file():
        sys.exit("error: --unet names the masker's file that train-generator masker wrote")
    photos = sorted(path for path in given.photos.resolve().rglob("*") if path.is_file())
    if len(photos) < COUNTS[1]:
        sys.exit(f"error: {given.photos} has {len(photos)} photographs of {COUNTS[1]}")
    with TemporaryDirectory() as place:
        write_files(Path(place), given.unet)
        rows = {n: measure(n, photos, Path(place)) for n in tqdm(given.ways, desc="maskers")}
    found = {
        "command": "python benchmarks/mask_rates.py PHOTOS --unet runs/masker/masker.safetensors",
        "environment": {
            "torch": version("torch"),
            "onnxruntime": version("onnxruntime"),
            "threads": torch.get_num_threads(),
        },
        "photographs": COUNTS,
        "rows": rows,
    }
    with replacing(given.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
