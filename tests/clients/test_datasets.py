"""Data sets of Hugging Face as real data, map-style and streamed."""

from __future__ import annotations

from itertools import chain
from typing import Any

import datasets.distributed
import pytest
from client_helpers import seen, stream
from stream_helpers import Run, check_resume, picture

from cgn_augment import CounterfactualDataset

KEYS = ("pixel_values", "labels")


def rows(num: int = 20) -> Any:
    columns = {
        "pixel_values": [picture(i).numpy() for i in range(num)],
        "labels": [i % 10 for i in range(num)],
    }
    return datasets.Dataset.from_dict(columns).with_format("torch")


def test_rows_are_read_in_the_streams_order() -> None:
    def make() -> CounterfactualDataset:
        return stream(rows(), batch_size=4, keys=KEYS)

    assert [seen(batch["pixel_values"]) for batch in make()] == [seen(x) for x, _ in stream()]
    check_resume(make, Run(make), [(0, 3), (0, 5), (1, 1)])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_streamed_set_is_shuffled_anew_each_epoch(num_workers: int) -> None:
    real = rows().to_iterable_dataset(num_shards=2).shuffle(seed=1, buffer_size=20)
    train = stream(real, batch_size=4, keys=KEYS, num_workers=num_workers)
    epochs = [[seen(batch["pixel_values"])[0] for batch in train] for _ in range(2)]
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(20))
    assert epochs[0] != epochs[1]


def test_a_streamed_set_goes_on() -> None:
    def make() -> CounterfactualDataset:
        real = rows().to_iterable_dataset(num_shards=2).shuffle(seed=1, buffer_size=20)
        return stream(real, batch_size=4, keys=KEYS)

    check_resume(make, Run(make), [(0, 3), (0, 5), (1, 1)])


def test_a_split_by_node_knows_its_rank() -> None:
    """Its own way to share out a streamed set: then the stream must not share it out again."""
    read = []
    for rank in range(2):
        real = datasets.distributed.split_dataset_by_node(
            rows().to_iterable_dataset(num_shards=2), rank=rank, world_size=2
        )
        train = stream(real, batch_size=5, keys=KEYS, rank=rank, world_size=2, shard_iterable=False)
        batches = [seen(batch["pixel_values"])[0] for batch in train]
        assert len(batches) == 2
        read += chain(*batches)
    assert sorted(read) == list(range(20))
