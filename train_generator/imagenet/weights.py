"""Downloads the published weights that the training of an ImageNet CGN starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import download

_BIGGAN = "https://s3.amazonaws.com/models.huggingface.co/biggan"


@dataclass(frozen=True)
class WeightFile:
    """A file of published weights.

    Attributes:
        name: name of the file.
        what: what it holds, for people.
        url: where a program can download it, or None.
        page: where a person can download it.
        sha256: its checksum, if known.
    """

    name: str
    what: str
    url: str | None
    page: str
    sha256: str | None = None


def _biggan(size: int, sha256: str | None = None) -> WeightFile:
    name = f"biggan-deep-{size}-pytorch_model.bin"
    what = f"BigGAN-deep of {size} pixels, the start of the three mechanisms"
    return WeightFile(name, what, f"{_BIGGAN}/{name}", f"{_BIGGAN}/{name}", sha256)


WEIGHT_FILES: dict[str, WeightFile] = {
    "biggan-deep-128": _biggan(128),
    "biggan-deep-256": _biggan(
        256, "5900ef4065047e3aa0d1b66197b7f2664dceb59b27080e414ad57e203c485bc5"
    ),
    "biggan-deep-512": _biggan(512),
    "u2net": WeightFile(
        "u2net.pth",
        "U2-Net for salient objects",
        None,
        "https://github.com/xuebinqin/U-2-Net (Google Drive, u2net.pth)",
        "10025a17f49cd3208afc342b589890e402ee63123d6f2d289a4a0903695cce58",
    ),
    "cgn": WeightFile(
        "cgn.pth",
        "the trained ImageNet CGN",
        None,
        "https://github.com/autonomousvision/counterfactual_generative_networks (Google Drive, "
        "cgn.pth)",
    ),
}
"""Checksums are those that several public repositories state; they were not verified on a file."""


def fetch(file: WeightFile, folder: Path, *, progress: bool = False) -> Path:
    """Fetches a file into a folder: checks an existing one, or downloads it whole or not at all.

    Args:
        file: which file.
        folder: where to save it; created if missing.
        progress: shows a bar.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: the file is missing and cannot be downloaded, or has another checksum. The
            message says what to do by hand.

    Examples:
        >>> from train_generator.imagenet.weights import WeightFile, fetch
        >>> folder = getfixture("tmp_path")
        >>> size = (folder / "mine.bin").write_bytes(b"weights")
        >>> fetch(WeightFile("mine.bin", "an example", None, "nowhere"), folder).name
        'mine.bin'
    """
    path, what = folder / file.name, f"{file.name} ({file.what})"
    if path.is_file():
        if file.sha256 is not None and (digest := checksum(path)) != file.sha256:
            raise CheckpointError(
                f"{path} is not the published file: its sha256 is {digest} and not {file.sha256}; "
                f"remove it and repeat the command, or get it from {file.page}"
            )
        return path
    if file.url is None:
        raise CheckpointError(
            f"{what} has no address that a program can download from: get it from {file.page}, "
            f"save it as {path}, and repeat the command to check it"
        )
    remedy = f"repeat the command where there is a network; or get the file from {file.page}"
    return download(file.url, what, path, sha256=file.sha256, remedy=remedy, progress=progress)


def fetch_all(names: Sequence[str], folder: Path, *, progress: bool = False) -> list[str]:
    """Fetches several of `WEIGHT_FILES`; continues with the next if one is not available.

    Args:
        names: names of the files.
        folder: where to save them.
        progress: shows a bar.

    Returns:
        A line for each file that now exists: path, checksum, and whether that is known.

    Raises:
        ArgumentError: a name is not one of `WEIGHT_FILES`, or there are none.
        CheckpointError: some files are not available; the message says for each what to do.
    """
    unknown = [name for name in names if name not in WEIGHT_FILES]
    if unknown or not names:
        raise ArgumentError(
            f"files must be of {', '.join(WEIGHT_FILES)}, got {', '.join(unknown) or 'none'}"
        )
    there, problems = [], []
    for name in dict.fromkeys(names):
        try:
            path = fetch(WEIGHT_FILES[name], folder, progress=progress)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        known = "as known" if WEIGHT_FILES[name].sha256 else "none is known to compare with"
        there.append(f"{path}: sha256 {checksum(path)} ({known})")
    if problems:
        have = f" (there are: {', '.join(line.split(':')[0] for line in there)})" if there else ""
        raise CheckpointError("; ".join(problems) + have)
    return there


def checksum(path: Path) -> str:
    """Returns the sha256 of a file, as hexadecimal digits.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
