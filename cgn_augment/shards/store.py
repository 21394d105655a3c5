"""A folder or fsspec URL whose files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cgn_augment.errors import FileError
from cgn_augment.files import leftovers, open_regular, remove_leftovers, replacing, temporary_file
from cgn_augment.images.remote import (
    connect,
    local_path,
    open_file,
    patiently,
    protocol_of,
    read_range,
)
from cgn_augment.shards.layout import RECORDS

_LARGEST_READ = 2**30
_SPOOL = "cgn-augment-shard"


class HashingFile:
    """A binary file for writing that counts and hashes its bytes.

    Attributes:
        num_bytes: bytes written.
        digest: their SHA-256.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.num_bytes, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes all of `data`."""
        self._file.write(data)
        self.digest.update(data)
        self.num_bytes += len(data)
        return len(data)


class Store:
    """The files of a set of shards.

    A local file is written under a temporary name in its folder and then renamed. A file for a URL
    is written locally first and then uploaded at once, so readers never see part of it.

    Args:
        url: a folder, or a URL that fsspec knows (`s3://bucket/folder`, `memory://folder`, …).

    Raises:
        ArgumentError: the URL's protocol is unknown, or needs a package that is not installed.
        ArgumentError: the URL's protocol is unknown, or needs a package that is not installed.

    Examples:
        >>> from cgn_augment.shards.store import Store
        >>> store = Store(getfixture("tmp_path"))
        >>> store.write("note.txt", b"whole")
        >>> store.read("note.txt"), store.sizes()
        (b'whole', {'note.txt': 5})
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url).rstrip("/") or "/"
        self.protocol = protocol_of(self.url)
        self.is_local = not self.protocol
        self._process = os.getpid()
        if self.is_local:
            self._root = str(local_path(self.url))
        else:
            self._client, root = connect(self.url)
            self._root = root.rstrip("/")

    @property
    def _files(self) -> Any:
        if self._process != os.getpid():  # connections do not survive a fork
            self._client, self._process = connect(self.url)[0], os.getpid()
        return self._client

    def path(self, name: str) -> str:
        """Returns the path or URL of a file, for other libraries to open."""
        return f"{self._root if self.is_local else self.url}/{name}"

    def sizes(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Returns the size in bytes of every complete file, by its name below the folder.

        Args:
            expected: names to ask for one by one on a web server, which has no listing.

        Raises:
            FileError: access is denied, or the server fails.
        """
        if self.protocol in ("http", "https"):
            return self._sizes_of(expected)
        if self.is_local:
            root = Path(self._root)
            paths = [path for path in root.rglob("*") if not path.name.startswith(".")]
            sizes = {}
            for path in paths:
                with suppress(FileNotFoundError):  # another rank has just renamed it
                    if path.is_file():
                        sizes[path.relative_to(root).as_posix()] = path.stat().st_size
            return sizes
        try:
            found = patiently(self.url, self._find)
        except FileNotFoundError:
            return {}
        skip = len(self._root) + 1
        return {path[skip:]: int(entry["size"]) for path, entry in found.items()}

    def _find(self) -> dict[str, Any]:
        self._files.invalidate_cache()
        found: dict[str, Any] = self._files.find(self._root, detail=True)
        return found

    def _sizes_of(self, names: Iterable[str]) -> dict[str, int]:
        sizes = {}
        for name in names:
            with suppress(FileNotFoundError):
                sizes[name] = self.size(name)
        return sizes

    def size(self, name: str) -> int:
        """Returns the size in bytes of a file, as it is now.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: access is denied, or the server fails.
        """
        url = self.path(name)
        if self.is_local:
            return Path(url).stat().st_size
        size = patiently(url, lambda: self._info(url)["size"])
        if size is None:
            raise FileError(f"{url}: its server does not say how large it is")
        return int(size)

    def _info(self, url: str) -> dict[str, Any]:
        self._files.invalidate_cache()
        found: dict[str, Any] = self._files.info(url)
        return found

    def read(self, name: str) -> bytes:
        """Returns the contents of a file.

        Raises:
            FileNotFoundError: the file does not exist.
            FileError: it is not a regular file, access is denied, or the server fails.
        """
        with self.open(name) as file:
            data = file.read(_LARGEST_READ + 1)
        if len(data) > _LARGEST_READ:
            raise FileError(f"{self.path(name)} is larger than 1 GiB, as no such file of a set is")
        return data

    def open(self, name: str) -> IO[bytes]:
        """Opens a file for reading; errors as for `read`."""
        return open_file(self.path(name))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Returns some bytes of a file.

        Raises:
            OSError: the file is missing, or ends too early.
        """
        if not self.is_local:
            place = f"{self._root}/{name}"
            return read_range(self._files, self.path(name), place, start, length)
        # Opened each time: a kept handle has a position, which forks and threads share.
        with open_regular(Path(self.path(name))) as file:
            if os.fstat(file.fileno()).st_size < start + length:
                raise FileError(f"{self.path(name)} ends before byte {start + length}")
            file.seek(start)
            return file.read(length)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[HashingFile]:
        """Yields a file to write to, which gets its name if the block ends without an error.

        Raises:
            OSError: the file cannot be written.
        """
        if self.is_local:
            path = Path(self._root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                yield HashingFile(file)
                file.flush()
                os.fsync(file.fileno())  # or the name may reach the disk before the content
            return
        with (
            temporary_file(Path(tempfile.gettempdir()), _SPOOL, mode=0o600) as spool,
            spool.open("wb") as file,
        ):
            yield HashingFile(file)
            file.flush()
            target = f"{self._root}/{name}"
            patiently(self.path(name), lambda: self._files.put_file(str(spool), target))

    def remove_leftovers(self) -> None:
        """Removes what killed writers left, but nothing that is being written."""
        if not self.is_local:
            remove_leftovers(Path(tempfile.gettempdir()), _SPOOL)
        for folder in self._folders():
            remove_leftovers(folder)

    def leftovers(self) -> list[str]:
        """Returns the temporary files in a local folder."""
        found = [path for folder in self._folders() for path in leftovers(folder)]
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    def _folders(self) -> list[Path]:
        return [Path(self._root), Path(self._root, RECORDS)] if self.is_local else []
