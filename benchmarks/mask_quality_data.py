"""Masks of the benchmark of mask quality: true ones, worse ones, and those that maskers find."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from photographs_data import Photos
from PIL import Image
from scipy import ndimage

from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing
from cgn_augment.images.finding import read_image
from cgn_augment.images.reading import to_mask
from cgn_augment.masks import load_masker
from cgn_augment.masks.refine import refine
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import write_masks
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.writing import write_parts
from cgn_augment.ranks import count_cores

CORRELATION = 0.98
MANIFEST, OVERLAP = "manifest.json", "overlap.json"
EDGES = MaskSettings(largest=True, edges="grabcut")
SHARDS = 4
"""Of a set of parts, each the work of a process."""

Bools = NDArray[np.bool_]
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))


class Kind(NamedTuple):
    """A kind of masks.

    Attributes:
        name: of files.
        label: in the table and the plot.
        family: of the plot's lines.
        worsen: takes a true mask, and a number for each image that is the same in every run, to
            this kind; None for masks that are found, and for those of other images.
        wrong: share of the images that have another image's mask.
    """

    name: str
    label: str
    family: str
    worsen: Callable[[Bools, int], Bools] | None = None
    wrong: float = 0.0


def erode(pixels: int, mask: Bools, number: int) -> Bools:
    found: Bools = ndimage.binary_erosion(mask, iterations=pixels)
    return found


def dilate(pixels: int, mask: Bools, number: int) -> Bools:
    found: Bools = ndimage.binary_dilation(mask, iterations=pixels)
    return found


def shift(pixels: int, mask: Bools, number: int) -> Bools:
    """Moves a mask to one of four sides; what leaves the image is lost."""
    down, right = _SIDES[number % len(_SIDES)]
    moved = ndimage.shift(mask.astype(np.uint8), (down * pixels, right * pixels), order=0)
    found: Bools = moved > 0
    return found


def keep(mask: Bools, number: int) -> Bools:
    return mask


TRUE = Kind("true", "true", "true", keep)
FOUND = {
    "grabcut": "GrabCut",
    "unet": "U-Net of 80 masks",
    "unet-edges": "the U-Net's, edges by GrabCut",
    "bundled": "bundled masker",
}
REFINED = {"unet-edges": "unet"}
"""Which masks others are made of, beside the true ones."""
BUNDLED = "double-colored-mnist"
KINDS: dict[str, Kind] = {
    each.name: each
    for each in (
        TRUE,
        *(Kind(f"eroded-{n}", f"eroded by {n}", "eroded", partial(erode, n)) for n in (1, 2, 4)),
        *(
            Kind(f"dilated-{n}", f"dilated by {n}", "dilated", partial(dilate, n))
            for n in (1, 2, 4, 8)
        ),
        *(Kind(f"shifted-{n}", f"shifted by {n}", "shifted", partial(shift, n)) for n in (2, 4, 8)),
        *(
            Kind(f"wrong-{n}", f"{n} % another image's", "another image's", wrong=n / 100)
            for n in (10, 25, 50)
        ),
        *(Kind(name, label, "found") for name, label in FOUND.items()),
    )
}


@dataclass(frozen=True)
class MaskedPhotos(Photos):
    """The photographs, taken apart with one kind of masks.

    Attributes:
        kind: name of the masks.
        unet: file of the masker that was trained on 80 masks, where its masks are to be found.
        device: where it finds them.
    """

    kind: str = TRUE.name
    unet: str | None = None
    device: str = "cpu"

    @property
    def masks(self) -> Path:
        """Where the masks are."""
        return self.cache / f"masks-{self.kind}"

    @property
    def images(self) -> Path:
        """Where the photographs to train on are."""
        return self.folder(CORRELATION) / "train"

    def parts(self, correlation: float) -> Path:
        """Returns where the parts are."""
        return self.cache / f"parts-{self.kind}-{self.fill}"

    def of(self, kind: str) -> MaskedPhotos:
        """Returns the same with another kind of masks."""
        return MaskedPhotos(**{**asdict(self), "kind": kind})


def write_kind(photos: MaskedPhotos) -> None:
    """Writes the masks of a kind, where they are not there yet, and their overlap with the truth.

    Worse masks are made of the true ones, and refined masks of found ones, which must be there.

    Raises:
        ArgumentError: the U-Net's masks are asked for, and there is no U-Net.
    """
    kind, done = KINDS[photos.kind], photos.masks / OVERLAP
    if done.is_file():
        return
    names = [
        path.relative_to(photos.images).with_suffix(".png").as_posix()
        for path in sorted(photos.images.rglob("*.jpg"))
    ]
    if kind.name in REFINED:
        _write(photos.masks, names, _refine(photos, photos.of(REFINED[kind.name]).masks, names))
    elif kind.family == "found" and not all((photos.masks / name).is_file() for name in names):
        found = photos.cache / f"found-{kind.name}"
        _find(photos, kind.name, found)
        _write(photos.masks, names, (_read(found / name) for name in names))
    elif kind == TRUE and not all((photos.masks / name).is_file() for name in names):
        drawn = photos.folder(CORRELATION) / "train_masks"
        _write(photos.masks, names, (_read(drawn / name) for name in names))
    elif kind.family != "found" and kind != TRUE:
        _write(photos.masks, names, _worsen(kind, photos.of(TRUE.name).masks, names))
    facts = measure(names, photos.masks, photos.of(TRUE.name).masks)
    with replacing(done) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")


def take_apart(photos: MaskedPhotos, rank: int) -> None:
    """Takes a share of the photographs apart; after all shares the set is whole."""
    if (photos.parts(CORRELATION) / MANIFEST).is_file():
        return
    size = -(-8 * photos.per_class // SHARDS)
    config = PartConfig(masks=str(photos.masks), fill=photos.fill, shard_size=size)  # type: ignore[arg-type]
    write_parts(
        photos.images,
        photos.parts(CORRELATION),
        config,
        rank=rank,
        world_size=SHARDS,
        resume=True,
        num_workers=0,
    )


def measure(names: Sequence[str], found: Path, true: Path) -> dict[str, Any]:
    """Returns the intersection over union with the true masks: mean, deviation, by class."""
    pairs = ((_read(found / name), _read(true / name)) for name in names)
    overlaps = np.array([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs])
    labels = np.array([name.rpartition("/")[0] for name in names])
    return {
        "images": len(names),
        "iou": round(float(overlaps.mean()), 4),
        "std": round(float(overlaps.std()), 4),
        "by class": {
            str(label): round(float(overlaps[labels == label].mean()), 4)
            for label in np.unique(labels)
        },
    }


def _worsen(kind: Kind, true: Path, names: Sequence[str]) -> Iterable[Bools]:
    if kind.worsen is not None:
        for name in names:
            yield kind.worsen(_read(true / name), zlib.crc32(name.encode()))
        return
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(names))[: round(kind.wrong * len(names))]
    other = dict(zip(chosen.tolist(), np.roll(chosen, 1).tolist(), strict=True))
    for number in range(len(names)):
        yield _read(true / names[other.get(number, number)])


def _refine(photos: MaskedPhotos, found: Path, names: Sequence[str]) -> list[Bools]:
    def work(name: str) -> Bools:
        pixels = np.asarray(read_image(photos.images / Path(name).with_suffix(".jpg")))
        mask = refine(pixels, _read(found / name).astype(np.float32), EDGES)
        return mask > 0.5

    with ThreadPoolExecutor(count_cores()) as pool:
        return list(pool.map(work, names))


def _find(photos: MaskedPhotos, name: str, out: Path) -> None:
    if name == "unet" and photos.unet is None:
        raise ArgumentError(
            f"the masks of the U-Net are not in {photos.masks}: pass its file, --unet FILE, or "
            "--kinds without unet"
        )
    maskers: dict[str, Any] = {"grabcut": "grabcut", "unet": photos.unet}
    size = 32 if name == "bundled" else None
    # As a function, since the command refuses bundled maskers for photographs.
    masker = maskers[name] if name in maskers else load_masker(BUNDLED)
    device = photos.device if name == "unet" else "cpu"
    settings = MaskSettings(size=size, device=device, batch_size=64)
    write_masks(photos.images, out, masker, settings, progress=True)


def _read(path: Path) -> Bools:
    with Image.open(path) as file:
        found: Bools = to_mask(file.convert("L")) > 0.5
    return found


def _write(folder: Path, names: Sequence[str], masks: Iterable[Bools]) -> None:
    for name, mask in zip(names, masks, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(mask).save(temporary, format="PNG")  # of one bit
