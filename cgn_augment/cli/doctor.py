"""The command `cgn-augment doctor`: what is installed and what is wrong, on one screen."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from cgn_augment.cli.screen import tell
from cgn_augment.errors import CGNError
from cgn_augment.files import first_line
from cgn_augment.generators import bundled_generators, load_cgn
from cgn_augment.masks import bundled_maskers, load_masker
from cgn_augment.ranks import count_cores

PACKAGE = "cgn-augment"
HIDDEN_EXTRAS = ("test",)
LEAST_SHARED = 2**28
"""Bytes of shared memory below which workers that return batches are likely to be killed."""


class Need(NamedTuple):
    """A required package, and what is installed.

    Attributes:
        name: name of the package.
        wanted: versions that fit, such as ">=2.6".
        found: the installed version, or None.
        fits: whether the installed version fits.
    """

    name: str
    wanted: str
    found: str | None
    fits: bool


def doctor() -> None:
    """Prints versions, devices, extras, bundled files and problems, for a bug report.

    The exit code is 1 if there is a problem.
    """
    needs = find_needs()
    required = needs.pop("")
    wrong = [*_find_wrong_versions(required), *_find_broken_imports()]
    device, of_device = describe_device()
    files, of_files = check_bundled_files()
    lines = {
        PACKAGE: f"{_find_version(PACKAGE)}, Python {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {count_cores()} cores",
        "device": device,
        "packages": ", ".join(f"{need.name} {need.found or 'missing'}" for need in required),
        "extras": "; ".join(_describe_extra(extra, of) for extra, of in needs.items()),
        "bundled": files,
    }
    for name, text in lines.items():
        tell(name, text, 12)
    wrong += [*of_device, *of_files, *_find_small_limits()]
    for text in wrong:
        tell("wrong", text, 12)
    if wrong:
        sys.exit(1)
    tell("wrong", "nothing was found", 12)


def find_needs(package: str = PACKAGE) -> dict[str, list[Need]]:
    """Returns the packages that a package requires, by extra; "" holds those always required.

    Examples:
        >>> from cgn_augment.cli.doctor import find_needs
        >>> [need.fits for need in find_needs()[""] if need.name == "torch"]
        [True]
    """
    needs: dict[str, list[Need]] = {"": []}
    for text in requires(package) or ():
        asked = Requirement(text)
        extra = next(_extras_of(asked), "")
        if extra not in HIDDEN_EXTRAS:
            found = _find_version(asked.name)
            fits = found is not None and asked.specifier.contains(found, prereleases=True)
            need = Need(asked.name, str(asked.specifier), found, fits)
            needs.setdefault(extra, []).append(need)
    return needs


def describe_device() -> tuple[str, list[str]]:
    """Returns what torch can run on, and any problem with it."""
    import torch

    cuda = torch.version.cuda
    built = f"torch is built for {'the CPU alone' if cuda is None else f'CUDA {cuda}'}"
    if torch.cuda.is_available():
        num = torch.cuda.device_count()
        cards = {torch.cuda.get_device_name(number) for number in range(num)}
        return f"{num} x {' / '.join(sorted(cards))}; {built}", []
    there = shutil.which("nvidia-smi") is not None
    wrong = [f"there is an NVIDIA driver, and torch sees no GPU: {built}; see pytorch.org"]
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads != 1)}; {built}", wrong if there else []


def check_bundled_files() -> tuple[str, list[str]]:
    """Returns how many bundled networks can be loaded, and which cannot."""
    generators, maskers = bundled_generators(), bundled_maskers()
    kinds: list[tuple[Sequence[str], Callable[[str], Any]]] = [
        (generators, load_cgn),
        (maskers, load_masker),
    ]
    wrong = []
    for names, load in kinds:
        for name in names:
            try:
                load(name)
            except CGNError as error:
                wrong.append(f"bundled {name}: {first_line(error)}; install {PACKAGE} again")
    counted = (f"{len(generators)} generators", f"{len(maskers)} maskers")
    return ", ".join(counted) + (f", {len(wrong)} damaged" if wrong else ", all whole"), wrong


def _extras_of(asked: Requirement) -> Iterator[str]:
    """Yields the extra that a requirement belongs to, if any."""
    if asked.marker is not None:
        words = str(asked.marker).split("extra ==")[1:]
        yield from (word.split()[0].strip("\"'") for word in words)


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _describe_extra(extra: str, needs: list[Need]) -> str:
    lacking = [f"{need.name}{need.wanted}" for need in needs if not need.fits]
    return f"{extra}: {'lacks ' + ', '.join(lacking) if lacking else 'yes'}"


def _find_wrong_versions(needs: list[Need]) -> list[str]:
    return [
        f"{need.name} is {need.found or 'missing'}: pip install '{need.name}{need.wanted}'"
        for need in needs
        if not need.fits
    ]


def _find_broken_imports() -> list[str]:
    """Returns packages that are installed but do not fit together."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return [
            f"torchvision cannot be imported ({first_line(error)}): it belongs to another torch; "
            "pip install --force-reinstall torch torchvision"
        ]
    return []


def _find_small_limits() -> list[str]:
    """Returns limits of this machine that stop workers."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return []
    size = shutil.disk_usage(place).total
    if size >= LEAST_SHARED:
        return []
    return [
        f"{place} has {size / 2**20:.0f} MiB, too few for num_workers above 0: give the container "
        "more (docker run --shm-size=2g)"
    ]
