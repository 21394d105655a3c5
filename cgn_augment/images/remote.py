"""Reads files in folders, object stores and on web servers alike.

A server that fails, throttles or stalls is asked again until the user's patience ends; then the
error says so. Data that was not read completely is never taken for damaged.
"""

from __future__ import annotations

import errno
import io
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import IO, Any, TypeVar, cast

import fsspec

from cgn_augment.errors import ArgumentError, CGNError, FileError
from cgn_augment.files import first_line, open_regular

Answer = TypeVar("Answer")

PATIENCE = "CGN_AUGMENT_PATIENCE"
"""Environment variable: seconds for which a server may fail."""

_SECONDS = 120.0
_LONGEST_PAUSE = 20.0
_BLOCK = 2**23  # bytes per request; with smaller ones, waiting would take longer than reading

_WEB = ("http", "https")
_AMAZON = ("s3", "s3a")
_FIRST_TRIES = 3
_UNREACHED = ("ConnectionRefusedError", "gaierror", "EndpointConnectionError")
_answered: set[str] = set()
"""Servers that have answered this process, which are waited for when they are gone."""

_FINAL = (errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE)
_UNKNOWN_USER = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


def patience() -> float:
    """Returns the number of seconds for which a server may fail.

    Raises:
        ArgumentError: the environment variable is not a number above 0.

    Examples:
        >>> from cgn_augment.images.remote import PATIENCE, patience
        >>> getfixture("monkeypatch").setenv(PATIENCE, "15")
        >>> patience()
        15.0
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text or _SECONDS)
    except ValueError:
        seconds = math.nan
    if not (0 < seconds < math.inf):
        raise ArgumentError(f"{PATIENCE} must be a number of seconds above 0, got {text!r}")
    return seconds


def protocol_of(place: str) -> str:
    """Returns the protocol of a URL; empty for a path and for a `file://` URL.

    Examples:
        >>> from cgn_augment.images.remote import protocol_of
        >>> protocol_of("s3://bucket/set"), protocol_of("/data/a::b"), protocol_of("file:///data")
        ('s3', '', '')
    """
    protocol, separator, _ = place.partition("://")
    return "" if not separator or protocol in ("file", "local") else protocol


def local_path(place: str) -> Path:
    """Returns the path of a place without a protocol, whatever characters it has."""
    path = place.partition("://")[2] if place.startswith(("file://", "local://")) else place
    return Path(path).expanduser().absolute()


def connect(url: str) -> tuple[Any, str]:
    """Returns fsspec's client for a URL, and the path there.

    Raises:
        ArgumentError: the protocol is unknown, or needs a package that is not installed.
    """
    protocol = protocol_of(url)
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url, **_options(protocol)))
    except (ValueError, ImportError) as error:
        raise ArgumentError(f"{url!r} cannot be used: {first_line(error)}") from error


def _options(protocol: str) -> dict[str, Any]:
    seconds = patience() / 5  # of silence; then the connection is dropped and made again
    if protocol in _AMAZON:
        limits = {"connect_timeout": seconds, "read_timeout": seconds}
        given = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        return {"config_kwargs": {**limits, "retries": {"max_attempts": 0}, **given}}
    if protocol in _WEB:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        given = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
        return {"client_kwargs": {"timeout": timeout, **given}}
    return {}


def patiently(url: str, ask: Callable[[], Answer]) -> Answer:
    """Returns a server's answer; asks again if it fails.

    Where nothing has ever answered, a few tries are enough: the address is more likely wrong.

    Args:
        url: the URL, for errors.
        ask: asks once.

    Raises:
        FileNotFoundError: the server says that the file does not exist.
        FileError: it denies access, nothing answers there, or it failed for longer than `patience`.

    Examples:
        >>> from cgn_augment.images.remote import patiently
        >>> answers = iter([OSError("busy"), None])
        >>> def ask():
        ...     error = next(answers)
        ...     if error:
        ...         raise error
        ...     return "content"
        >>> patiently("s3://bucket/file", ask)
        'content'
    """
    seconds, start, pause = patience(), time.monotonic(), 0.1
    server, tries = "/".join(url.split("/")[:3]), 0
    while True:
        tries += 1
        try:
            answer = ask()
            _answered.add(server)
            return answer
        except CGNError:
            raise
        except Exception as error:  # each client has its own errors
            cause = _cause(error)
            reason = f"{type(cause).__name__}: {first_line(cause)}"
            if not _is_unreached(error):
                _answered.add(server)
            elif server not in _answered and tries >= _FIRST_TRIES:
                raise FileError(
                    f"{url}: nothing answers there ({reason}): check the address, and whether the "
                    "server runs"
                ) from error
            if _is_missing(cause):
                raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from error
            if _is_denied(cause):
                raise FileError(
                    f"access to {url} is denied ({reason}): check the credentials, and what they "
                    "are allowed to do"
                ) from error
            if _is_final(cause):
                raise FileError(f"{url} cannot be used: {first_line(cause)}") from error
            pause = max(pause * SystemRandom().uniform(0.7, 1), _asked_pause(cause))
            if time.monotonic() - start + pause > seconds:
                raise FileError(
                    f"{url}: its server has failed for {time.monotonic() - start:.0f} seconds "
                    f"({reason}): try again later, or set {PATIENCE} to more than {seconds:g} "
                    "seconds"
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _cause(error: Exception) -> Exception:
    """Returns the actual error: fsspec reports any failure of a web server as a missing file."""
    cause = error.__cause__
    hidden = isinstance(error, FileNotFoundError) and isinstance(cause, Exception)
    is_web = hidden and type(cause).__module__.partition(".")[0] in ("aiohttp", "asyncio")
    return cast(Exception, cause) if is_web or isinstance(cause, TimeoutError) else error


def _is_unreached(error: BaseException | None) -> bool:
    """Whether no connection came about, since nobody listens or nobody has the name."""
    while error is not None:
        inner = getattr(error, "os_error", None) or error  # as aiohttp has it
        if {type(inner).__name__, type(error).__name__} & set(_UNREACHED):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_missing(cause: Exception) -> bool:
    status = getattr(cause, "status", None)
    return status in (404, 410) or (status is None and isinstance(cause, FileNotFoundError))


def _is_denied(cause: Exception) -> bool:
    denied = isinstance(cause, PermissionError) or type(cause).__name__ in _UNKNOWN_USER
    return denied or getattr(cause, "status", None) in (401, 403, 407)


def _is_final(cause: Exception) -> bool:
    """Whether asking again would give the same answer."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    wrong = isinstance(cause, (ValueError, TypeError, AttributeError, NotImplementedError))
    return wrong or (isinstance(cause, OSError) and cause.errno in _FINAL)


def _asked_pause(cause: Exception) -> float:
    """Returns how many seconds the server asks to wait (`Retry-After`)."""
    response = getattr(cause.__cause__, "response", None) or {}
    headers = getattr(cause, "headers", None)
    if headers is None and isinstance(response, dict):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    try:
        found = {str(name).lower(): value for name, value in dict(headers or {}).items()}
        return max(0.0, float(found.get("retry-after", 0)))
    except (TypeError, ValueError):  # a date, which means longer than seconds
        return 0.0


def open_file(place: str) -> IO[bytes]:
    """Opens a file to read from start to end.

    Args:
        place: a path, or a URL that fsspec knows. Nothing in it is expanded.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: it is a pipe or a device, access is denied, or its server fails.

    Examples:
        >>> from cgn_augment.images.remote import open_file
        >>> path = getfixture("tmp_path") / "run{1,2}.txt"
        >>> size = path.write_bytes(b"whole")
        >>> with open_file(str(path)) as file:
        ...     file.read()
        b'whole'
    """
    protocol = protocol_of(place)
    if not protocol:
        return open_regular(local_path(place))
    kind = _WebFile if protocol in _WEB else _StoredFile
    return cast(IO[bytes], io.BufferedReader(kind(place), _BLOCK))


class _StoredFile(io.RawIOBase):
    """A file in a store that serves any range of its bytes."""

    def __init__(self, url: str) -> None:
        self._url, (self._client, self._path) = url, connect(url)
        self._size = int(patiently(url, lambda: self._client.info(self._path)["size"]))
        self._place = 0

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads as much as fits into the buffer, or what is left."""
        num = min(len(buffer), self._size - self._place)
        if num <= 0:
            return 0
        data = read_range(self._client, self._url, self._path, self._place, num)
        buffer[:num] = data
        self._place += num
        return num


def read_range(client: Any, url: str, path: str, start: int, length: int) -> bytes:
    """Returns some bytes of a file in a store.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it ends too early, or its server sends only whole files or fails.
    """

    def ask() -> bytes:
        data: bytes = client.cat_file(path, start=start, end=start + length)
        if len(data) > length:
            raise FileError(f"{url}: its server does not send parts of files: copy the set here")
        if len(data) < length:
            if int(client.info(path)["size"]) < start + length:
                raise FileError(f"{url} ends before byte {start + length}")
            raise OSError(f"the answer ended after {len(data)} of {length} bytes")
        return data

    return patiently(url, ask)


class _WebFile(io.RawIOBase):
    """A file on a web server that may not serve ranges: it is read in one go."""

    def __init__(self, url: str) -> None:
        self._url, (self._client, self._path) = url, connect(url)
        self._size = patiently(url, lambda: self._client.info(self._path).get("size"))
        self._place = 0
        self._stream: Any = None

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what has arrived, but no more than the server announced."""
        num = len(buffer)
        if self._size is not None:
            num = min(num, self._size - self._place)
        data = patiently(self._url, lambda: self._read(num)) if num > 0 else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _read(self, num: int) -> bytes:
        try:
            if self._stream is None:
                self._stream = self._client.open(self._path, "rb", block_size=0)
                self._skip(self._place)
            data: bytes = self._stream.read(num)
            if not data and self._size is not None:
                raise OSError(f"the answer ended after {self._place} of {self._size} bytes")
        except Exception:
            self._let_go()
            raise
        return data

    def _skip(self, num: int) -> None:
        while num > 0:
            data = self._stream.read(min(num, _BLOCK))
            if not data:
                raise OSError(f"the answer ended {num} bytes before the place it was at")
            num -= len(data)

    def _let_go(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def close(self) -> None:
        """Ends the connection."""
        if not self.closed:
            self._let_go()
        super().close()
