"""What every source keeps: a step is a function of seed, rank and step, however it is come to."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import Blocks, ReadableCGN, find_bright, seeded
from stream_helpers import collect, global_state, same

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    FreshSource,
    Interventions,
    Placement,
    RealBatch,
    RealShapeSource,
    ShardSource,
    Source,
    Step,
)
from cgn_augment.errors import CheckpointError
from cgn_augment.shards import ShardConfig, render_shards

CGN = ReadableCGN()
LABELS = {"ant": 0, "bee": 4, "cow": 9}
REAL = Blocks(12, mask=True, blank=5)


def bank(seed: int = 1) -> BankSource:
    return BankSource(CGN, 20, 3, seed=seed)


@lru_cache(maxsize=1)
def rendered() -> str:
    """A set of six shards, the URL of which ends with the process."""
    render_shards(CGN, "memory://contract", ShardConfig(60, shard_size=10, format="npy"))
    return "memory://contract"


MAKERS: dict[str, Callable[[], Source]] = {
    "fresh": lambda: FreshSource(CGN),
    "bank": bank,
    "bank of permuted classes": lambda: BankSource(CGN, 20, 3, Interventions("permute"), seed=1),
    "fresh parts": lambda: FreshSource(make_parts(8, num_threads=1, class_to_idx=LABELS)),
    "bank of parts, placed": lambda: BankSource(
        make_parts(8, class_to_idx=LABELS),
        20,
        3,
        Interventions(texture="shape", background="other"),
        placement=Placement((0.8, 1.2), 0.2, 10, 0.5, edge=0.5),
        seed=1,
    ),
    "bank of parts": lambda: BankSource(make_parts(8, class_to_idx=LABELS), 20, 3, seed=1),
    "shards": lambda: ShardSource(rendered(), refresh=4, size=12),
    "real shapes": lambda: RealShapeSource(find_bright, bank()),
    "real shapes, fresh textures": lambda: RealShapeSource(find_bright, FreshSource(CGN)),
    "real shapes, placed": lambda: RealShapeSource(
        find_bright, bank(), placement=Placement(shift=0.3)
    ),
    "real shapes, some drawn": lambda: RealShapeSource(find_bright, bank(), replace="generator"),
    "real shapes, masks of the dataset": lambda: RealShapeSource(textures=bank(), masks=2),
    "real shapes, cached": lambda: RealShapeSource(
        find_bright, bank(), keep="background", cache_masks=True
    ),
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Source]:
    maker: Callable[[], Source] = request.param
    return maker


def stream(source: Source, **options: Any) -> CounterfactualDataset:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"batch_size": 4, "output": "dict", **options}
    return CounterfactualDataset(REAL, source, **settings)


def test_a_step_draws_the_same_whatever_was_drawn_before(make: Callable[[], Source]) -> None:
    batch = torch.utils.data.default_collate([REAL[index] for index in range(3, 9)])
    real = RealBatch(batch[0], batch[1], batch[1], torch.arange(6), batch)
    source, state = make(), global_state()
    steps = [Step(number, rank, 2) for number, rank in ((4, 0), (4, 1), (0, 0), (9, 0), (4, 0))]
    drawn = [source.sample(9, seeded(), step, real).images for step in steps]
    assert torch.equal(drawn[0], drawn[4])
    for images, step in zip(drawn, steps, strict=True):
        assert torch.equal(images, make().sample(9, seeded(), step, real).images)
    assert not torch.equal(drawn[0], source.sample(9, seeded(1), steps[0], real).images)
    assert global_state() == state


def test_a_stream_is_resumed_bit_for_bit(make: Callable[[], Source]) -> None:
    whole = collect(stream(make()), 3)
    for stop in (0, 1, 3, 5):
        first, taken = stream(make()), 0
        while taken < stop:
            for _ in first:
                taken += 1
                if taken == stop:
                    break
        second = stream(make())
        second.load_state_dict(first.state_dict())
        assert same([*second, *second, *second][: len(whole) - stop], whole[stop:]), stop


def test_a_stream_follows_seed_and_rank(make: Callable[[], Source]) -> None:
    plain = collect(stream(make()))
    assert same(plain, collect(stream(make())))
    assert not same(plain, collect(stream(make(), seed=1)))
    ranks = [collect(stream(make(), rank=r, world_size=2, batch_size=2)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    assert not same(*ranks)


def test_a_state_belongs_to_one_source() -> None:
    prints = [make().fingerprint for make in MAKERS.values()]  # type: ignore[attr-defined]
    assert len({*prints, bank(seed=2).fingerprint}) == len(prints) + 1
    assert [make().fingerprint for make in MAKERS.values()] == prints  # type: ignore[attr-defined]
    other = RealShapeSource(find_bright, BankSource(ReadableCGN(), 21, 3))
    with pytest.raises(CheckpointError, match="another configuration"):
        stream(other).load_state_dict(stream(MAKERS["real shapes"]()).state_dict())
