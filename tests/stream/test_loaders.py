"""A loader of the user's: its length, its epochs, and what it shows of itself."""

from __future__ import annotations

from itertools import chain

import pytest
from stream_helpers import Digits, EpochDigits, SizedDigitStream, list_of_batches, stream
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler

from cgn_augment import CounterfactualDataset


def test_a_loader_that_drops_the_last_batch_or_has_batches_of_its_own_keeps_its_length() -> None:
    dropping = DataLoader(Digits(19), 4, drop_last=True)
    own = DataLoader(Digits(19), batch_sampler=[[0, 1], [2, 3, 4]])
    for loader in (dropping, own):
        train = stream(loader)
        assert len(train) == len(list(train)) == len(loader)


def test_workers_that_round_their_own_part_leave_no_exact_length() -> None:
    # Two workers make batches of 4, 4, 2 and 4, 4, 1 images: six, where 19 / 4 rounds up to five.
    train = stream(SizedDigitStream(19), batch_size=4, num_workers=2, ratio=0)
    with pytest.raises(TypeError, match="no length"):
        len(train)
    assert len(list(train)) == 6


def test_workers_that_get_ready_batches_keep_the_declared_length() -> None:
    assert len(stream(DataLoader(SizedDigitStream(20), batch_size=None, num_workers=2))) == 20


def test_a_jump_counts_what_a_batch_sampler_reads_and_not_the_dataset() -> None:
    def make() -> CounterfactualDataset:
        sampler = WeightedRandomSampler([1.0] * 20, 7)
        loader = DataLoader(Digits(20), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        return stream(loader, ratio=0.3, mix="separate")

    epochs = [[len(made[0]) for _, made in epoch] for epoch in [make()] * 3]
    jumped = make()
    jumped.set_epoch(2)
    assert [len(made[0]) for _, made in jumped] == epochs[2]
    assert sum(chain(*epochs)) == int(0.3 * 7 * 3)


def test_persistent_workers_of_a_users_own_loader_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream(DataLoader(EpochDigits(12), 4, num_workers=1, persistent_workers=True))
    assert "persistent workers, whose copies of the dataset may not see set_epoch" in caplog.text
    caplog.clear()
    stream(DataLoader(Digits(12), 4, num_workers=1, persistent_workers=True))
    assert caplog.text == ""


def test_sampler_batch_sampler_and_dataset_are_those_of_the_loader() -> None:
    digits = Digits(20)
    loader = DataLoader(digits, 4, shuffle=True)
    train = stream(loader)
    assert isinstance(train.sampler, RandomSampler)
    assert train.sampler is loader.sampler
    assert train.batch_sampler is loader.batch_sampler
    assert train.dataset is digits
    weighted = WeightedRandomSampler([1.0] * 20, 17)
    train = stream(DataLoader(digits, batch_sampler=BatchSampler(weighted, 4, drop_last=False)))
    assert train.sampler is weighted
    train = stream(list_of_batches())
    assert train.sampler is train.batch_sampler is train.dataset is None
