"""Writes and downloads files whole or not at all, and gives a folder to one process at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from tqdm import tqdm

from cgn_augment.errors import CheckpointError, FileError, UsageError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no locks, so leftovers stay
    fcntl = None  # type: ignore[assignment]


_LARGEST_DOWNLOAD = 2**34

_MARK = ".tmp-"
_LEFTOVER = re.compile(r"\..*\.tmp-[0-9a-f]{8}(\.[^.]*)?", re.DOTALL)
"""Matches names made by `replacing` and `temporary_file`, and no others."""

LONGEST_NAME = 255
"""Bytes of a file's name, on nearly all file systems; to ask for a longer one is an error."""

_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG)
_swept: set[tuple[int, Path]] = set()
_owned: dict[tuple[int, int, int], int] = {}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends.

    If the block raises, the temporary file is removed and `path` stays as it was. The first write
    to a folder also removes what killed processes left there.

    Args:
        path: the file to write. Its folder exists. The temporary file has the same suffix.

    Raises:
        OSError: the folder is missing or cannot be written; the error names `path`.
        FileError: the disk is full.

    Examples:
        >>> from cgn_augment.files import replacing
        >>> path = getfixture("tmp_path") / "note.txt"
        >>> with replacing(path) as temporary:
        ...     size = temporary.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    if (os.getpid(), path.parent) not in _swept:
        _swept.add((os.getpid(), path.parent))
        remove_leftovers(path.parent)
    try:
        with (
            _naming_full_disks(path),
            temporary_file(path.parent, path.stem, path.suffix) as temporary,
        ):
            yield temporary
            temporary.replace(path)
    except OSError as error:
        if _LEFTOVER.fullmatch(Path(str(error.filename)).name):
            error.filename = str(path)  # the user does not know the temporary file
            error.filename2 = None
        raise


def append(path: Path, text: str) -> None:
    """Writes a text to the end of a file, whole or not at all.

    Args:
        path: the file, made if it is missing. Its folder exists.
        text: what to write.

    Raises:
        OSError: the file cannot be written; it stays as it was.
        FileError: the disk is full.

    Examples:
        >>> from cgn_augment.files import append
        >>> path = getfixture("tmp_path") / "lines.txt"
        >>> for line in ("one", "two"):
        ...     append(path, line + chr(10))
        >>> path.read_text().splitlines()
        ['one', 'two']
    """
    with _naming_full_disks(path), path.open("ab", buffering=0) as file:
        size, left = file.tell(), text.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(size)
            raise


@contextmanager
def _naming_full_disks(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = _why_no_room(error)
        if code is None:
            raise
        full = FileError(
            f"{path} cannot be written ({os.strerror(code)}): make room, and do it again; what was "
            "there before is there still"
        )
        full.strerror = os.strerror(code)
        raise full from error


@contextmanager
def temporary_file(folder: Path, stem: str, suffix: str = "", mode: int = 0o666) -> Iterator[Path]:
    """Yields a new, empty file that stays locked until the block or the process ends.

    The lock ends with the process, even a killed one. So `remove_leftovers` can tell leftovers from
    files that are being written.

    Args:
        folder: where the file goes.
        stem: start of its name.
        suffix: end of its name.
        mode: permissions, before the user's umask.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    room = max(0, LONGEST_NAME - len(f".{_MARK}") - 8 - len(os.fsencode(suffix)))
    stem = os.fsdecode(os.fsencode(stem)[:room])
    while True:
        path = folder / f".{stem}{_MARK}{secrets.token_hex(4)}{suffix}"
        handle = os.open(path, flags, mode)
        if fcntl is None:
            os.close(handle)  # Windows cannot rename an open file
            break
        _lock(handle)
        if path.exists():  # nobody removed it as a leftover before it was locked
            break
        os.close(handle)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if fcntl is not None:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Locks an open file for this process, and returns whether that worked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or no locks on this file system: leave the file
        return False
    return True


def leftovers(folder: Path) -> list[Path]:
    """Returns the temporary files in a folder, including those being written.

    Args:
        folder: the folder; subfolders are not searched.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _LEFTOVER.fullmatch(entry.name)]
        return sorted(folder / name for name in names)
    return []


def remove_leftovers(folder: Path, stem: str | None = None) -> None:
    """Removes temporary files of killed processes from a folder, but none that is in use.

    Args:
        folder: where to look; subfolders are not searched.
        stem: start of their names; None takes all.
    """
    if fcntl is None:
        return
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    for path in leftovers(folder):
        if stem is None or path.name.startswith(f".{stem}{_MARK}"):
            with suppress(OSError):
                handle = os.open(path, flags)
                try:
                    found = os.fstat(handle)
                    ours = found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode)
                    if ours and _lock(handle):
                        path.unlink()
                finally:
                    os.close(handle)


def _why_no_room(error: BaseException) -> int | None:
    """Returns the error number if a disk, quota or limit is full, else None."""
    seen: BaseException | None = error
    while seen is not None:
        found = re.search(r"\(os error (\d+)\)", str(seen))  # Rust's form
        code = int(found[1]) if found else getattr(seen, "errno", None)
        if code is not None and code in _NO_ROOM:
            return int(code)
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def owning(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that also call this out of a folder until the block ends.

    Blocks of one process may be nested. A file system without locks keeps nobody out.

    Args:
        folder: the folder; created if missing.
        wait: waits until the process that owns it has finished.

    Raises:
        UsageError: another process owns the folder, and `wait` is False.

    Examples:
        >>> from cgn_augment.files import owning
        >>> with owning(getfixture("tmp_path") / "runs"):
        ...     pass  # written to by this process alone
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _owning(folder, os.O_RDONLY, f"to {folder}", wait=wait):
        yield


@contextmanager
def owning_file(path: Path) -> Iterator[None]:
    """Keeps other processes that ask for it from a file, in a folder that several fill.

    Blocks of one process may be nested. A hidden file beside it is locked while the block lasts.

    Args:
        path: of the file, which need not be there; its folder is made where it is missing.

    Raises:
        UsageError: another process owns the file.

    Examples:
        >>> from cgn_augment.files import owning_file
        >>> with owning_file(getfixture("tmp_path") / "runs" / "seed0.pt"):
        ...     pass  # written by this process alone
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with _owning(lock, flags, str(path)) as is_last:
        try:
            yield
        finally:
            if is_last():
                lock.unlink(missing_ok=True)


@contextmanager
def _owning(
    place: Path, flags: int, what: str, *, wait: bool = False
) -> Iterator[Callable[[], bool]]:
    """Locks a folder or file that is opened by `flags`, and counts the blocks of this process.

    Yields:
        Whether no other block of this process holds the lock; False where nothing is locked.
    """
    if fcntl is None:
        yield lambda: False
        return
    handle = os.open(place, flags, 0o666)
    try:
        opened = os.fstat(handle)
        key = (os.getpid(), opened.st_dev, opened.st_ino)
        if key not in _owned and not _take(handle, place, wait):
            raise UsageError(
                f"another process is writing {what}: wait until it has ended, or write to another "
                "folder"
            )
        _owned[key] = _owned.get(key, 0) + 1
        try:
            yield lambda: _owned[key] == 1
        finally:
            _owned[key] -= 1
            if not _owned[key]:
                del _owned[key]
    finally:
        os.close(handle)


def _take(handle: int, place: Path, wait: bool) -> bool:
    """Locks an open place, and returns whether this process may write there now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    # Whoever owned a file has removed it meanwhile, and another process may own a new one.
    return place.exists() and os.path.samestat(place.stat(), os.fstat(handle))


def require_place(folder: Path) -> None:
    """Raises if a folder cannot be created or written to. Creates nothing.

    Args:
        folder: the folder, which may be missing.

    Raises:
        FileError: part of its path is a file, or the user may not write there.

    Examples:
        >>> from cgn_augment.files import require_place
        >>> require_place(getfixture("tmp_path") / "runs" / "1")
    """
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path())
    if not there.is_dir():
        raise FileError(f"{folder} cannot be written ({there} is a file): give another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"{folder} cannot be written ({there} may not be written to by this user)")


def open_regular(path: Path) -> IO[bytes]:
    """Opens a regular file for reading. Refuses a pipe or a device, which may never end.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is not a regular file.

    Examples:
        >>> from cgn_augment.files import open_regular
        >>> path = getfixture("tmp_path") / "note.txt"
        >>> size = path.write_bytes(b"whole")
        >>> with open_regular(path) as file:
        ...     file.read()
        b'whole'
    """
    # Opening a pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileError(f"{path} is no regular file: a folder, a pipe or a device is not read")
    return os.fdopen(handle, "rb")


def is_file(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is there; a name that no file can have is none.

    Args:
        path: its path, which may come from anywhere.

    Examples:
        >>> from cgn_augment.files import is_file
        >>> is_file(getfixture("tmp_path") / ("a" * 5000))
        False
    """
    try:
        return Path(path).is_file()
    except OSError:  # the name is too long, or a folder above may not be entered
        return False


def parse_json(text: str | bytes) -> Any:
    """Returns what a JSON text from anywhere says.

    Args:
        text: the text.

    Raises:
        ValueError: it is not JSON, or is nested too deep to be read.

    Examples:
        >>> from cgn_augment.files import parse_json
        >>> parse_json('{"step": 1}')
        {'step': 1}
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def download(
    url: str,
    what: str,
    path: Path | None = None,
    *,
    sha256: str | None = None,
    remedy: str | None = None,
    progress: bool = True,
) -> Path:
    """Downloads a file whole or not at all. A file that exists stays as it is.

    Processes that want files in the same folder take turns.

    Args:
        url: where the file is.
        what: what the file is, for messages, such as "the weights of VGG-16".
        path: where to save it. None means torch.hub's folder; then the URL's name holds the
            checksum.
        sha256: its checksum or the start of it. None checks only the length that the server gives.
        remedy: how to get the file by hand; None names the URL.
        progress: shows a bar on standard error.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: the download failed; the message says what to do by hand.

    Examples:
        >>> from cgn_augment.files import download
        >>> path = getfixture("tmp_path") / "mine.bin"
        >>> size = path.write_bytes(b"weights")
        >>> download("https://example.com/mine.bin", "my weights", path).name  # it is there
        'mine.bin'
    """
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        sha256 = path.stem.split("-")[-1]
    if path.is_file():
        return path
    try:
        with owning(path.parent, wait=True):
            if not path.is_file():  # another process may have downloaded it meanwhile
                with replacing(path) as temporary, temporary.open("wb") as file:
                    digest = _receive(url, file, progress)
                    if not digest.startswith(sha256 or ""):
                        raise OSError(f"its sha256 is {digest} and not {sha256}")
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        remedy = remedy or f"fetch {url} where there is a network"
        raise CheckpointError(
            f"{what} could not be downloaded ({first_line(error)}): {remedy}, and save it as {path}"
        ) from error
    return path


class _Encrypted(HTTPRedirectHandler):
    """Follows no redirect from https to an unencrypted address."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise OSError(f"its server sends on to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, file: IO[bytes], progress: bool) -> str:
    """Writes the content of a URL, at most the length the server announced; returns its SHA-256."""
    digest, num = hashlib.sha256(), 0
    with build_opener(_Encrypted).open(Request(url), timeout=30) as answer:
        announced = answer.headers.get("Content-Length")
        wanted = None if announced is None else int(announced)
        with tqdm(
            total=wanted, unit="B", unit_scale=True, desc=Path(url).name, disable=not progress
        ) as bar:
            while data := answer.read(2**20):
                digest.update(data)
                num += file.write(data)
                bar.update(len(data))
                if num > (_LARGEST_DOWNLOAD if wanted is None else wanted):
                    raise OSError(f"its server sends more than the {wanted or num} bytes expected")
    if wanted is not None and num != wanted:
        raise OSError(f"the connection ended after {num} of {wanted} bytes")
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if the message is empty.

    Args:
        error: the error.
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
