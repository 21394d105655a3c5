"""Reads the samples of WebDataset shards, with webdataset's own parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import IO, Any

import fsspec

Sample = dict[str, Any]
"""The files of a sample as bytes by suffix, with its key in `__key__` and its tar in `__url__`."""

Handler = Callable[[Exception], bool]
"""Called with what is wrong with a tar; returns whether to go on."""


def _raise(error: Exception) -> bool:
    raise error


def expand_urls(urls: str) -> list[str]:
    """Returns the shards that a path or URL with braces stands for, as webdataset does.

    Example:
        >>> from cgn_augment.images.tar import expand_urls
        >>> expand_urls("s3://bucket/train-{08..10}.tar")[1:]
        ['s3://bucket/train-09.tar', 's3://bucket/train-10.tar']
    """
    from webdataset.shardlists import expand_urls as expand  # imports much

    expanded: list[str] = expand(urls)
    return expanded


def read_samples(file: IO[bytes], url: str, handler: Handler = _raise) -> Iterator[Sample]:
    """Yields the samples of an open tar file.

    Args:
        file: the open file.
        url: its name, for errors.
        handler: called with what is wrong with the tar; raises by default.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander  # imports much

    opened: list[dict[str, Any]] = [{"url": url, "stream": file}]
    files = tar_file_expander(opened, handler=handler)
    yield from group_by_keys(files, handler=handler)


def read_shard(
    url: str,
    *,
    shuffle: int = 0,
    seed: int = 0,
    keep: Callable[[Sample], bool] | None = None,
    handler: Handler = _raise,
) -> Iterator[Sample]:
    """Yields the samples of a shard, whose order is a function of the seed.

    Args:
        url: a path, or a URL that fsspec knows.
        shuffle: samples that they are shuffled over; 0 keeps the order of the file.
        seed: of the order.
        keep: says of a sample whether it is wanted; all are by default.
        handler: called with what is wrong with the tar; raises by default.

    Raises:
        OSError: the shard is missing or cannot be opened.
    """
    with fsspec.open(url, "rb") as file:
        samples = read_samples(file, url, handler)
        if keep is not None:
            samples = filter(keep, samples)
        if shuffle:
            from webdataset.filters import shuffle as mix  # imports much

            samples = mix(shuffle, initial=shuffle, rng=random.Random(seed))(samples)
        yield from samples
