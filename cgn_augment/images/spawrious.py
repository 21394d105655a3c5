"""The layout of Spawrious (Lynch et al., 2023): four breeds of dogs in six locations.

A benchmark takes the same images as the authors' code (github.com/aengusl/spawrious), but in
another order: theirs is that of the directory, ours that of the names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import name_some
from cgn_augment.images.image_table import TRAIN, ImageTable

CLASSES = ("bulldog", "corgi", "dachshund", "labrador")
FOLDER = "spawrious224"
TOTAL = 3168
"""Images per breed and location in the published set."""

BROKEN = "1/beach/labrador/beach_labrador_450.png"
"""An image of the published set that cannot be read."""

_SHARES = (0.97, 0.87)  # of a class at its own location, by environment
_BREEDS = ("bulldog", "dachshund", "labrador", "corgi")  # in the order of the locations below


class _Locations(NamedTuple):
    train: tuple[str, str, str, str]
    test: tuple[str, str, str, str]
    filler: str = ""


_BENCHMARKS = {
    "o2o_easy": _Locations(
        ("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"
    ),
    "o2o_medium": _Locations(
        ("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"
    ),
    "o2o_hard": _Locations(
        ("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"
    ),
    "m2m_easy": _Locations(
        ("desert", "mountain", "dirt", "jungle"), ("dirt", "jungle", "mountain", "desert")
    ),
    "m2m_medium": _Locations(
        ("beach", "snow", "mountain", "desert"), ("desert", "mountain", "beach", "snow")
    ),
    "m2m_hard": _Locations(
        ("dirt", "jungle", "snow", "beach"), ("snow", "beach", "dirt", "jungle")
    ),
}
BENCHMARKS = tuple(_BENCHMARKS)


class _Taken(NamedTuple):
    """Images of one folder: all, a share by name, or the rest of another share."""

    split: str
    environment: int
    location: str
    breed: str
    share: float = 1.0
    fills: bool = False

    @property
    def folder(self) -> str:
        """Path relative to the folder of the set."""
        return f"{self.environment}/{self.location}/{self.breed}"

    def number(self, total: int) -> int:
        """Returns how many of `total` images to take."""
        num = int(self.share * total)
        return total - num if self.fills else num


def read_spawrious(root: Path, benchmark: str = "") -> ImageTable:
    """Lists the images of a benchmark.

    Args:
        root: folder with the folder `spawrious224`, or that folder.
        benchmark: o2o_easy, o2o_medium, o2o_hard, m2m_easy, m2m_medium or m2m_hard.

    Returns:
        The images, in the splits train and test. A group is a breed at a location.

    Raises:
        ArgumentError: the benchmark does not exist.
        DataError: a folder that it needs is missing or empty.

    Warns:
        UserWarning: a broken image of the published set was left out, or a folder has too few
            images for the shares of the benchmark.
    """
    if benchmark not in _BENCHMARKS:
        raise ArgumentError(
            f"say which benchmark of Spawrious, spawrious:{root}@NAME with one of "
            f"{', '.join(BENCHMARKS)}; got {benchmark!r}"
        )
    root = root.expanduser()
    inside = "" if root.name == FOLDER else f"{FOLDER}/"
    taken = list(_taken(benchmark))
    found = {each.folder: _names(root / inside, each.folder) for each in taken}
    lost = [folder for folder, names in found.items() if not names]
    if lost:
        raise DataError(
            f"{root} has no images in {inside}{name_some(lost)}, which {benchmark} of Spawrious "
            f"takes. Expected: {FOLDER}/{{0,1}}/LOCATION/BREED/*.png"
        )
    total = min(TOTAL, max(len(names) for names in found.values()))
    groups = sorted({(CLASSES.index(each.breed), each.location) for each in taken})
    rows = []
    for each in taken:
        names, num = found[each.folder], each.number(total)
        if each.split == TRAIN and len(names) < num:
            warnings.warn(
                f"{root / inside / each.folder} has {len(names)} images, and {benchmark} of "
                f"Spawrious takes {num}: its shares of locations are others than published",
                stacklevel=2,
            )
        label = CLASSES.index(each.breed)
        group = groups.index((label, each.location))
        limit = num if each.split == TRAIN else None
        rows += [(f"{inside}{each.folder}/{name}", label, each, group) for name in names[:limit]]
    return ImageTable(
        place=f"spawrious:{root}@{benchmark}",
        root=root,
        files=tuple(file for file, _, _, _ in rows),
        labels=tuple(label for _, label, _, _ in rows),
        classes=CLASSES,
        splits=tuple(each.split for _, _, each, _ in rows),
        columns={"location": tuple(each.location for _, _, each, _ in rows)},
    ).with_groups(
        [group for _, _, _, group in rows],
        [f"{CLASSES[label]} on {location}" for label, location in groups],
    )


def _taken(benchmark: str) -> Iterator[_Taken]:
    """Yields the folders of a benchmark, as `build_combination` of the authors' code does."""
    train, test, filler = _BENCHMARKS[benchmark]
    if filler:  # one location per breed, and a filler for all
        for environment, share in enumerate(_SHARES):
            for breed, location in zip(_BREEDS, train, strict=True):
                yield _Taken(TRAIN, environment, location, breed, share)
            for breed in _BREEDS:
                yield _Taken(TRAIN, environment, filler, breed, share, fills=True)
        for environment in range(len(_SHARES)):
            for breed, location in zip(_BREEDS, test, strict=True):
                yield _Taken("test", environment, location, breed)
        return
    for split, places in ((TRAIN, train), ("test", test)):  # two locations for two breeds
        for pair in (0, 2):
            for breed in _BREEDS[pair : pair + 2]:
                for location in places[pair : pair + 2]:
                    yield _Taken(split, 0, location, breed)


def _names(root: Path, folder: str) -> list[str]:
    if not (root / folder).is_dir():
        return []
    names = sorted(
        path.name
        for path in (root / folder).iterdir()
        if path.suffix in (".png", ".jpg", ".jpeg") and not path.name.startswith(".")
    )
    broken = [name for name in names if f"{folder}/{name}" == BROKEN]
    if broken:
        warnings.warn(
            f"{root / folder / broken[0]} is broken in the published set: left out", stacklevel=3
        )
    return [name for name in names if name not in broken]
