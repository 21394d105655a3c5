"""Sources: fresh for every image, or recombined from a bank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cgn_augment import (
    BankSource,
    ClassMap,
    Counterfactuals,
    Factors,
    FreshSource,
    Interventions,
    Mechanisms,
    RealBatch,
    Source,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import compose, isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import draw_factors

STORAGES = ("float32", "float16", "uint8")
MAKERS: dict[str, Callable[..., FreshSource | BankSource]] = {
    "fresh": FreshSource,
    "bank": lambda cgn, *args, **kwargs: BankSource(cgn, 30, 7, *args, **kwargs),
}


class ReadableCGN:
    """A CGN whose images tell each factor's class and noise; see `read_classes` and `read_ids`.

    A mask is all object in its first rows and all background in its second; its last two rows hold
    the class and the noise of the shape. Textures are one value in all of a column.
    """

    image_size = 8
    fingerprint = "readable"
    device = torch.device("cpu")

    def __init__(self, num_classes: int = 10, shared_noise: bool = False) -> None:
        self.num_classes, self.shared_noise = num_classes, shared_noise
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.noises: dict[str, list[Tensor]] = {"shape": [], "texture": [], "background": []}

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator, dtype=torch.float64)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        rows = self._values("shape", noise, y)
        zero = torch.zeros_like(rows[0])
        mask = torch.stack([zero + 1, zero + 1, zero + 1, zero, zero, zero, *rows], dim=1)
        return mask[:, None, :, None].expand(-1, 1, 8, 8).clone()

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._columns("texture", noise, y)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        return -self._columns("background", noise, y)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images

    def _values(self, factor: str, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.calls[factor] += 1
        self.made[factor] += len(noise)
        self.noises[factor].append(noise)
        return (y + 1).float() / 64, noise[:, 0].float()

    def _columns(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        first, second = self._values(factor, noise, y)
        columns = torch.stack([first] * 4 + [second] * 4, dim=1)
        return columns[:, None, None].expand(-1, 3, 8, 8).clone()


def read_classes(images: Tensor) -> Tensor:
    """The classes (3, N) of shape, texture and background that images of `ReadableCGN` show."""
    foreground, background = images[:, 0, 0, 0], images[:, 0, 3, 0]
    mask = (images[:, 0, 6, 0] - background) / (foreground - background)
    shown = torch.stack([mask, foreground, -background]) * 64 - 1
    torch.testing.assert_close(shown, shown.round(), rtol=0, atol=0.1)
    return shown.round().long()


def read_ids(images: Tensor) -> Tensor:
    """What tells (3, N) masks, foregrounds and backgrounds of `ReadableCGN` from one another."""
    foreground, background = images[:, 0, 0, 4], -images[:, 0, 3, 4]
    first, behind = images[:, 0, 0, 0], images[:, 0, 3, 0]
    mask = (images[:, 0, 7, 0] - behind) / (first - behind)
    return torch.stack([mask.mul(1e4).round() / 1e4, foreground, background])


def real_batch(classes: list[int]) -> RealBatch:
    y = torch.tensor(classes)
    return RealBatch(torch.zeros(len(y), 3, 8, 8), y, y)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(drawn: Counterfactuals) -> Tensor:
    return torch.stack([drawn.shape, drawn.texture, drawn.background])


def contents(source: BankSource) -> Tensor:
    """A copy (size, 7, H, W) of all that a bank holds."""
    bank = source._bank
    assert isinstance(bank, Factors)
    return torch.cat([bank.mask, bank.foreground, bank.background], dim=1).clone()


def at_step(source: BankSource, step: int, rank: int = 0) -> Tensor:
    source.seek(step, rank)
    return contents(source)


# Both


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("num", [0, 1, 9])
def test_samples_have_the_documented_form(
    make: Callable[..., FreshSource | BankSource], num: int, tiny_cgn: SmallCGN
) -> None:
    source = make(tiny_cgn)
    drawn = source.sample(num, seeded())
    assert len(drawn) == num
    assert drawn.images.shape == (num, 3, 32, 32)
    assert drawn.images.dtype == torch.float32
    assert not drawn.images.requires_grad
    for labels in (drawn.shape, drawn.texture, drawn.background):
        assert labels.shape == (num,)
        assert labels.dtype == torch.int64
    if num:
        assert drawn.images.min() >= -1
        assert drawn.images.max() <= 1
        assert drawn.images.std() > 0.1
    assert isinstance(source, Source)
    assert (source.image_size, source.num_classes) == (32, 10)
    assert source.device == torch.device("cpu")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_samples_follow_the_generator_and_leave_global_randomness_alone(
    make: Callable[..., FreshSource | BankSource], tiny_cgn: SmallCGN
) -> None:
    draws = []
    for global_seed, seed in ((0, 3), (1, 3), (1, 4)):
        with isolated_rng(global_seed, torch.device("cpu")):
            before = torch.get_rng_state()
            draws.append(make(tiny_cgn).sample(8, seeded(seed)))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0].images, draws[1].images)
    assert torch.equal(labels_of(draws[0]), labels_of(draws[1]))
    assert not torch.equal(draws[1].images, draws[2].images)
    assert not torch.equal(labels_of(draws[1]), labels_of(draws[2]))


RULES = {
    "uniform": Interventions(),
    "listed": Interventions(shape=[7, 2, 9], texture=3, background=[0, 5]),
    "class map": Interventions(class_map=ClassMap({0: [8, 1], 1: 4, 2: [0, 3, 5]})),
    "list and map": Interventions(texture=[9, 2], class_map=ClassMap({0: [8, 1], 1: 4})),
    "shared shapes": Interventions(num_per_shape=3),
    "permute": Interventions("permute"),
    "permute and list": Interventions("permute", background=[6, 1], num_per_shape=4),
    "permute and map": Interventions("permute", class_map=ClassMap({5: [8, 1], 1: 4})),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_each_label_is_the_class_that_the_image_shows(
    make: Callable[..., FreshSource | BankSource], rule: Interventions
) -> None:
    source, generator = make(ReadableCGN(), rule), seeded()
    shown = []
    for _ in range(12):  # a bank of 30 with 7 replaced per step is all new after 5
        drawn = source.sample(50, generator, real_batch([8, 1, 1, 4, -1, 9]))
        assert torch.equal(read_classes(drawn.images), labels_of(drawn))
        shown.append(labels_of(drawn))
    for factor, row in zip(("shape", "texture", "background"), torch.cat(shown, 1), strict=True):
        possible = set(rule.classes(factor, 10))
        if rule.kind == "permute" and rule.listed(factor) is None:
            possible &= {8, 1, 4, 9}
        assert set(row.tolist()) == possible


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_neighbours_share_a_mask_and_nothing_else(
    make: Callable[..., FreshSource | BankSource],
) -> None:
    source = make(ReadableCGN(1), Interventions(num_per_shape=4))
    shape, texture, background = read_ids(source.sample(22, seeded()).images)
    assert [len(group.unique()) for group in shape.split(4)] == [1] * 6
    assert len(shape.unique()) > 2
    for row in (texture, background):
        assert max(len(group.unique()) for group in row.split(4)) > 1


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_permute_needs_the_real_batch(
    make: Callable[..., FreshSource | BankSource], tiny_cgn: SmallCGN
) -> None:
    source = make(tiny_cgn, Interventions("permute"))
    with pytest.raises(ArgumentError, match="permutes the classes of the real batch, and none was"):
        source.sample(4, seeded())
    drawn = source.sample(4, seeded(), real_batch([5, 5, 0, 2]))
    assert [row.sort().values.tolist() for row in labels_of(drawn)] == [[0, 2, 5, 5]] * 3


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_restricted_source_draws_only_the_classes_of_the_map(
    make: Callable[..., FreshSource | BankSource],
) -> None:
    source = make(ReadableCGN(), Interventions(texture=[6]))
    restricted = source.restrict(ClassMap({0: [8, 1], 1: 4}))
    assert type(restricted) is type(source)
    assert restricted.fingerprint != source.fingerprint
    drawn = restricted.sample(300, seeded())
    assert torch.equal(read_classes(drawn.images), labels_of(drawn))
    assert [row.unique().tolist() for row in labels_of(drawn)] == [[1, 4, 8], [6], [1, 4, 8]]
    assert (drawn.shape == 4).float().mean().item() == pytest.approx(0.5, abs=0.12)
    assert source.sample(300, seeded()).shape.unique().tolist() == list(range(10))


def test_restricting_keeps_the_other_settings(tiny_cgn: SmallCGN) -> None:
    bank = BankSource(tiny_cgn, 12, 3, seed=5, storage="float16", chunk=4)
    restricted = bank.restrict(ClassMap([0, 1]))
    for name in ("cgn", "size", "refresh", "seed", "storage", "chunk"):
        assert getattr(restricted, name) == getattr(bank, name)
    assert FreshSource(tiny_cgn, chunk=4).restrict(ClassMap([0, 1])).chunk == 4


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("interventions", "error", "message"),
    [
        (Interventions(background=[2, 10]), ArgumentError, "background lists class 10"),
        (Interventions(class_map=ClassMap([3, 11])), ArgumentError, r"names the classes \[11\]"),
        ("permute", ArgumentTypeError, "interventions must be .* got 'permute'"),
    ],
)
def test_interventions_that_the_cgn_cannot_follow_are_errors(
    make: Callable[..., FreshSource | BankSource],
    interventions: Interventions,
    error: type[Exception],
    message: str,
    tiny_cgn: SmallCGN,
) -> None:
    with pytest.raises(error, match=message):
        make(tiny_cgn, interventions)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_source_needs_a_frozen_cgn(make: Callable[..., FreshSource | BankSource]) -> None:
    with pytest.raises(ArgumentTypeError, match=r"needs a CGN \(such as .* got Linear"):
        make(nn.Linear(2, 2))
    with pytest.raises(ArgumentTypeError, match="got str"):
        make("wildlife")
    with pytest.raises(ArgumentError, match=r"still in training: call cgn\.freeze\(\) before"):
        make(SmallCGN(width=4))
    assert isinstance(ReadableCGN(), Mechanisms)  # a CGN of another make needs no `frozen`


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("chunk", "error", "message"),
    [
        (0, ArgumentError, "chunk must be 1 or more, got 0"),
        (2.0, ArgumentTypeError, "chunk must be an integer, got 2.0"),
        (True, ArgumentTypeError, "chunk must be an integer, got True"),
    ],
)
def test_a_chunk_is_a_number_of_images(
    make: Callable[..., FreshSource | BankSource],
    chunk: int,
    error: type[Exception],
    message: str,
    tiny_cgn: SmallCGN,
) -> None:
    with pytest.raises(error, match=message):
        make(tiny_cgn, chunk=chunk)


# Fresh


def test_a_fresh_sample_is_the_three_mechanisms_run_by_hand(tiny_cgn: SmallCGN) -> None:
    drawn, generator = FreshSource(tiny_cgn).sample(12, seeded(5)), seeded(5)
    y = Interventions().draw(12, 10, generator)
    noise = [tiny_cgn.draw_noise(12, generator) for _ in range(3)]
    mask = tiny_cgn.shape(noise[0], y[0])
    foreground = tiny_cgn.shuffle(tiny_cgn.texture(noise[1], y[1]), generator)
    background = tiny_cgn.shuffle(tiny_cgn.background(noise[2], y[2]), generator)
    assert torch.equal(labels_of(drawn), y)
    by_hand = mask * foreground + (1 - mask) * background
    torch.testing.assert_close(drawn.images, by_hand, rtol=0, atol=1e-6)


def test_shared_shapes_cost_one_run_for_the_group() -> None:
    cgn = ReadableCGN()
    FreshSource(cgn, Interventions(num_per_shape=4)).sample(22, seeded())
    assert cgn.made == {"shape": 6, "texture": 22, "background": 22}
    assert cgn.calls == {"shape": 1, "texture": 1, "background": 1}


def test_a_chunk_bounds_what_a_mechanism_makes_at_once(tiny_cgn: SmallCGN) -> None:
    cgn = ReadableCGN()
    drawn = FreshSource(cgn, chunk=4).sample(10, seeded())
    assert [len(noise) for noise in cgn.noises["texture"]] == [4, 4, 2]
    assert torch.equal(drawn.images, FreshSource(cgn).sample(10, seeded()).images)
    torch.testing.assert_close(
        FreshSource(tiny_cgn, chunk=3).sample(10, seeded()).images,
        FreshSource(tiny_cgn).sample(10, seeded()).images,
    )


@pytest.mark.parametrize("shared", [True, False])
def test_one_noise_goes_to_all_mechanisms_where_the_cgn_says_so(shared: bool) -> None:
    cgn = ReadableCGN(shared_noise=shared)
    FreshSource(cgn, Interventions(num_per_shape=2)).sample(5, seeded())
    shape, texture, background = (torch.cat(cgn.noises[factor]) for factor in cgn.noises)
    assert len(shape) == 3
    assert torch.equal(texture, background) == shared
    assert torch.equal(texture, shape.repeat_interleave(2, 0)[:5]) == shared


def test_textures_are_shuffled_and_masks_are_not(tiny_cgn: SmallCGN) -> None:
    y = torch.zeros(3, 6, dtype=torch.int64)
    factors, generator = draw_factors(tiny_cgn, y, seeded(2), 1, 64), seeded(2)
    noise = [tiny_cgn.draw_noise(6, generator) for _ in range(3)]
    assert torch.equal(factors.mask, tiny_cgn.shape(noise[0], y[0]))
    for shuffled, plain in (
        (factors.foreground, tiny_cgn.texture(noise[1], y[1])),
        (factors.background, tiny_cgn.background(noise[2], y[2])),
    ):
        assert not torch.equal(shuffled, plain)
        assert torch.equal(shuffled.flatten(2).sort().values, plain.flatten(2).sort().values)


def test_the_fingerprint_of_a_fresh_source_tells_what_it_draws(tiny_cgn: SmallCGN) -> None:
    different = [
        FreshSource(tiny_cgn),
        FreshSource(ReadableCGN()),
        FreshSource(tiny_cgn, Interventions(shape=1)),
        FreshSource(tiny_cgn, Interventions(num_per_shape=2)),
        FreshSource(tiny_cgn, Interventions("permute")),
        FreshSource(tiny_cgn, Interventions(class_map=ClassMap([0, 1]))),
        FreshSource(tiny_cgn, Interventions(class_map=ClassMap([0, 2]))),
    ]
    assert len({source.fingerprint for source in different}) == len(different)
    assert FreshSource(tiny_cgn, chunk=2).fingerprint == different[0].fingerprint


# Bank: what it shows


@pytest.mark.parametrize("size", [10, 27])
def test_each_image_is_composed_of_stored_factors_of_its_classes(
    size: int, tiny_cgn: SmallCGN
) -> None:
    source = BankSource(tiny_cgn, size)
    drawn = source.sample(20, seeded())
    bank = source._bank
    assert isinstance(bank, Factors)
    for i, (shape, texture, background) in enumerate(labels_of(drawn).T.tolist()):
        combinations = [
            compose(bank.mask[m : m + 1], bank.foreground[f : f + 1], bank.background[b : b + 1])
            for m in range(shape, size, 10)  # the classes take turns over the places
            for f in range(texture, size, 10)
            for b in range(background, size, 10)
        ]
        assert sum(torch.equal(drawn.images[i : i + 1], image) for image in combinations) == 1


def test_stored_factors_are_drawn_for_the_class_of_their_place() -> None:
    source = BankSource(ReadableCGN(), 25, 4, Interventions(shape=[7, 2], texture=[5]))
    for step in (0, 3, 11):
        source.seek(step)
        bank = source._bank
        assert isinstance(bank, Factors)
        images = compose(bank.mask, bank.foreground, bank.background)
        shape, texture, background = read_classes(images).tolist()
        assert shape == ([2, 7] * 13)[:25]
        assert texture == [5] * 25
        assert background == (list(range(10)) * 3)[:25]


def test_every_place_of_a_class_is_drawn_equally_often() -> None:
    source = BankSource(ReadableCGN(), 25)
    images = torch.cat([source.sample(5000, seeded(seed)).images for seed in range(3)])
    for classes, ids in zip(read_classes(images), read_ids(images), strict=True):
        for y in range(10):
            counts = ids[classes == y].unique(return_counts=True)[1]
            assert len(counts) == (3 if y < 5 else 2)
            share = counts / counts.sum()
            assert (share - 1 / len(counts)).abs().max() < 0.06
        assert (torch.bincount(classes) / 1500 - 1).abs().max() < 0.12


def test_the_three_factors_are_recombined_independently() -> None:
    source = BankSource(ReadableCGN(1), 4)
    ids = read_ids(source.sample(6400, seeded()).images)
    combinations = ids.unique(dim=1, return_counts=True)[1]
    assert len(combinations) == 4**3
    assert (combinations / 100 - 1).abs().max() < 0.45


# Bank: its contents


@pytest.mark.parametrize(("size", "refresh"), [(12, 3), (12, 5), (10, 10), (250, 60), (11, 1)])
def test_a_step_replaces_exactly_the_oldest(size: int, refresh: int) -> None:
    source = BankSource(ReadableCGN(), size, refresh)
    before, age = at_step(source, 0), torch.arange(size) - size
    for step in range(1, 2 * math.ceil(size / refresh) + 2):
        after = at_step(source, step)
        changed = (before != after).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == sorted(age.argsort()[:refresh].tolist())
        age[age.argsort()[:refresh]] = torch.arange(refresh) + size * step
        before = after


@pytest.mark.parametrize(("size", "refresh"), [(12, 3), (12, 5), (10, 10), (250, 60), (11, 1)])
def test_contents_depend_on_the_step_and_not_on_the_way_there(size: int, refresh: int) -> None:
    cgn = ReadableCGN()
    walked = BankSource(cgn, size, refresh, seed=4)
    num_steps = 2 * math.ceil(size / refresh) + 3
    expected = [at_step(walked, step) for step in range(num_steps)]
    jumping = BankSource(cgn, size, refresh, seed=4)
    jumps = [num_steps - 1, 0, 2, 2, 1, num_steps - 2, num_steps // 2, num_steps // 2 + 1]
    for step in jumps:
        assert torch.equal(at_step(jumping, step), expected[step])
    for step in range(num_steps):
        assert torch.equal(at_step(BankSource(cgn, size, refresh, seed=4), step), expected[step])
    assert not torch.equal(expected[0], expected[1])


def test_contents_of_a_real_cgn_do_not_depend_on_the_way_there(tiny_cgn: SmallCGN) -> None:
    walked, jumped = BankSource(tiny_cgn, 15, 4), BankSource(tiny_cgn, 15, 4)
    for step in range(7):
        expected = at_step(walked, step)
    assert torch.equal(at_step(jumped, 6), expected)
    at_step(jumped, 1)
    assert torch.equal(at_step(jumped, 6), expected)


def test_contents_follow_seed_and_rank_and_no_generator() -> None:
    cgn = ReadableCGN()
    first = at_step(BankSource(cgn, 12, 3), 5)
    sampled = BankSource(cgn, 12, 3)
    for seed in range(6):
        sampled.sample(3, seeded(seed))
    assert torch.equal(contents(sampled), first)
    moved = BankSource(cgn, 12, 3)
    other_rank = at_step(moved, 5, rank=1)
    other_seed = at_step(BankSource(cgn, 12, 3, seed=1), 5)
    assert not (other_rank == first).flatten(1).all(1).any()
    assert not (other_seed == first).flatten(1).all(1).any()
    assert not (other_seed == other_rank).flatten(1).all(1).any()
    assert torch.equal(at_step(moved, 5, rank=0), first)


def test_no_two_places_hold_the_same() -> None:
    source, cgn = BankSource(ReadableCGN(1), 250, 60), ReadableCGN(1)
    for step in (0, 1, 2):
        stored = at_step(source, step)
        assert all(len(stored[:, i].unique(dim=0)) == 250 for i in (0, 1, 4))
    at_step(BankSource(cgn, 250, 60), 20)
    for noises in cgn.noises.values():
        made = torch.cat(noises)
        assert len(made.unique()) == len(made) == 300


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_contents_do_not_depend_on_the_chunk(chunk: int, tiny_cgn: SmallCGN) -> None:
    readable = [BankSource(ReadableCGN(), 130, 30, chunk=c) for c in (100, chunk)]
    assert torch.equal(at_step(readable[0], 2), at_step(readable[1], 2))
    real = [BankSource(tiny_cgn, 20, 3, chunk=c) for c in (100, chunk)]
    torch.testing.assert_close(at_step(real[0], 2), at_step(real[1], 2))


def test_sampling_moves_on_by_one_step_and_seek_resumes() -> None:
    cgn = ReadableCGN()
    whole, resumed = BankSource(cgn, 12, 5), BankSource(cgn, 12, 5)
    expected = [whole.sample(6, seeded(step)) for step in range(8)]
    for start in (5, 0, 7, 3):
        resumed.seek(start)
        for step in range(start, 8):
            drawn = resumed.sample(6, seeded(step))
            assert torch.equal(drawn.images, expected[step].images)
            assert torch.equal(labels_of(drawn), labels_of(expected[step]))


def test_seeking_at_every_step_is_as_good_as_moving_on() -> None:
    cgn = ReadableCGN()
    moving, seeking = BankSource(cgn, 12, 5), BankSource(cgn, 12, 5)
    for step in range(5):
        seeking.seek(step, rank=0)
        assert torch.equal(
            seeking.sample(6, seeded(step)).images, moving.sample(6, seeded(step)).images
        )


def test_a_filling_that_fails_is_done_again() -> None:
    class Failing(ReadableCGN):
        fails = False

        def shape(self, noise: Tensor, y: Tensor) -> Tensor:
            if self.fails:
                raise MemoryError
            return super().shape(noise, y)

    cgn = Failing()
    source = BankSource(cgn, 12, 5)
    expected = at_step(source, 0)
    source.seek(9)
    cgn.fails = True
    with pytest.raises(MemoryError):
        source.seek(0)
    cgn.fails = False
    assert torch.equal(at_step(source, 0), expected)


# Bank: what it costs


def test_a_bank_is_filled_once_when_it_is_first_drawn_from() -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 230, chunk=50)
    assert cgn.made == {}
    for step in range(4):
        source.seek(step)
        source.sample(64, seeded())
    assert cgn.made == {"shape": 230, "texture": 230, "background": 230}
    assert max(len(noise) for noise in cgn.noises["shape"]) == 50


def test_a_step_costs_what_it_refreshes() -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 230, 7)
    source.seek(0)
    for step in range(1, 5):
        source.seek(step)
        source.sample(64, seeded())
        assert cgn.made == dict.fromkeys(("shape", "texture", "background"), 230 + 7 * step)
    source.seek(14)
    assert cgn.made["shape"] == 230 + 7 * 14


def test_a_far_step_costs_one_filling() -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 230, 7)
    source.seek(10_000)
    assert cgn.made["shape"] == math.ceil(230 / 7) * 7
    source.seek(20_000)
    assert cgn.made["shape"] == 2 * math.ceil(230 / 7) * 7


# Bank: how it is stored


@pytest.mark.parametrize("storage", STORAGES)
def test_num_bytes_is_what_the_bank_takes(storage: str, tiny_cgn: SmallCGN) -> None:
    source = BankSource(tiny_cgn, 11, storage=storage)
    source.seek(0)
    bank = source._bank
    assert isinstance(bank, Factors)
    stored = (bank.mask, bank.foreground, bank.background)
    assert source.num_bytes == sum(values.nbytes for values in stored)


@pytest.mark.parametrize(
    ("storage", "texture_error", "mask_error"),
    [("float16", 2**-12, 2**-12), ("uint8", 1 / 255, 0.5 / 255)],
)
def test_smaller_storage_keeps_images_within_half_a_level(
    storage: str, texture_error: float, mask_error: float, tiny_cgn: SmallCGN
) -> None:
    exact = BankSource(tiny_cgn, 20, 3).sample(64, seeded())
    stored = BankSource(tiny_cgn, 20, 3, storage=storage).sample(64, seeded())
    assert torch.equal(labels_of(exact), labels_of(stored))
    assert stored.images.dtype == torch.float32
    error = (exact.images - stored.images).abs().max()
    # A mask that is off by e moves a pixel by up to 2e, the distance of white from black.
    assert 0 < error < texture_error + 2 * mask_error + 1e-6
    assert stored.images.abs().max() <= 1


def test_uint8_keeps_the_ends_of_each_range_exactly() -> None:
    class Extreme(ReadableCGN):
        def shape(self, noise: Tensor, y: Tensor) -> Tensor:
            return (torch.arange(64).view(1, 1, 8, 8) % 2).float().expand(len(y), 1, 8, 8)

        def texture(self, noise: Tensor, y: Tensor) -> Tensor:
            return torch.ones(len(y), 3, 8, 8)

        def background(self, noise: Tensor, y: Tensor) -> Tensor:
            return -torch.ones(len(y), 3, 8, 8)

    drawn = BankSource(Extreme(), 10, storage="uint8").sample(2, seeded())
    assert torch.equal(drawn.images[0, 0].flatten(), torch.tensor([-1.0, 1.0]).repeat(32))


# Bank: its arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, "size 9 cannot hold each of the 10 classes of shape: make size at least 10"),
        ({"size": 0}, "size must be 1 or more, got 0"),
        ({"size": 20, "refresh": -1}, "refresh must be 0 or more, got -1"),
        ({"size": 20, "refresh": 21}, r"refresh \(21\) must not be larger than size \(20\)"),
        ({"size": 20, "seed": -1}, "seed must be 0 or more, got -1"),
        (
            {"size": 20, "storage": "int4"},
            "storage must be float32, float16 or uint8, got 'int4'",
        ),
        (
            {"size": 2, "interventions": Interventions(shape=1, texture=[1, 2, 3], background=0)},
            "size 2 cannot hold each of the 3 classes of texture: make size at least 3, or list",
        ),
    ],
)
def test_a_bank_that_cannot_be_is_an_error(
    arguments: dict[str, object], message: str, tiny_cgn: SmallCGN
) -> None:
    with pytest.raises(ArgumentError, match=message):
        BankSource(tiny_cgn, **arguments)


@pytest.mark.parametrize("name", ["size", "refresh", "seed"])
@pytest.mark.parametrize("value", [20.0, True, "20", None])
def test_the_numbers_of_a_bank_are_integers(name: str, value: object, tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{name} must be an integer, got {value!r}"):
        BankSource(tiny_cgn, **{"size": 20, name: value})


def test_a_bank_of_few_listed_classes_may_be_small(tiny_cgn: SmallCGN) -> None:
    source = BankSource(tiny_cgn, 1, 1, Interventions(shape=3, texture=9, background=0))
    first, second = source.sample(2, seeded()), source.sample(2, seeded())
    assert labels_of(first).tolist() == [[3, 3], [9, 9], [0, 0]]
    assert torch.equal(first.images[0], first.images[1])
    assert not torch.equal(first.images, second.images)


def test_the_fingerprint_of_a_bank_tells_what_it_draws(tiny_cgn: SmallCGN) -> None:
    different = [
        BankSource(tiny_cgn, 20),
        BankSource(ReadableCGN(), 20),
        BankSource(tiny_cgn, 21),
        BankSource(tiny_cgn, 20, 1),
        BankSource(tiny_cgn, 20, seed=1),
        BankSource(tiny_cgn, 20, storage="uint8"),
        BankSource(tiny_cgn, 20, storage="float16"),
        BankSource(tiny_cgn, 20, interventions=Interventions(shape=1)),
    ]
    assert len({source.fingerprint for source in different}) == len(different)
    assert BankSource(tiny_cgn, 20, chunk=2).fingerprint == different[0].fingerprint
    before = different[3].fingerprint
    different[3].sample(2, seeded())
    assert different[3].fingerprint == before


@pytest.mark.gpu
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_source_on_a_gpu_draws_what_it_draws_on_the_cpu(
    make: Callable[..., FreshSource | BankSource], tiny_cgn: SmallCGN
) -> None:
    elsewhere = SmallCGN(**tiny_cgn.config)
    elsewhere.load_state_dict(tiny_cgn.state_dict())
    expected = make(tiny_cgn).sample(16, seeded())
    drawn = make(elsewhere.to("cuda").freeze()).sample(16, seeded())
    assert drawn.images.device.type == drawn.shape.device.type == "cuda"
    assert torch.equal(labels_of(drawn).cpu(), labels_of(expected))
    torch.testing.assert_close(drawn.images.cpu(), expected.images, rtol=1e-2, atol=1e-2)
