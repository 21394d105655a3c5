"""The pure functions: composing, drawing, rolling, seeding."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import (
    Purpose,
    compose,
    draw_choices,
    isolated_rng,
    permute_classes,
    roll_images,
    sample_interventions,
    step_generator,
    step_seed,
)

CPU = torch.device("cpu")
TEN = [[y] for y in range(10)]


def textures(generator: torch.Generator, num: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Two stacks of random images in [-1, 1], whose sums and differences are not exact."""
    foreground, background = torch.randn(2, num, 3, 8, 8, generator=generator).tanh()
    return foreground, background


# compose


@pytest.mark.parametrize("value", [0, 1])
def test_compose_at_the_ends_of_the_mask_is_exact(value: int, generator: torch.Generator) -> None:
    foreground, background = textures(generator)
    composed = compose(torch.full((4, 1, 8, 8), float(value)), foreground, background)
    assert torch.equal(composed, foreground if value else background)


def test_compose_is_the_papers_blend_and_changes_no_argument(generator: torch.Generator) -> None:
    foreground, background = textures(generator)
    mask = torch.rand(4, 1, 8, 8, generator=generator)
    before = [value.clone() for value in (mask, foreground, background)]
    composed = compose(mask, foreground, background)
    assert all(map(torch.equal, (mask, foreground, background), before))
    m, f, b = mask.double(), foreground.double(), background.double()
    torch.testing.assert_close(composed.double(), m * f + (1 - m) * b, rtol=0, atol=3e-7)
    assert composed.shape == (4, 3, 8, 8)
    assert composed.dtype == torch.float32


# draws


def test_each_group_is_equally_frequent_however_many_members(generator: torch.Generator) -> None:
    drawn = draw_choices([[7], [1, 2, 3, 4]], 20_000, generator)
    counts = torch.bincount(drawn, minlength=8)
    assert counts[[0, 5, 6]].sum() == 0
    assert counts[7].item() == pytest.approx(10_000, abs=400)
    for member in (1, 2, 3, 4):
        assert counts[member].item() == pytest.approx(2500, abs=250)


def test_the_three_factors_are_drawn_independently(generator: torch.Generator) -> None:
    drawn = sample_interventions(20_000, (TEN, TEN, TEN), generator)
    assert drawn.shape == (3, 20_000)
    assert drawn.dtype == torch.int64
    for first, second in ((0, 1), (0, 2), (1, 2)):
        counts = torch.bincount(drawn[first] * 10 + drawn[second], minlength=100).double()
        # 99 degrees of freedom: 170 is five standard deviations above the mean.
        assert ((counts - 200) ** 2 / 200).sum() < 170


def test_each_factor_keeps_to_its_own_choices(generator: torch.Generator) -> None:
    shape, texture, background = sample_interventions(200, ([[0], [1]], [[5, 6]], [[9]]), generator)
    assert shape.unique().tolist() == [0, 1]
    assert texture.unique().tolist() == [5, 6]
    assert background.unique().tolist() == [9]


@pytest.mark.parametrize("num", [0, 1, 7, 8, 9])
def test_neighbours_share_a_shape_and_nothing_else(num: int, generator: torch.Generator) -> None:
    many = [[y] for y in range(1000)]
    drawn = sample_interventions(num, (many, many, many), generator, 4)
    assert drawn.shape == (3, num)
    groups = drawn[0].split(4) if num else ()
    assert all(len(group.unique()) == 1 for group in groups)
    assert len({int(group[0]) for group in groups}) == len(groups)
    assert len(drawn[1].unique()) == len(drawn[2].unique()) == num


def test_draws_follow_the_generator_alone() -> None:
    draws = []
    for global_seed, seed in ((0, 3), (1, 3), (1, 4)):
        with isolated_rng(global_seed, CPU):
            draws.append(sample_interventions(50, (TEN, TEN, TEN), step_generator(1, seed)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


# permute


@pytest.mark.parametrize("times", [1, 3])
def test_permuting_keeps_the_class_counts_of_the_batch(
    times: int, generator: torch.Generator
) -> None:
    classes = torch.tensor([3, 3, 3, 0, 7, 7, 9, 1])
    permuted = permute_classes(classes, 8 * times, generator)
    assert permuted.dtype == torch.int64
    for row in permuted:
        assert torch.equal(row.bincount(), times * classes.bincount())


def test_permuting_fewer_than_the_batch_takes_a_part_without_repeats(
    generator: torch.Generator,
) -> None:
    rows = permute_classes(torch.arange(20), 6, generator).tolist()
    assert len({frozenset(row) for row in rows}) == 1
    assert len(set(rows[0])) == 6


def test_permuted_factors_are_in_orders_of_their_own(generator: torch.Generator) -> None:
    shape, texture, background = permute_classes(torch.arange(200), 200, generator)
    assert shape.tolist() != list(range(200))
    # The number of places where two random orders agree is Poisson with mean 1.
    for first, second in ((shape, texture), (shape, background), (texture, background)):
        assert (first == second).sum() < 10


def test_permuting_with_shared_shapes_gives_each_shape_a_group(generator: torch.Generator) -> None:
    permuted = permute_classes(torch.arange(3), 7, generator, num_per_shape=3)
    assert [len(group.unique()) for group in permuted[0].split(3)] == [1, 1, 1]
    assert len(permuted[0].unique()) == 3
    for row in permuted[1:]:
        assert row.sort().values.tolist() == permuted[0].sort().values.tolist()


# rolling


@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 7)])
def test_rolling_is_tiling_two_by_two_and_cropping(
    height: int, width: int, generator: torch.Generator
) -> None:
    images = torch.randn(12, 3, height, width, generator=generator)
    offsets = torch.randint(min(height, width) + 1, (12, 2), generator=generator)
    offsets[0], offsets[1] = torch.tensor([0, 0]), torch.tensor([height, width])
    rolled = roll_images(images, offsets)
    tiled = images.repeat(1, 1, 2, 2)
    for i, (top, left) in enumerate(offsets.tolist()):
        assert torch.equal(rolled[i], tiled[i, :, top : top + height, left : left + width])
    assert torch.equal(rolled[:2], images[:2])
    assert roll_images(images[:0], offsets[:0]).shape == (0, 3, height, width)


# seeds


def test_each_purpose_and_each_part_of_the_key_gives_another_seed() -> None:
    keys = [(seed, epoch, step) for seed in range(5) for epoch in range(5) for step in range(5)]
    seeds = {step_seed(purpose, *key) for purpose in Purpose for key in keys}
    assert len(seeds) == len(Purpose) * len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_version() -> None:
    assert [step_seed(Purpose.ITEM, 0), step_seed(Purpose.SOURCE, 1, 2, 3, 4)] == [
        2_918_264_622_725_855_778,
        1_872_355_738_631_503_052,
    ]


def test_a_step_generator_is_seeded_by_its_key() -> None:
    first, again = (step_generator(Purpose.MIX, 1, 2).initial_seed() for _ in range(2))
    assert first == again == step_seed(Purpose.MIX, 1, 2)
    assert step_generator(Purpose.MIX, 2, 1).initial_seed() != first
    with pytest.raises(ArgumentError, match=r"must be 0 or more, got \(0, -1\)"):
        step_seed(Purpose.ITEM, 0, -1)


def global_draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_isolated_rng_seeds_inside_and_leaves_no_trace(fails: bool) -> None:
    with isolated_rng(99, CPU):
        expected = global_draws()
    with isolated_rng(99, CPU):
        inner = []
        for _ in range(2):
            with pytest.raises(KeyError) if fails else nullcontext(), isolated_rng(5, CPU):
                inner.append(global_draws())
                if fails:
                    raise KeyError
        after = global_draws()
    assert inner[0] == inner[1]
    assert after == expected
    assert all(a != b for a, b in zip(inner[0], after, strict=True))


def test_isolated_rng_takes_the_largest_seeds() -> None:
    draws = []
    for seed in (2**63 - 1, 2**63 - 2):
        with isolated_rng(seed, CPU):
            draws.append(global_draws())
    assert draws[0] != draws[1]
