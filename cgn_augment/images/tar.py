"""Reads the samples of WebDataset shards from plain tar files; errors say why one is not whole."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Self

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import first_line
from cgn_augment.images.remote import local_path, open_file, protocol_of

Sample = dict[str, Any]
"""The files of a sample as bytes by suffix; its key in `__key__` and its tar in `__url__`."""

_LARGEST_FILE = 2**30
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def expand_urls(urls: str) -> list[str]:
    """Expands the braces of a path or URL to a list of shards, as webdataset does.

    The path of an existing file stands for itself, whatever characters it has.

    Raises:
        ArgumentError: the braces do not close.

    Examples:
        >>> from cgn_augment.images.tar import expand_urls
        >>> expand_urls("s3://bucket/train-{08..10}.tar")[1:]
        ['s3://bucket/train-09.tar', 's3://bucket/train-10.tar']
    """
    from webdataset.shardlists import expand_urls as expand  # slow to import

    if not protocol_of(urls) and local_path(urls).is_file():
        return [urls]
    try:
        expanded: list[str] = expand(urls)
    except ValueError as error:
        raise ArgumentError(
            f"the braces of {urls} cannot be expanded ({first_line(error)}): several shards are "
            "written as in train-{000..146}.tar"
        ) from error
    return expanded


class _Header(tarfile.TarInfo):
    """A header that must be whole: Python takes a partial one for the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(first_line(error)) from error


def read_samples(file: IO[bytes], url: str) -> Iterator[Sample]:
    """Yields the samples of an open tar file.

    Args:
        file: the open file.
        url: its name, for errors.

    Raises:
        DataError: it is not a tar, is compressed, ends without tar's end marker, or holds a file
            that belongs to no sample; the message says after how many samples.
    """
    from webdataset.tariterators import group_by_keys  # slow to import

    num = 0
    try:
        for sample in group_by_keys(_read_files(file, url)):
            num += 1
            yield sample
    except (DataError, tarfile.TarError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{url} is damaged behind sample {num} ({first_line(error)}): make or copy it again"
        ) from error


def _read_files(file: IO[bytes], url: str) -> Iterator[dict[str, Any]]:
    start = file.peek(4)[:4] if hasattr(file, "peek") else b""
    for sign, name in _PACKED.items():
        if start.startswith(sign):
            raise DataError(f"it is compressed with {name}, and only a plain tar is read")
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_Header) as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep all headers
            base = info.name.rpartition("/")[2]
            if not info.isreg() or (base.startswith("__") and base.endswith("__")):
                continue
            if base.startswith("._"):
                raise DataError(
                    f"it holds {info.name!r}, a file of macOS: make it with COPYFILE_DISABLE=1"
                )
            if info.issparse() or not 0 <= info.size <= _LARGEST_FILE:
                raise DataError(f"it holds {info.name!r}, which is sparse or larger than 1 GiB")
            data = tar.extractfile(info)
            yield {"fname": info.name, "data": b"" if data is None else data.read(), "__url__": url}
    yield {}  # the end of a shard


def read_shard(
    url: str,
    *,
    shuffle: int = 0,
    seed: int = 0,
    keep: Callable[[Sample], bool] | None = None,
    damaged: Callable[[DataError], object] | None = None,
) -> Iterator[Sample]:
    """Yields the samples of a shard; their order is a function of the seed.

    Args:
        url: a path, or a URL that fsspec knows.
        shuffle: size of the shuffle buffer, in samples; 0 keeps the order of the file.
        seed: seed of the order.
        keep: decides whether to keep a sample; all by default.
        damaged: called with the error if the tar is damaged, which then ends; raises by default.

    Raises:
        FileNotFoundError: the shard is missing.
        FileError: it cannot be opened, or its server fails.
        DataError: it is damaged.
    """
    with open_file(url) as file:
        samples = _until_damage(read_samples(file, url), damaged)
        if keep is not None:
            samples = filter(keep, samples)
        if shuffle:
            from webdataset.filters import shuffle as mix  # slow to import

            samples = mix(shuffle, initial=shuffle, rng=random.Random(seed))(samples)
        yield from samples


def _until_damage(
    samples: Iterator[Sample], damaged: Callable[[DataError], object] | None
) -> Iterator[Sample]:
    try:
        yield from samples
    except DataError as error:
        if damaged is None:
            raise
        damaged(error)
