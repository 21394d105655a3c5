"""Reads the samples of a shard with webdataset's own parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from cgn_augment.shards.encode import Sample


def _raise(error: Exception) -> bool:
    raise error


def read_samples(
    file: IO[bytes], url: str, handler: Callable[[Exception], bool] = _raise
) -> Iterator[Sample]:
    """Yields the samples of a tar file: dicts of bytes by suffix, with their key in `__key__`.

    Args:
        file: the open file.
        url: its name, for errors.
        handler: called with what is wrong with the tar; returns whether to go on. Raises by
            default.
    """
    opened: list[dict[str, Any]] = [{"url": url, "stream": file}]
    files = tar_file_expander(opened, handler=handler)
    yield from group_by_keys(files, handler=handler)
