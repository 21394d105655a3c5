"""Writes the masks of a folder of images, in one pass.

Threads read, refine and write, while the masker sees a batch at a time. Two batches are under way,
so memory does not grow with the folder.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cgn_augment.errors import ArgumentError, CheckpointError, DataError
from cgn_augment.files import owning, replacing
from cgn_augment.images.finding import name_some, read_image
from cgn_augment.images.image_table import below
from cgn_augment.images.places import find_files
from cgn_augment.images.reading import Encoded, resize_mask
from cgn_augment.masks.checkpoint import bundled_maskers
from cgn_augment.masks.opening import SizedMasker, open_masker
from cgn_augment.masks.refine import Mask, Pixels, import_opencv, refine
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.ranks import count_cores

SETTINGS = "masks.json"
"""What the masks of a folder were made with."""

DRAWN = 96
"""Pixels; images with a longer shorter side are none that a bundled masker was trained for."""

_SPEED = ("batch_size", "device", "weights")  # what changes no mask; weights are in the fingerprint


class MaskCounts(NamedTuple):
    """What came of a folder of images.

    Attributes:
        written: masks.
        kept: masks that were there.
        unreadable: of each image that could not be read, why.
    """

    written: int
    kept: int
    unreadable: tuple[str, ...]


class Target(NamedTuple):
    """An image, and where its mask goes.

    Attributes:
        name: of the image, for errors.
        image: its file, or what it holds.
        mask: the PNG file to write.
    """

    name: str
    image: Encoded
    mask: Path


class _Read(NamedTuple):
    target: Path
    pixels: Pixels
    small: Tensor


def write_masks(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    masker: str | Callable[[Tensor], Any],
    settings: MaskSettings | None = None,
    *,
    split: str | None = None,
    progress: bool = False,
) -> MaskCounts:
    """Finds the masks of all images in a folder and below, and writes them as PNG files.

    A mask has eight bits and the size of its image as it is seen: white is object. The mask of
    `images/cat/1.jpg` is `out/cat/1.png`. A mask that is there stays as it is, so that the same
    call goes on after an interruption, and leaves what was mended by hand alone.

    Args:
        images: the folder; or a table or the layout of a benchmark, see `read_place`.
        out: another folder, which may have been begun by the same masker with the same settings.
        masker: see `open_masker`.
        settings: of the masker, and how its masks are refined.
        split: of images that come in splits, or `all`; those for training by default.
        progress: whether to show a bar.

    Raises:
        ArgumentError: settings that do not fit, `out` is within `images` or the other way round, or
            a bundled masker was asked for masks of photographs.
        CheckpointError: weights that cannot be used.
        DataError: no images, two images with one mask, or `out` has masks of something else.
        FileError: there is no such masker.
        MissingPackageError: a package is not installed.
        OSError: a mask cannot be written; those before it stay.
        UsageError: another process is writing to `out`.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from cgn_augment.masks.writing import write_masks
        >>> folder = getfixture("tmp_path")
        >>> (folder / "photos" / "cat").mkdir(parents=True)
        >>> pixels = np.full((48, 64, 3), 200, np.uint8)
        >>> pixels[12:30, 20:40] = 20
        >>> Image.fromarray(pixels).save(folder / "photos" / "cat" / "1.png")
        >>> def find_dark(images):
        ...     return (images < 0).all(dim=1)
        >>> write_masks(folder / "photos", folder / "masks", find_dark).written
        1
        >>> with Image.open(folder / "masks" / "cat" / "1.png") as mask:
        ...     mask.size
        (64, 48)
    """
    root, files = find_files(os.fspath(images), split)
    target = Path(out).expanduser()
    if Path(images).expanduser().is_dir():  # all that lies in a table or a layout is named
        refuse_nested(root, target)
    targets = _targets(files, root, target)
    return write_targets(
        targets, target, masker, settings, total=len(targets), alone=True, progress=progress
    )


def write_targets(
    targets: Iterable[Target],
    out: Path,
    masker: str | Callable[[Tensor], Any],
    settings: MaskSettings | None = None,
    *,
    total: int | None = None,
    alone: bool = False,
    progress: bool = False,
) -> MaskCounts:
    """Finds the masks of images from anywhere; see `write_masks`.

    Args:
        targets: images and where their masks go, one after the other; each is taken when it is its
            turn. Several processes may share them out.
        out: folder of all masks.
        masker: see `open_masker`.
        settings: of the masker, and how its masks are refined.
        total: how many images there are, where it is known, for the bar.
        alone: keeps other processes that write all masks alone out of the folder.
        progress: whether to show a bar.

    Raises:
        CGNError: as for `write_masks`.
    """
    settings = settings or MaskSettings()
    if settings.edges != "none":
        import_opencv(settings.edges)  # before anything that takes long
    opened = open_masker(masker, settings)
    left = iter(targets)
    first = list(islice(left, 1))
    if isinstance(masker, str) and masker in bundled_maskers():
        for target in first:
            _refuse_photographs(target, masker)
    with owning(out) if alone else nullcontext():
        _begin(out, opened, settings)
        return _find_all(opened, chain(first, left), settings, total, progress)


def _find_all(
    opened: SizedMasker,
    targets: Iterable[Target],
    settings: MaskSettings,
    total: int | None,
    progress: bool,
) -> MaskCounts:
    unreadable: list[str] = []
    written = kept = 0
    with (
        ThreadPoolExecutor(count_cores()) as pool,
        tqdm(total=total, unit="image", disable=not progress, desc="masking") as bar,
    ):

        def lacking() -> Iterator[Target]:
            nonlocal kept
            for target in targets:
                if target.mask.exists():
                    kept += 1
                    bar.update()
                else:
                    yield target

        writing: list[Future[None]] = []
        for read in _read_ahead(pool, lacking(), opened.size, settings.batch_size):
            good = [each for each in read if isinstance(each, _Read)]
            unreadable += [each for each in read if isinstance(each, str)]
            found = _find(opened, good)
            for future in writing:
                future.result()
            writing = [
                pool.submit(_write, each, mask, settings)
                for each, mask in zip(good, found, strict=True)
            ]
            written += len(good)
            bar.update(len(read))
        for future in writing:
            future.result()
    return MaskCounts(written, kept, tuple(unreadable))


def _refuse_photographs(target: Target, masker: str) -> None:
    try:
        size = read_image(target.image, target.name).size
    except DataError:  # which is said in its turn
        return
    if min(size) > DRAWN:
        raise ArgumentError(
            f"{masker} finds the digits of small drawn images, and {target.name} has "
            f"{size[0]}x{size[1]} pixels: it would find something else in photographs; take "
            "u2net.onnx or another file, torchvision/NAME or grabcut"
        )


def refuse_nested(source: Path, target: Path) -> None:
    """Raises for a folder of masks that lies in that of the images, or the other way round."""
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ArgumentError(
            f"{target} and {source} must be folders beside each other, or masks would be taken for "
            "images: give another folder for the masks"
        )


def _targets(files: Iterable[str], root: Path, out: Path) -> list[Target]:
    """Returns where the mask of each image goes."""
    found: dict[Path, str] = {}
    for file in files:
        place = out / Path(file).with_suffix(".png")
        if "://" in file or ".." in place.parts or out not in place.parents:
            raise DataError(
                f"the mask of {file} would not lie in {out}: give paths below {root}, the folder "
                "of the table"
            )
        if place in found:
            raise DataError(
                f"{below(root, found[place])} and {below(root, file)} would have one mask: rename "
                "one of them"
            )
        found[place] = file
    return [Target(below(root, file), below(root, file), place) for place, file in found.items()]


def _begin(out: Path, masker: SizedMasker, settings: MaskSettings) -> None:
    """Writes down what the masks are made with, or compares it with what is written."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in _SPEED}
    made = json.loads(json.dumps({"masker": masker.fingerprint, **chosen, "size": masker.size}))
    note = out / SETTINGS
    there = next((path for path in out.rglob("*.png") if not path.name.startswith(".")), None)
    if there is not None and not note.is_file():
        raise DataError(
            f"{out} has masks of another making, such as {there}: give another folder, for masks "
            "that are there are not written over"
        )
    if there is not None:
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
            differs = sorted(name for name in made if before.get(name) != made[name])
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{note} cannot be read: remove it with its masks") from error
        if differs:
            raise DataError(
                f"{out} has masks that were made with another {name_some(differs)} ({note} says "
                "with which): give another folder, or remove it"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def _read_ahead(
    pool: ThreadPoolExecutor, targets: Iterable[Target], size: int, batch_size: int
) -> Iterator[list[_Read | str]]:
    """Yields batches of images, while the next batch is read."""
    waiting: deque[list[Future[_Read | str]]] = deque()
    left = iter(targets)
    while batch := list(islice(left, batch_size)):
        waiting.append([pool.submit(_read, target, size) for target in batch])
        if len(waiting) > 1:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def _read(target: Target, size: int) -> _Read | str:
    try:
        image = read_image(target.image, target.name)
    except DataError as error:
        return str(error)
    # Squeezed into a square, as these networks were trained.
    square = image.resize((size, size), Image.Resampling.BILINEAR)
    small = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return _Read(target.mask, np.asarray(image), small)


def _find(masker: SizedMasker, read: list[_Read]) -> list[Mask]:
    if not read:
        return []
    images = torch.stack([each.small for each in read]).float() / 127.5 - 1
    return list(masker(images)[:, 0].cpu().numpy())


def _write(read: _Read, mask: Mask, settings: MaskSettings) -> None:
    height, width = read.pixels.shape[:2]
    refined = refine(read.pixels, resize_mask(mask, (height, width)), settings)
    grey = Image.fromarray((refined * 255).round().astype(np.uint8))
    read.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(read.target) as temporary:
        grey.save(temporary)
