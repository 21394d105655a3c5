"""Several processes: equal steps, each its own part of the real data and its own draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_helpers import (
    Digits,
    DigitStream,
    SizedDigitStream,
    StubSource,
    collect,
    indices,
    list_of_batches,
    same,
)
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from cgn_augment import BankSource, CounterfactualDataset
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN

WORLD_SIZE = 3

Ranks = list[CounterfactualDataset]


def ranks_of(real: Any, source: Any = None, **options: Any) -> Ranks:
    return [
        CounterfactualDataset(
            real, source or StubSource(), rank=rank, world_size=WORLD_SIZE, **options
        )
        for rank in range(WORLD_SIZE)
    ]


def real_parts(ranks: Ranks) -> list[list[int]]:
    """The real images of each rank's next epoch, where streams are separate."""
    return [indices(torch.cat([real[0] for real, _ in stream])) for stream in ranks]


@pytest.mark.parametrize("num", [20, 22, 24, 25])
@pytest.mark.parametrize("drop_last", [False, True])
def test_all_ranks_make_the_same_number_of_steps(num: int, drop_last: bool) -> None:
    ranks = ranks_of(Digits(num), batch_size=4, drop_last=drop_last, ratio=0.3)
    for _ in range(2):
        lengths = {len(list(stream)) for stream in ranks}
        assert len(lengths) == 1
        assert lengths == {len(stream) for stream in ranks}


def test_all_ranks_have_batches_of_the_same_size() -> None:
    ranks = ranks_of(Digits(22), batch_size=4, ratio=0.3)
    sizes = [[len(images) for images, _ in collect(stream, 3)] for stream in ranks]
    assert sizes[0] == sizes[1] == sizes[2]


def test_ranks_share_out_the_real_images() -> None:
    ranks = ranks_of(Digits(22), batch_size=4, drop_last=True, mix="separate")
    for _ in range(2):
        read = list(chain(*real_parts(ranks)))
        # Seven images a rank are left of 22, and one batch of four.
        assert len(read) == len(set(read)) == 12
    ranks = ranks_of(Digits(22), batch_size=4, mix="separate")
    read = list(chain(*real_parts(ranks)))
    # Two images are read twice, so that all ranks have eight.
    assert len(read) == 24
    assert set(read) == set(range(22))


def test_ranks_draw_their_own_counterfactuals(tiny_cgn: SmallCGN) -> None:
    batch = torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)
    for source in (tiny_cgn, StubSource(), BankSource(tiny_cgn, size=10)):
        real = list_of_batches() if isinstance(source, StubSource) else [batch] * 2
        drawn = [next(iter(stream))[1][0] for stream in ranks_of(real, source, mix="separate")]
        assert not any(same(drawn[i], drawn[(i + 1) % WORLD_SIZE]) for i in range(WORLD_SIZE))


@pytest.mark.parametrize("num", [20, 21, 22])
def test_ranks_share_out_an_iterable_datasets_samples(num: int) -> None:
    ranks = ranks_of(SizedDigitStream(num), batch_size=2, shard_iterable=True, mix="separate")
    assert {len(stream) for stream in ranks} == {-(-(num // WORLD_SIZE) // 2)}
    parts = real_parts(ranks)
    assert {len(part) for part in parts} == {num // WORLD_SIZE}
    # The last one or two samples that do not reach all ranks are left out.
    assert sorted(chain(*parts)) == list(range(num - num % WORLD_SIZE))


def test_an_iterable_dataset_that_keeps_to_its_rank_is_read_whole() -> None:
    ranks = ranks_of(DigitStream(6), batch_size=2, shard_iterable=False, mix="separate")
    assert [sorted(part) for part in real_parts(ranks)] == [list(range(6))] * WORLD_SIZE


def test_an_iterable_dataset_on_several_ranks_must_say_who_shares_it_out() -> None:
    with pytest.raises(ArgumentError, match=r"on 3 ranks: pass shard_iterable=True .* or False"):
        ranks_of(DigitStream(20), batch_size=4)
    CounterfactualDataset(DigitStream(20), StubSource(), batch_size=4)


def test_the_rank_is_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = CounterfactualDataset(Digits(20), StubSource(), batch_size=4)
    assert (alone.rank, alone.world_size) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    of_torchrun = CounterfactualDataset(Digits(20), StubSource(), batch_size=4)
    assert (of_torchrun.rank, of_torchrun.world_size) == (2, 3)
    assert "rank 2 of 3" in repr(of_torchrun)
    given = ranks_of(Digits(20), batch_size=4)[2]
    assert same(list(of_torchrun), list(given))
    told = CounterfactualDataset(Digits(20), StubSource(), batch_size=4, rank=0, world_size=1)
    assert (told.rank, told.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 1}, "give rank and world_size together, or neither"),
        ({"world_size": 2}, "give rank and world_size together, or neither"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1 of 2, got 2"),
        ({"rank": -1, "world_size": 2}, "rank must be 0 to 1 of 2, got -1"),
    ],
)
def test_a_rank_that_cannot_be_is_an_error(options: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        CounterfactualDataset(Digits(20), StubSource(), batch_size=4, **options)


def test_a_plain_loader_on_several_ranks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    digits = Digits(20)
    for shuffle in (False, True):
        ranks_of(DataLoader(digits, 4, shuffle=shuffle))
        assert "each of the 3 ranks reads all of this loader: give it a Distrib" in caplog.text
        caplog.clear()
    sampler = DistributedSampler(digits, num_replicas=WORLD_SIZE, rank=0)
    ranks_of(DataLoader(digits, 4, sampler=sampler))
    ranks_of(DataLoader(digits, batch_sampler=BatchSampler(sampler, 4, drop_last=False)))
    CounterfactualDataset(DataLoader(digits, 4), StubSource())
    assert caplog.text == ""


def test_a_state_goes_on_on_every_rank() -> None:
    """Trainers that save on rank 0 alone load its state everywhere."""
    whole = [collect(stream, 2) for stream in ranks_of(Digits(22), batch_size=4, ratio=0.3)]
    first, *_ = ranks_of(Digits(22), batch_size=4, ratio=0.3)
    next(iter(first))
    for stream, expected in zip(ranks_of(Digits(22), batch_size=4, ratio=0.3), whole, strict=True):
        stream.load_state_dict(first.state_dict())
        assert same(collect(stream, 2), expected[1:])


PROCESS = """
import json, os, sys
import torch, torch.distributed as dist
from stream_helpers import Digits, StubSource, indices
from cgn_augment import CounterfactualDataset

dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
stream = CounterfactualDataset(Digits(21), StubSource(), batch_size=4, mix="separate", ratio=0.6)
weight = torch.nn.Linear(3, 1)
model = torch.nn.parallel.DistributedDataParallel(weight)
read, drawn, steps = [], [], 0
for epoch in range(2):
    for (real, _), (made, _) in stream:
        # A rank that made another number of steps would leave the other one waiting here.
        model(torch.cat([real, made]).mean((2, 3))).sum().backward()
        read += indices(real)
        drawn.append(round(float(made.sum()), 4))
        steps += 1
dist.barrier()
print(json.dumps({"rank": stream.rank, "world_size": stream.world_size, "read": read,
                  "drawn": drawn, "steps": steps, "length": len(stream)}))
dist.destroy_process_group()
"""


def test_two_processes_of_torch_distributed_train_in_step(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-c", PROCESS, f"file://{tmp_path / 'rendezvous'}"]
    processes = [
        subprocess.Popen(
            [*command, str(rank)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    results = []
    for process in processes:
        try:
            output, errors = process.communicate(timeout=100)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        results.append(json.loads(output.splitlines()[-1]))
    assert [(found["rank"], found["world_size"]) for found in results] == [(0, 2), (1, 2)]
    assert [found["steps"] for found in results] == [6, 6]
    assert [found["length"] for found in results] == [3, 3]
    assert set(results[0]["read"][:11] + results[1]["read"][:11]) == set(range(21))
    # One image is read twice, so that both ranks have eleven.
    assert len(set(results[0]["read"][:11]) & set(results[1]["read"][:11])) <= 1
    assert not set(results[0]["drawn"]) & set(results[1]["drawn"])
