"""A stream as a `DataLoader`: it stays the stream, whoever rebuilds it."""

from __future__ import annotations

from itertools import islice

import pytest
from stream_helpers import Digits, collect, same, stream
from torch.utils.data import DataLoader, IterableDataset

from cgn_augment.errors import UsageError
from cgn_augment.stream.place import REBUILDERS


def test_a_loader_is_a_data_loader_that_yields_what_the_stream_yields() -> None:
    whole, loader = stream(), stream().as_loader()
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, IterableDataset)
    assert len(loader) == 5
    assert same(collect(loader, 2), collect(whole, 2))


def test_epoch_and_state_of_a_loader_are_the_streams() -> None:
    epochs = [list(train) for train in [stream()] * 3]
    loader = stream().as_loader()
    loader.sampler.set_epoch(1)
    assert same(list(islice(loader, 2)), epochs[1][:2])
    resumed = stream().as_loader()
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert same(list(resumed), epochs[1][2:])
    resumed.set_epoch(0)
    assert same(list(resumed), epochs[0])
    assert (loader.dataset.epoch, resumed.dataset.epoch) == (1, 1)


def test_a_loader_that_is_rebuilt_from_it_yields_the_mixed_batches() -> None:
    loader = stream().as_loader()
    rebuilt = DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor,
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
    )
    batches = [tuple(batch) for batch in rebuilt]
    assert same(batches, [tuple(batch) for batch in stream()])


@pytest.mark.parametrize("name", REBUILDERS)
def test_what_only_a_rebuilt_loader_needs_is_refused_by_the_bare_stream(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} of a Coun.* real images alone: .*as_loader\(\)"):
        getattr(stream(), name)
    assert not hasattr(stream(), "no_such_thing")
    assert hasattr(stream().as_loader(), name)


def test_the_dataset_of_the_bare_stream_is_the_users() -> None:
    digits = Digits(20)
    assert stream(digits, batch_size=4).dataset is digits
