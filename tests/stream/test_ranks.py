"""Several processes: equal steps, each its own part of the real data and its own draws."""

from __future__ import annotations

import multiprocessing
from itertools import chain
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from stream_helpers import (
    Digits,
    DigitStream,
    SizedDigitStream,
    StubSource,
    collect,
    indices,
    list_of_batches,
    own,
    put_lengths,
    same,
    stream,
)
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler

from cgn_augment import BankSource, CounterfactualDataset
from cgn_augment.errors import ArgumentError, UsageError
from cgn_augment.generators import SmallCGN
from cgn_augment.ranks import count_cores, find_rank

WORLD_SIZE = 3

Ranks = list[CounterfactualDataset]


def ranks_of(real: Any, source: Any = None, *, num: int = WORLD_SIZE, **options: Any) -> Ranks:
    return [stream(real, source, rank=rank, world_size=num, **options) for rank in range(num)]


def real_parts(ranks: Ranks) -> list[list[int]]:
    """The real images of each rank's next epoch, where streams are separate."""
    return [indices(torch.cat([real[0] for real, _ in train])) for train in ranks]


@pytest.mark.parametrize("num", [20, 22, 24, 25])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_out_the_real_images_in_the_same_number_of_steps(
    num: int, drop_last: bool
) -> None:
    ranks = ranks_of(Digits(num), batch_size=4, drop_last=drop_last, mix="separate")
    own = num // WORLD_SIZE // 4 * 4 if drop_last else -(-num // WORLD_SIZE)
    for _ in range(2):
        parts = real_parts(ranks)
        assert [len(part) for part in parts] == [own] * WORLD_SIZE
        read = set(chain(*parts))
        # Without drop_last one or two images are read twice, so that all ranks have as many.
        assert len(read) == (WORLD_SIZE * own if drop_last else num)
    assert {len(train) for train in ranks} == {-(-own // 4)}


def test_ranks_draw_their_own_counterfactuals(tiny_cgn: SmallCGN) -> None:
    batch = torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)
    for source in (tiny_cgn, StubSource(), BankSource(tiny_cgn, size=10)):
        real = list_of_batches() if isinstance(source, StubSource) else [batch] * 2
        drawn = [next(iter(train))[1][0] for train in ranks_of(real, source, mix="separate")]
        assert not any(same(drawn[i], drawn[(i + 1) % WORLD_SIZE]) for i in range(WORLD_SIZE))


@pytest.mark.parametrize("num", [20, 21, 22])
def test_ranks_share_out_an_iterable_datasets_samples(num: int) -> None:
    ranks = ranks_of(SizedDigitStream(num), batch_size=2, shard_iterable=True, mix="separate")
    assert {len(train) for train in ranks} == {-(-(num // WORLD_SIZE) // 2)}
    parts = real_parts(ranks)
    assert {len(part) for part in parts} == {num // WORLD_SIZE}
    # The last one or two samples that do not reach all ranks are left out.
    assert sorted(chain(*parts)) == list(range(num - num % WORLD_SIZE))


def test_an_iterable_dataset_on_several_ranks_must_say_who_shares_it_out() -> None:
    with pytest.raises(ArgumentError, match=r"on 3 ranks: pass shard_iterable=True .* or False"):
        ranks_of(DigitStream(20), batch_size=4)
    stream(DigitStream(20), batch_size=4)
    ranks = ranks_of(DigitStream(6), batch_size=2, shard_iterable=False, mix="separate")
    assert [sorted(part) for part in real_parts(ranks)] == [list(range(6))] * WORLD_SIZE


@pytest.mark.parametrize("batches", [False, True])
def test_a_sampler_that_knows_its_rank_is_used_as_it_is(batches: bool) -> None:
    for rank in range(WORLD_SIZE):
        sampler: Any = DistributedSampler(range(22), WORLD_SIZE, rank, seed=5)
        options: dict[str, Any] = {"sampler": sampler, "batch_size": 4, "generator": own()}
        if batches:
            options = {"batch_sampler": BatchSampler(sampler, 4, drop_last=False)}
        train = stream(
            Digits(22), rank=rank, world_size=WORLD_SIZE, mix="separate", seed=1, **options
        )
        for epoch in range(2):
            read = indices(torch.cat([real[0] for real, _ in train]))
            sampler.set_epoch(epoch)
            assert read == list(sampler)
            assert len(read) == 8


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("sampler", range(20)),
        ("batch_sampler", BatchSampler(RandomSampler(range(20)), 4, drop_last=False)),
        ("generator", own()),
    ],
)
def test_an_order_that_knows_no_rank_is_an_error(name: str, order: Any) -> None:
    options = {} if name == "batch_sampler" else {"batch_size": 4}
    message = rf"{name}: each of the 3 ranks .* pass sampler=DistributedSampler\(dataset\), or"
    with pytest.raises(ArgumentError, match=message):
        stream(rank=0, world_size=3, **options, **{name: order})
    stream(rank=0, world_size=1, **options, **{name: order})


def test_the_rank_is_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = stream()
    assert (alone.rank, alone.world_size) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    of_torchrun = stream()
    assert (of_torchrun.rank, of_torchrun.world_size) == (2, 3)
    assert "rank" not in repr(of_torchrun)  # nothing has asked for it yet
    assert len(of_torchrun) == 2
    assert "rank 2 of 3" in repr(of_torchrun)
    given = ranks_of(Digits(20), batch_size=4)[2]
    assert same(list(of_torchrun), list(given))
    told = stream(rank=0, world_size=1)
    assert (told.rank, told.world_size) == (0, 1)


def test_a_rank_is_found_when_a_length_or_a_batch_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, copied = stream(), stream()
    copied.set_epoch(2)
    copied.set_epoch(0)
    assert train.state_dict()["fingerprint"]["world_size"] == "1"  # a look settles nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE is 2 and RANK is not set"):
        len(train)
    monkeypatch.setenv("RANK", "1")
    assert len(train) == 3
    expected = ranks_of(Digits(20), batch_size=4, num=2)[1]
    assert same(list(copied), list(expected))
    jumped = stream()
    jumped.set_epoch(4)
    assert jumped.state_dict()["total"] == 4 * 3


def test_a_rank_that_changes_later_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, fresh = stream(), stream()
    assert len(asked) == 5
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for ask in (len, iter):
        with pytest.raises(UsageError, match=r"was rank 0 of 1 .* is rank 1 of 2 now: ask after"):
            ask(asked)
    assert (len(fresh), fresh.rank, fresh.world_size) == (3, 1, 2)
    monkeypatch.setattr("os.getpid", lambda: 1)  # as in a process that was forked before it began
    assert len(asked) == 3


@pytest.mark.slow
def test_a_stream_is_sent_to_spawned_processes_as_a_plain_loader_is() -> None:
    begun, whole = stream(num_workers=1), stream(SizedDigitStream(20), batch_size=4)
    next(iter(begun))
    list(whole)
    trains = [stream(), begun, whole, stream(list_of_batches()), begun.as_loader()]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(put_lengths, (trains, queue), nprocs=1)
    assert queue.get() == [5] * 5


def test_a_plain_loader_on_several_ranks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    digits = Digits(20)
    for shuffle in (False, True):
        ranks_of(DataLoader(digits, 4, shuffle=shuffle))
        assert "each of the 3 ranks reads all of this loader: give it a Distrib" in caplog.text
        caplog.clear()
    sampler = DistributedSampler(digits, num_replicas=WORLD_SIZE, rank=0)
    ranks_of(DataLoader(digits, 4, sampler=sampler))
    ranks_of(DataLoader(digits, batch_sampler=BatchSampler(sampler, 4, drop_last=False)))
    stream(DataLoader(digits, 4))
    assert caplog.text == ""


def test_a_state_goes_on_on_every_rank() -> None:
    """Trainers that save on rank 0 alone load its state everywhere."""
    whole = [collect(train, 2) for train in ranks_of(Digits(22), batch_size=4, ratio=0.3)]
    first, *_ = ranks_of(Digits(22), batch_size=4, ratio=0.3)
    next(iter(first))
    for train, expected in zip(ranks_of(Digits(22), batch_size=4, ratio=0.3), whole, strict=True):
        train.load_state_dict(first.state_dict())
        assert same(collect(train, 2), expected[1:])


def train_as(rank: int, rendezvous: str, results: SimpleQueue[Any]) -> None:
    """What one of two processes does: two epochs, in step with the other one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    train = stream(num=21, mix="separate", ratio=0.6)
    read, drawn = [], []
    for (real, _), (made, _) in collect(train, num_epochs=2):
        # A rank that made another number of steps would leave the other one waiting here.
        dist.all_reduce(torch.zeros(1))
        read.append(indices(real))
        drawn.append(round(float(made.sum()), 4))
    dist.barrier()
    results.put((train.rank, train.world_size, len(train), read, drawn))
    dist.destroy_process_group()


def test_two_processes_of_torch_distributed_train_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    arguments = (f"file://{tmp_path / 'rendezvous'}", results)
    processes = [context.Process(target=train_as, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    ranks, sizes, lengths, read, drawn = zip(*sorted(results.get() for _ in range(2)), strict=True)
    assert (ranks, sizes, lengths) == ((0, 1), (2, 2), (3, 3))
    assert [len(steps) for steps in read] == [6, 6]
    first, second = ([*chain(*steps[:3])] for steps in read)
    # One image is read twice, so that both ranks have eleven.
    assert len(first) == len(second) == 11
    assert {*first, *second} == set(range(21))
    assert not {*drawn[0]} & {*drawn[1]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "first"), ("RANK", "9" * 5000), ("WORLD_SIZE", "0"), ("LOCAL_WORLD_SIZE", "0")],
)
def test_variables_of_torchrun_that_are_no_numbers_are_said(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"the environment variable {name} must be an integer"):
        count_cores() if name == "LOCAL_WORLD_SIZE" else find_rank(None, None)
