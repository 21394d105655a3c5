"""Downloads the published weights from which the training of an ImageNet CGN starts."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from cgn_augment.errors import ArgumentError, DataError

_BIGGAN = "https://s3.amazonaws.com/models.huggingface.co/biggan"
_BLOCK = 2**20
_TIMEOUT = 30
"""Seconds without an answer after which a server counts as gone."""


@dataclass(frozen=True)
class WeightFile:
    """A file of published weights.

    Attributes:
        name: of the file.
        what: is in it, for people.
        url: where a program can download it, or None.
        page: where a person can.
        num_bytes: its size, where known.
        sha256: its checksum, where known.
    """

    name: str
    what: str
    url: str | None
    page: str
    num_bytes: int | None = None
    sha256: str | None = None


def _biggan(size: int, num_bytes: int | None = None, sha256: str | None = None) -> WeightFile:
    name = f"biggan-deep-{size}-pytorch_model.bin"
    what = f"BigGAN-deep of {size} pixels, the start of the three mechanisms"
    return WeightFile(name, what, f"{_BIGGAN}/{name}", f"{_BIGGAN}/{name}", num_bytes, sha256)


WEIGHT_FILES: dict[str, WeightFile] = {
    "biggan-deep-128": _biggan(128),
    "biggan-deep-256": _biggan(
        256, 234411737, "5900ef4065047e3aa0d1b66197b7f2664dceb59b27080e414ad57e203c485bc5"
    ),
    "biggan-deep-512": _biggan(512),
    "u2net": WeightFile(
        "u2net.pth",
        "U2-Net for salient objects",
        None,
        "https://github.com/xuebinqin/U-2-Net (Google Drive, u2net.pth)",
        176290937,
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
"""Checksums are those that several public repositories give; no file was here to check them by."""


def fetch(file: WeightFile, folder: Path, *, progress: bool = False) -> Path:
    """Brings a file into a folder: checks one that is there, or downloads it, whole or not at all.

    What a broken download left (`NAME.part`) is gone on with, unless the server's file has changed.

    Args:
        file: which.
        folder: where to; made if there is none.
        progress: show a bar.

    Returns:
        The path of the file.

    Raises:
        DataError: the file is not there and cannot be downloaded, or has another checksum. The
            message says what to do by hand.
        OSError: the folder cannot be written.

    Example:
        >>> from train_generator.imagenet.weights import WeightFile, fetch
        >>> folder = getfixture("tmp_path")
        >>> size = (folder / "mine.bin").write_bytes(b"weights")
        >>> fetch(WeightFile("mine.bin", "an example", None, "nowhere", num_bytes=7), folder).name
        'mine.bin'
    """
    path = folder / file.name
    if path.is_file():
        _check(path, path, file)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if file.url is None:
        raise DataError(
            f"{file.name} ({file.what}) has no address that a program can download from: get it "
            f"from {file.page}, save it as {path}, and repeat the command to check it"
        )
    partial, mark = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    _download(file, path, partial, mark, progress)
    _check(partial, path, file)
    partial.replace(path)
    mark.unlink(missing_ok=True)
    return path


def fetch_all(names: Sequence[str], folder: Path, *, progress: bool = False) -> list[str]:
    """Fetches several files, and goes on with the next where one cannot be had.

    Args:
        names: keys of `WEIGHT_FILES`.
        folder: where to.
        progress: show bars.

    Returns:
        A line for each file that is there now: its path, whether its checksum is known, and that.

    Raises:
        ArgumentError: a name that is not one of `WEIGHT_FILES`, or none.
        DataError: some cannot be had; the message says for each what to do.
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
        except DataError as error:
            problems.append(str(error))
            continue
        known = "as known" if WEIGHT_FILES[name].sha256 else "none is known to compare with"
        there.append(f"{path}: sha256 {checksum(path)} ({known})")
    if problems:
        have = f" (there are: {', '.join(line.split(':')[0] for line in there)})" if there else ""
        raise DataError("; ".join(problems) + have)
    return there


def _download(file: WeightFile, path: Path, partial: Path, mark: Path, progress: bool) -> None:
    """Downloads into `partial`, from where an earlier download stopped."""
    start, known = _progress_of(partial, mark)
    request = urllib.request.Request(str(file.url))
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            if answer.status != HTTPStatus.PARTIAL_CONTENT:  # the whole file comes, or another one
                start = 0
            mark.write_text(json.dumps({"etag": answer.headers.get("ETag", "")}))
            _receive(answer, partial, start, f"{file.name}", progress)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # all of it had come
            mark.unlink()  # so that the next call starts anew
        raise DataError(_by_hand(file, path, f"{error.code} {error.reason}")) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(_by_hand(file, path, str(reason) or type(error).__name__)) from error


def _progress_of(partial: Path, mark: Path) -> tuple[int, str]:
    """Returns how many bytes there are, and the server's mark of the file that they are of."""
    if not (partial.is_file() and mark.is_file()):
        return 0, ""
    try:
        etag = str(json.loads(mark.read_text())["etag"])
    except (ValueError, KeyError, TypeError):
        etag = ""
    return (partial.stat().st_size, etag) if etag else (0, "")


def _receive(answer: HTTPResponse, partial: Path, start: int, name: str, progress: bool) -> None:
    length = answer.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    with (
        partial.open("ab" if start else "wb") as file,
        tqdm(
            total=total, initial=start, desc=name, unit="B", unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):  # fmt: skip
        while block := answer.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
    if total is not None and partial.stat().st_size != total:
        raise ConnectionError(
            f"the connection ended after {partial.stat().st_size} of {total} bytes"
        )


def _by_hand(file: WeightFile, path: Path, reason: str) -> str:
    return (
        f"{file.name} ({file.what}) cannot be downloaded ({reason}): repeat the command where "
        f"there is a network, it goes on where it stopped; or get the file from {file.page} and "
        f"save it as {path}"
    )


def _check(found: Path, path: Path, file: WeightFile) -> None:
    """Raises unless the file has the size and the checksum that are known."""
    size = found.stat().st_size
    if file.num_bytes is not None and size != file.num_bytes:
        raise DataError(
            f"{path} is not the published file: it has {size} bytes and not {file.num_bytes}; "
            f"remove {found} and repeat the command, or get it from {file.page}"
        )
    if file.sha256 is not None and (digest := checksum(found)) != file.sha256:
        raise DataError(
            f"{path} is not the published file: its sha256 is {digest} and not {file.sha256}; "
            f"remove {found} and repeat the command, or get it from {file.page}"
        )


def checksum(path: Path) -> str:
    """Returns the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
