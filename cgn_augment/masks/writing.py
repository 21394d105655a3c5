"""Writes the masks of a folder of images, in one pass.

Threads read, refine and write while the masker works on a batch. Two batches are in progress, so
memory does not grow with the folder.
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
from cgn_augment.files import owning, parse_json, replacing
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
"""File that records how the masks of a folder were made."""

DRAWN = 96
"""Pixels; a bundled masker was not trained for images whose shorter side is longer."""

_SPEED = ("batch_size", "device", "weights")  # do not change masks; the fingerprint has weights


class MaskCounts(NamedTuple):
    """Result of masking a folder of images.

    Attributes:
        written: number of masks written.
        kept: number of masks that existed before.
        unreadable: the reason for each image that could not be read.
    """

    written: int
    kept: int
    unreadable: tuple[str, ...]


class Target(NamedTuple):
    """An image, and where its mask goes.

    Attributes:
        name: name of the image, for errors.
        image: its file or content.
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
    """Finds the masks of all images in a folder and its subfolders, and writes them as PNG files.

    A mask has eight bits and the displayed size of its image; white is object. The mask of
    `images/cat/1.jpg` is `out/cat/1.png`. An existing mask stays as it is, so that the same call
    continues after an interruption and keeps masks that were corrected by hand.

    Args:
        images: the folder; or a table or the layout of a benchmark, see `read_place`.
        out: another folder; it may hold masks of the same masker with the same settings.
        masker: see `open_masker`.
        settings: settings of the masker, and how to refine its masks.
        split: split to take, if the images have splits, or `all`; training images by default.
        progress: shows a bar.

    Raises:
        ArgumentError: settings do not fit, one folder is inside the other, or a bundled masker is
            given photographs.
        CheckpointError: weights cannot be used.
        DataError: there are no images, two images share one mask, or `out` holds masks of something
            else.
        FileError: there is no such masker.
        MissingPackageError: a package is not installed.
        OSError: a mask cannot be written; earlier ones stay.
        UsageError: another process is writing to `out`.

    Examples:
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
    if Path(images).expanduser().is_dir():  # a table or a layout names all its images
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
        targets: images and the places of their masks; each is taken in turn, so several processes
            may share them.
        out: folder of all masks.
        masker: see `open_masker`.
        settings: settings of the masker, and how to refine its masks.
        total: number of images if known, for the bar.
        alone: keeps other processes that write all masks alone out of the folder.
        progress: shows a bar.

    Raises:
        CGNError: as for `write_masks`.
    """
    settings = settings or MaskSettings()
    if settings.edges != "none":
        import_opencv(settings.edges)  # before anything slow
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
    except DataError:  # reported when its turn comes
        return
    if min(size) > DRAWN:
        raise ArgumentError(
            f"{masker} finds the digits of small drawn images, and {target.name} has "
            f"{size[0]}x{size[1]} pixels: it would find something else in photographs; take "
            "u2net.onnx or another file, torchvision/NAME or grabcut"
        )


def refuse_nested(source: Path, target: Path) -> None:
    """Raises `ArgumentError` if one of the two folders lies inside the other.

    Args:
        source: folder of the images.
        target: folder of the masks.
    """
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ArgumentError(
            f"{target} and {source} must be folders beside each other, or masks would be taken for "
            "images: give another folder for the masks"
        )


def _targets(files: Iterable[str], root: Path, out: Path) -> list[Target]:
    """Returns the place of each image's mask."""
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
    """Records how the masks are made, or compares it with the record."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in _SPEED}
    made = json.loads(json.dumps({"masker": masker.fingerprint, **chosen, "size": masker.size}))
    note = out / SETTINGS
    there = next((path for path in out.rglob("*.png") if not path.name.startswith(".")), None)
    if there is not None and not note.is_file():
        raise DataError(
            f"{out} has masks that this command did not write, such as {there}: give another "
            "folder, since existing masks are never overwritten"
        )
    if there is not None:
        try:
            before = parse_json(note.read_text(encoding="utf-8"))
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
    """Yields batches of images while it reads the next one."""
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
    # Squeezed into a square, as in the training of these networks.
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
