"""Rows in random order, and batches that are a multiple of a number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from source_helpers import Blocks, ReadableCGN, find_bright
from stream_helpers import (
    Make,
    Run,
    check_resume,
    classes_shown,
    collect,
    indices,
    list_of_batches,
    one_batch,
    rows,
    same,
    stream,
)
from torch import Tensor

from cgn_augment import BankSource, MixedBatch, OffAfter, Ramp, RealShapeSource
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, CheckpointError
from cgn_augment.functional import isolated_rng
from cgn_augment.stream.mixing import Proportion

# shuffle_rows


def is_real(images: Tensor) -> Tensor:
    """Which pictures are real: the stub's have one value in a channel, and noise in a corner."""
    return (images[:, 0, 0, 0] == -1) & (images[:, 0, 0, 1] == 1)


def mixed(**options: Any) -> MixedBatch:
    made = one_batch(rows(8), shuffle_rows=True, output="namedtuple", **options)
    assert isinstance(made, MixedBatch)
    return made


@pytest.mark.parametrize("options", [{}, {"ratio": 0.5}, {"mix": "replace", "count": 3}])
def test_rows_come_in_random_order_and_are_those_that_come_in_order(
    options: dict[str, Any],
) -> None:
    made = mixed(**options)
    plain = one_batch(rows(8), output="namedtuple", **options)
    real = is_real(made.image)
    assert torch.equal(real, ~made.is_counterfactual)
    assert made.is_counterfactual.int().diff().abs().sum() > 1  # not all of one kind first
    assert sorted(indices(made.image[real])) == sorted(indices(plain.image[: int(real.sum())]))
    assert made.label[real].tolist() == indices(made.image[real])
    assert torch.equal(classes_shown(made.image[~real])[0], made.label[~real])
    assert torch.equal(classes_shown(made.image[~real])[1], made.texture[~real])
    order = torch.where(made.is_counterfactual, -1, torch.arange(len(real)))
    assert torch.equal(made.real_index, order)


def test_each_half_of_a_batch_has_both_kinds() -> None:
    halves = [images.chunk(2) for images, _ in stream([rows(8)] * 20, shuffle_rows=True)]
    shares = torch.tensor([[is_real(half).float().mean() for half in pair] for pair in halves])
    assert ((shares > 0) & (shares < 1)).all()
    # A half has as many real rows as not, on the average: four of 8, standard deviation 0.04.
    assert abs(shares[:, 0].mean() - 0.5) < 0.15


def test_further_columns_follow_the_rows() -> None:
    images, labels = rows(8)
    batch = {
        "image": images,
        "label": labels,
        "index": torch.arange(8),
        "path": [str(i) for i in range(8)],
        "more": (torch.arange(8), {"weight": torch.arange(8) / 8}),
    }
    fill = {"more": {1: {"weight": 2.0}}}
    made = one_batch(batch, shuffle_rows=True, count=4, fill=fill)
    real = is_real(made["image"])
    expected = torch.full((12,), -1)
    expected[real] = torch.tensor(indices(made["image"][real]))
    assert torch.equal(made["index"], expected)
    assert torch.equal(made["more"][0], expected)
    assert torch.equal(made["more"][1]["weight"], torch.where(real, expected / 8, 2.0))
    assert made["path"] == [None if i < 0 else str(i) for i in expected.tolist()]


def test_real_index_says_which_row_a_shape_is_of() -> None:
    def bright(images: Tensor) -> Tensor:
        return find_bright(images)

    source = RealShapeSource(bright, BankSource(ReadableCGN(), 20), gate=None)
    options = {"output": "namedtuple", "value_range": None, "batch_size": 6, "ratio": 2}
    for made in stream(Blocks(), source, shuffle_rows=True, **options):
        own = torch.arange(18)[~made.is_counterfactual]
        assert torch.equal(made.real_index[own], own)
        assert not made.is_counterfactual[made.real_index].any()
        masks = find_bright(made.image)
        new = made.is_counterfactual
        assert torch.equal(made.label[new], made.label[made.real_index[new]])
        of_shape = masks[made.real_index[new]]
        # Where the shape of the real image is not, there is the background, the same in a column.
        outside = made.image[new][:, :1].masked_fill(of_shape > 0, 9.0)
        assert all(len(column.unique()) <= 2 for image in outside for column in image[0].T)


def test_timms_mixup_pairs_both_kinds_with_their_own_and_the_other() -> None:
    mixup = pytest.importorskip("timm.data").Mixup(mixup_alpha=1.0, num_classes=10)
    odd = one_batch(rows(10), ratio=0.1)
    with pytest.raises(AssertionError, match="even"):
        mixup(*odd)
    pairs = torch.zeros(2, 2)
    options = {"ratio": 0.7, "shuffle_rows": True, "batch_multiple": 2}
    with isolated_rng(0, torch.device("cpu")):
        for images, labels in stream([rows(9)] * 20, **options):
            kinds = is_real(images).long()
            pairs.index_put_((kinds, kinds.flip(0)), torch.ones(()), accumulate=True)
            assert mixup(images, labels)[1].shape == (len(labels), 10)
    assert (pairs > 10).all()


def test_the_order_is_a_function_of_seed_epoch_rank_and_step() -> None:
    def orders(**options: Any) -> list[Tensor]:
        train = stream([rows(8)] * 2, shuffle_rows=True, **options)
        return [is_real(images) for images, _ in collect(train, 2)]

    first = orders()
    assert all(torch.equal(a, b) for a, b in zip(first, orders(), strict=True))
    other = [*first, *orders(seed=1), *orders(rank=1, world_size=2)]
    assert len({tuple(order.tolist()) for order in other}) == len(other)


def test_steps_without_counterfactuals_are_the_plain_batches() -> None:
    batches = list_of_batches()
    assert same(collect(stream(batches, shuffle_rows=True, ratio=0)), batches)


# batch_multiple


def counts_of(proportion: Proportion, batch_sizes: list[int]) -> list[int]:
    carry, counts = 0, []
    for step, num_real in enumerate(batch_sizes):
        num, carry = proportion.split(step, num_real, carry)
        counts.append(num)
    return counts


@pytest.mark.parametrize(
    ("given", "sizes", "counts"),
    [
        ({"ratio": 0.3}, [4] * 8, [0, 2, 0, 2, 2, 0, 2, 0]),
        ({"ratio": 0.3}, [5] * 4, [1, 1, 1, 3]),
        ({"ratio": 1.0}, [5, 4, 3], [5, 4, 3]),
        ({"count": 3}, [4, 4, 4, 4], [2, 4, 2, 4]),
        ({"ratio": 0.5, "batch_multiple": 4}, [8, 8, 6, 8], [4, 4, 2, 4]),
        # A debt for the last, smaller batch is paid back by the next.
        (
            {"ratio": 0.25, "batch_multiple": 8},
            [8, 8, 8, 8, 1, 8, 8, 8, 8],
            [0, 0, 0, 8, 7, 0, 0, 0, 0],
        ),
        ({"ratio": OffAfter(0.5, 2)}, [4, 4, 4], [2, 2, 0]),
        ({"ratio": Ramp(0.0, 1.0, 4)}, [4] * 6, [0, 0, 2, 4, 4, 4]),
    ],
)
def test_batches_are_a_multiple(given: dict[str, Any], sizes: list[int], counts: list[int]) -> None:
    proportion = Proportion(**{"batch_multiple": 2, **given})
    assert counts_of(proportion, sizes) == counts
    totals = zip(sizes, counts, strict=True)
    assert all((num_real + num) % proportion.batch_multiple == 0 for num_real, num in totals)


@pytest.mark.parametrize("multiple", [2, 3, 8, 64])
@pytest.mark.parametrize(
    "share", [{"ratio": 0.3}, {"ratio": 0.7}, {"fraction": 0.4}, {"count": 7.5}]
)
@pytest.mark.parametrize("num_real", [64, 192])
def test_the_long_run_is_exact_up_to_the_rounding(
    multiple: int, share: dict[str, float], num_real: int
) -> None:
    rounded, exact = Proportion(**share, batch_multiple=multiple), Proportion(**share)
    if -num_real % multiple > 7:
        pytest.skip("more than each step has")
    sizes = [num_real] * 1000
    for num_steps in (1, 10, 999, 1000):
        sums = [sum(counts_of(p, sizes[:num_steps])) for p in (rounded, exact)]
        assert abs(sums[0] - sums[1]) <= multiple


def test_the_carry_after_steps_is_the_carry_of_taking_them() -> None:
    for given in ({"ratio": 0.5}, {"count": 2.7}, {"ratio": Ramp(0.5, 0.9, 50)}):
        proportion = Proportion(**given, batch_multiple=4)
        sizes, carry = [6, 6, 6, 2, 6, 6, 6, 2], 0
        for step, num_real in enumerate(sizes):
            assert proportion.carry_after(sizes[:step]) == carry
            rest = proportion.carry_after(sizes[step:], step, carry)
            assert rest == proportion.carry_after(sizes)
            carry = proportion.split(step, num_real, carry)[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_multiple": 0}, ArgumentError, "batch_multiple must be 1 or more, got 0"),
        (
            {"batch_multiple": 2.0},
            ArgumentTypeError,
            r"batch_multiple must be an integer, got 2\.0",
        ),
        (
            {"batch_multiple": 2, "mix": "replace"},
            ArgumentError,
            "is for mix='append': mix='replac",
        ),
        (
            {"batch_multiple": 2, "mix": "separate"},
            ArgumentError,
            "is for mix='append': mix='separ",
        ),
        (
            {"batch_multiple": 2, "batch_size": 5, "ratio": 0.1},
            ArgumentError,
            "batches of 5 real images need at least 1 counterfactuals, and the ratio gives 0.5",
        ),
        (
            {"batch_multiple": 8, "ratio": 0},
            ArgumentError,
            "need at least 4 .* the ratio gives 0:",
        ),
        ({"shuffle_rows": 1}, ArgumentTypeError, "shuffle_rows must be True or False, got 1"),
        ({"shuffle_rows": True, "mix": "separate"}, ArgumentError, "mix='separate' yields two"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(**options)


@pytest.mark.parametrize(
    ("real", "ratio"),
    [
        ([rows(4), rows(3)], 0.0),
        ([rows(4), rows(3)], lambda step: 0.0),
        ([rows(3)] * 20, 0.1),
    ],
)
def test_a_batch_that_cannot_be_made_a_multiple_is_an_error(real: Any, ratio: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"a batch of 3 real .* pass drop_last=True, make batch_"
    ):
        collect(stream(real, ratio=ratio, batch_multiple=2))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.05, r"batches of 3 real images need at least 1 .* gives 0\.95: pass drop_last=True, ma"),
        (OffAfter(1.0, 9), "batches of 3 real images need at least 1 .* a schedule may give none"),
    ],
)
def test_a_last_batch_that_cannot_be_is_refused_before_the_first(ratio: Any, message: str) -> None:
    train = stream(num=19, ratio=ratio, batch_multiple=2)
    for begin in (len, iter):
        with pytest.raises(ArgumentError, match=message):
            begin(train)
    assert len(stream(num=19, ratio=ratio, batch_multiple=2, drop_last=True)) == 4


# Both, over epochs and after a resume


def make_shuffled() -> Any:
    return stream(num=19, ratio=0.45, shuffle_rows=True, batch_multiple=2, seed=4)


def test_every_batch_of_a_stream_is_a_multiple() -> None:
    sizes = [len(images) for images, _ in collect(make_shuffled(), 20)]
    assert {size % 2 for size in sizes} == {0}
    assert abs(sum(sizes) - 19 * 20 * 1.45) <= 2


@pytest.mark.parametrize("make", [make_shuffled])
def test_a_resumed_stream_goes_on_exactly(make: Make) -> None:
    check_resume(make, Run(make), [(0, 0), (0, 2), (0, 5), (1, 1), (1, 5)])


def test_going_to_an_epoch_is_as_iterating_up_to_it() -> None:
    iterated, jumped = make_shuffled(), make_shuffled()
    collect(iterated, 3)
    jumped.set_epoch(3)
    assert same(collect(iterated), collect(jumped))


@pytest.mark.parametrize("option", [{"shuffle_rows": False}, {"batch_multiple": 4}])
def test_a_state_belongs_to_its_rows(option: dict[str, Any]) -> None:
    state = copy.deepcopy(make_shuffled().state_dict())
    options = {"ratio": 0.45, "shuffle_rows": True, "batch_multiple": 2, "seed": 4, **option}
    with pytest.raises(CheckpointError, match=r"in random order|to 2"):
        stream(num=19, **options).load_state_dict(state)
