"""Mosaic streaming as real data, in an environment of its own: `.ci/slow` makes it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from client_helpers import steps_of, stream
from stream_helpers import Run, check_resume, picture
from torch import Tensor

from cgn_augment import CounterfactualDataset

streaming = pytest.importorskip(
    "streaming", reason="mosaicml-streaming wants other versions of NumPy and transformers"
)

pytestmark = pytest.mark.slow


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Path]:
    """Twenty pictures, as an array and a label each."""
    columns = {"image": "ndarray:float32:3,8,8", "label": "int"}
    folder = tmp_path / "shards"
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=4000) as writer:
        for i in range(20):
            writer.write({"image": picture(i).numpy(), "label": i % 10})
    yield folder
    streaming.base.util.clean_stale_shared_memory()


def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """Its arrays cannot be written to, which torch warns of."""
    images = torch.stack([torch.from_numpy(sample["image"].copy()) for sample in samples])
    return images, torch.tensor([sample["label"] for sample in samples])


def make(shards: Path) -> CounterfactualDataset:
    real = streaming.StreamingDataset(local=str(shards), shuffle=True, batch_size=4)
    return stream(streaming.StreamingDataLoader(real, batch_size=4, collate_fn=collate))


def test_each_epoch_holds_all_images_in_an_order_of_its_own(shards: Path) -> None:
    train = make(shards)
    assert len(train) == 5
    epochs = [steps_of(train) for _ in range(2)]
    for steps in epochs:
        assert sorted(chain(*(real for real, _ in steps))) == list(range(20))
        assert {len(made) for _, made in steps} == {2}
    assert epochs[0] != epochs[1]


def test_a_broken_off_epoch_is_followed_by_the_next_one(shards: Path) -> None:
    train = make(shards)
    whole = [steps_of(train) for _ in range(2)]
    again = make(shards)
    next(iter(again))
    assert steps_of(again) == whole[1]


def test_it_goes_on_in_the_middle_of_an_epoch(shards: Path) -> None:
    run = Run(lambda: make(shards))
    check_resume(lambda: make(shards), run, [(0, 0), (0, 2), (0, 5), (1, 3)])


def test_samples_are_batched_by_the_stream(shards: Path) -> None:
    real = streaming.StreamingDataset(local=str(shards), shuffle=True, batch_size=4)
    train = stream(real, batch_size=4, collate_fn=collate)
    for _ in range(2):
        read = [indices for indices, _ in steps_of(train)]
        assert len(read) == len(train) == 5
        assert sorted(chain(*read)) == list(range(20))
