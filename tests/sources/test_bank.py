"""A bank: what it shows, what it holds at each step, what that costs, and how it is stored."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F
from colored_parts_helpers import make_parts, make_set
from source_helpers import ReadableCGN, labels_of, read_classes, read_ids, seeded
from torch import Tensor

from cgn_augment import BankSource, ClassMap, Interventions, Placement, Step
from cgn_augment.errors import ArgumentError, ArgumentTypeError, FileError
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from cgn_augment.parts.opening import open_parts
from cgn_augment.sources.ahead import Ahead
from cgn_augment.sources.bank import _pack
from cgn_augment.sources.composing import unpack

STORAGES = ("float32", "float16", "uint8")
SIZES = [(12, 3), (12, 5), (10, 10), (250, 60), (11, 1)]


def at_step(source: BankSource, number: int, rank: int = 0) -> Tensor:
    """A copy (size, 7, H, W) of all that a bank holds at a step."""
    source.sample(1, seeded(), Step(number, rank))
    return torch.cat(source._bank, dim=1)


# What it shows


@pytest.mark.parametrize("size", [10, 27])
def test_each_image_is_composed_of_stored_factors_of_its_classes(
    size: int, tiny_cgn: SmallCGN
) -> None:
    source = BankSource(tiny_cgn, size)
    drawn = source.sample(20, seeded())
    masks, foregrounds, backgrounds = source._bank
    for i, (shape, texture, background) in enumerate(labels_of(drawn).T.tolist()):
        combinations = [
            compose(masks[m : m + 1], foregrounds[f : f + 1], backgrounds[b : b + 1])
            for m in range(shape, size, 10)  # the classes take turns over the places
            for f in range(texture, size, 10)
            for b in range(background, size, 10)
        ]
        assert sum(torch.equal(drawn.images[i : i + 1], image) for image in combinations) == 1


def test_stored_factors_are_drawn_for_the_class_of_their_place() -> None:
    source = BankSource(ReadableCGN(), 25, 4, Interventions(shape=[7, 2], texture=[5]))
    for step in (0, 3, 11):
        images = compose(*at_step(source, step).split([1, 3, 3], dim=1))
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


# Its contents


@pytest.mark.parametrize(("size", "refresh"), SIZES)
def test_a_step_replaces_exactly_the_oldest(size: int, refresh: int) -> None:
    source = BankSource(ReadableCGN(), size, refresh)
    before, age = at_step(source, 0), torch.arange(size) - size
    for step in range(1, 2 * math.ceil(size / refresh) + 2):
        after = at_step(source, step)
        changed = (before != after).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == sorted(age.argsort()[:refresh].tolist())
        age[age.argsort()[:refresh]] = torch.arange(refresh) + size * step
        before = after


@pytest.mark.parametrize(("size", "refresh"), SIZES)
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


def test_contents_follow_seed_and_rank_and_no_generator() -> None:
    cgn = ReadableCGN()
    first = at_step(BankSource(cgn, 12, 3), 5)
    sampled = BankSource(cgn, 12, 3)
    for seed in range(6):
        sampled.sample(3, seeded(seed), Step(seed))
    assert torch.equal(torch.cat(sampled._bank, dim=1), first)
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


def test_a_filling_that_fails_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 12, 5)
    expected = at_step(source, 0)
    at_step(source, 9)
    with monkeypatch.context() as broken:
        broken.setattr(cgn, "shape", None)
        with pytest.raises(TypeError):
            at_step(source, 0)
    assert torch.equal(at_step(source, 0), expected)


# What it costs


def test_a_bank_is_filled_once_when_it_is_first_drawn_from() -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 230, chunk=50)
    assert cgn.made == {}
    for number in range(4):
        source.sample(64, seeded(), Step(number))
    assert cgn.made == {"shape": 230, "texture": 230, "background": 230}
    assert max(len(noise) for noise in cgn.noises["shape"]) == 50


def test_a_step_costs_what_it_refreshes() -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 230, 7)
    source.sample(64, seeded())
    for number in range(1, 5):
        source.sample(64, seeded(), Step(number))
        assert cgn.made == dict.fromkeys(("shape", "texture", "background"), 230 + 7 * number)
    at_step(source, 14)
    assert cgn.made["shape"] == 230 + 7 * 14
    at_step(source, 10_000)  # one filling
    assert cgn.made["shape"] == 230 + 7 * 14 + math.ceil(230 / 7) * 7


# How it is stored


@pytest.mark.parametrize("storage", STORAGES)
def test_num_bytes_is_what_the_bank_takes(storage: str, tiny_cgn: SmallCGN) -> None:
    source = BankSource(tiny_cgn, 11, storage=storage)
    source.sample(1, seeded())
    assert source.num_bytes == sum(values.nbytes for values in source._bank)


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
    for low in (0.0, -1.0):
        ends = torch.tensor([low, 1.0]).view(2, 1, 1, 1)
        kept = _pack(ends, low, torch.uint8)
        assert torch.equal(unpack(kept, torch.arange(2), low, kept.device), ends)


# Of parts on disk


def test_of_parts_it_keeps_bytes_and_composes_without_copies_of_them() -> None:
    source = BankSource(make_parts(24), 20, 3)
    assert source.storage == "uint8"
    assert source.interventions == Interventions(texture="shape")
    for number in (0, 1, 9, 4):
        made = source.sample(16, seeded(number), Step(number))
        assert [kept.dtype for kept in source._bank] == [torch.uint8] * 3
        (mask, foreground, behind), classes = source.sample_factors(
            16, seeded(number), Step(number)
        )
        assert torch.equal(classes, labels_of(made))
        torch.testing.assert_close(made.images, compose(mask, foreground, behind))
        exact = BankSource(make_parts(24), 20, 3, storage="float32")
        again = exact.sample(16, seeded(number), Step(number))
        torch.testing.assert_close(made.images, again.images)  # bytes lose nothing of bytes


@pytest.mark.parametrize("side", [20, 48])
def test_factors_are_resized_when_they_are_drawn(side: int, tiny_cgn: SmallCGN) -> None:
    options = {"size": 20, "refresh": 3, "seed": 2}
    own, resized = BankSource(tiny_cgn, **options), BankSource(tiny_cgn, **options, image_size=side)
    for number in (0, 1, 9):
        kept = at_step(own, number)
        expected = F.interpolate(kept, (side, side), mode="bilinear", antialias=True)
        torch.testing.assert_close(at_step(resized, number), expected, rtol=0, atol=1e-6)
        made = resized.sample(6, seeded(1), Step(number))
        again = own.sample(6, seeded(1), Step(number))
        assert made.images.shape == (6, 3, side, side)
        assert made.mask.shape == (6, 1, side, side)
        assert torch.equal(labels_of(made), labels_of(again))
        for values, low in zip(resized._bank, (0, -1, -1), strict=True):
            assert low <= values.min()
            assert values.max() <= 1
    assert resized.num_bytes == sum(each.nbytes for each in resized._bank)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_resized_factors_are_stored_like_others(
    storage: str, parts: bool, tiny_cgn: SmallCGN
) -> None:
    def draw(storage: str) -> Tensor:
        cgn = make_parts(24) if parts else tiny_cgn
        source = BankSource(cgn, 20, 3, storage=storage, image_size=16)
        return source.sample(8, seeded(), Step(4)).images

    torch.testing.assert_close(draw(storage), draw("float32"), rtol=0, atol=1.5 / 255)


def test_a_resized_bank_is_another_source(tiny_cgn: SmallCGN) -> None:
    own, same, resized = (
        BankSource(tiny_cgn, 20, image_size=side) for side in (None, tiny_cgn.image_size, 20)
    )
    assert own.fingerprint == same.fingerprint != resized.fingerprint
    assert resized.restrict(ClassMap([0, 1])).image_size == 20
    assert own.restrict(ClassMap([0, 1])).image_size == tiny_cgn.image_size


def test_an_object_of_a_bank_keeps_its_own_texture() -> None:
    rule = Interventions(texture="shape", background="other", num_per_shape=2)
    source = BankSource(make_parts(24), 20, 3, rule)
    for number in (0, 5):
        (mask, foreground, behind), classes = source.sample_factors(30, seeded(), Step(number))
        assert (classes[0] == classes[1]).all()
        assert (classes[0] != classes[2]).all()
        red = ((foreground[:, 0] + 1) * 127.5).round()
        for own, inside in zip(red, mask[:, 0] > 0.9, strict=True):
            assert len(own[inside].unique()) == 1
            assert own[inside][0] >= 200  # of an object, and of one
        assert torch.equal(mask[::2], mask[1::2])
        assert torch.equal(foreground[::2], foreground[1::2])
        assert not torch.equal(behind[::2], behind[1::2])
    pairs = BankSource(ReadableCGN(), 20, 3, Interventions(texture="shape"))
    for step in (0, 2):
        pairs.sample(1, seeded(), Step(step))
        masks, foregrounds, _ = pairs._bank
        assert torch.equal(masks[:, 0, 6, 0], foregrounds[:, 0, 0, 0])  # of one class
        assert torch.equal(masks[:, 0, 7, 0], foregrounds[:, 0, 0, 4])  # and of one noise


def test_what_is_decoded_ahead_is_what_would_be_decoded_now() -> None:
    class Slow(Ahead):
        def begin(self, rank: int, number: int) -> None:
            """Begins nothing, so that all is drawn when it is asked for."""

    ahead, now = (BankSource(make_parts(16), 12, 5, seed=3) for _ in range(2))
    now._ahead = Slow(now._draw_refresh, now.device)
    for step in (Step(0), Step(1), Step(2), Step(2), Step(7), Step(8), Step(8, 1), Step(9, 1)):
        drawn = [source.sample(8, seeded(), step).images for source in (ahead, now)]
        assert torch.equal(*drawn), step
    assert ahead._ahead is not None
    assert ahead._ahead._begun is not None
    copied = pickle.loads(pickle.dumps(ahead))
    assert torch.equal(
        copied.sample(8, seeded(), Step(10, 1)).images, now.sample(8, seeded(), Step(10, 1)).images
    )


def test_an_error_ahead_of_time_is_raised_by_the_step_that_it_belongs_to() -> None:
    held = make_set(12)
    source = BankSource(open_parts(held, 16), 12, 3)
    source.sample(2, seeded(), Step(0))
    source.sample(2, seeded(), Step(1))

    def fail(*_: object, **__: object) -> NoReturn:
        raise FileError("the shard is gone")

    held.read = fail  # type: ignore[method-assign]

    def go_on() -> None:
        for number in range(2, 5):
            source.sample(2, seeded(), Step(number))

    with pytest.raises(FileError, match="the shard is gone"):
        go_on()


def test_what_is_begun_ahead_belongs_to_a_rank_and_a_step() -> None:
    calls: list[tuple[int, int]] = []

    def draw(rank: int, number: int) -> int:
        calls.append((rank, number))
        return 10 * rank + number

    ahead = Ahead(draw, torch.device("cpu"))
    ahead.begin(0, 3)
    ahead.begin(0, 3)
    assert ahead.take(0, 3) == 3
    assert calls == [(0, 3)]
    assert ahead.take(0, 3) == 3
    ahead.begin(0, 4)
    assert ahead.take(1, 4) == 14
    assert calls[-1] == (1, 4)


@pytest.mark.gpu
def test_a_bank_of_parts_on_a_gpu_draws_what_it_draws_on_the_cpu() -> None:
    drawn = [
        BankSource(make_parts(24, device=device), 20, 3).sample(16, seeded(), Step(2)).to("cpu")
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(drawn[0].images, drawn[1].images)
    assert torch.equal(*map(labels_of, drawn))


# Where it is kept


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bank_in_the_hosts_memory_draws_the_same(storage: str) -> None:
    banks = [
        BankSource(ReadableCGN(), 20, 3, storage=storage, memory=memory)  # type: ignore[arg-type]
        for memory in ("device", "host")
    ]
    for number in (0, 2, 30):
        first, second = (bank.sample(9, seeded(), Step(number)).images for bank in banks)
        assert torch.equal(first, second)
    assert banks[0].fingerprint == banks[1].fingerprint
    assert banks[1].restrict(ClassMap([0, 1])).memory == "host"


@pytest.mark.gpu
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("placement", [None, Placement(shift=0.2, flip=0.5)])
def test_a_bank_in_the_hosts_memory_draws_the_same_on_a_gpu(
    storage: str, placement: Placement | None, tiny_cgn: SmallCGN
) -> None:
    cgn = copy.deepcopy(tiny_cgn).to("cuda")
    options = {"storage": storage, "placement": placement}
    banks = [BankSource(cgn, 20, 3, memory=memory, **options) for memory in ("device", "host")]  # type: ignore[arg-type]
    for number in (0, 2, 30):
        first, second = (bank.sample(9, seeded(), Step(number)) for bank in banks)
        assert first.images.is_cuda
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.mask, second.mask)
    assert [{each.device.type for each in bank._bank} for bank in banks] == [{"cuda"}, {"cpu"}]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "keep it in the host's memory with memory='host', pass storage='uint8', make size"),
        ({"storage": "uint8"}, "keep it in the host's memory with memory='host', make size"),
        ({"memory": "host", "storage": "uint8"}, "as it was filled: make size smaller, or chunk"),
    ],
)
def test_a_bank_that_does_not_fit_says_what_to_do(
    options: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgn = ReadableCGN()
    source = BankSource(cgn, 20, **options)
    expected = source.sample(3, seeded()).images
    source = BankSource(cgn, 20, **options)

    def run_out(*_: Any) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as small:
        small.setattr(cgn, "background", run_out)
        with pytest.raises(ArgumentError, match=f"a bank of 20 .* GB, and cpu ran out .*{advice}"):
            source.sample(3, seeded())
    assert torch.equal(source.sample(3, seeded()).images, expected)


# Its arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, "size 9 cannot hold each of the 10 classes of shape: make size at least 10"),
        ({"size": 0}, "size must be 1 or more, got 0"),
        ({"size": 20.0}, "size must be an integer, got 20.0"),
        ({"size": 20, "refresh": True}, "refresh must be an integer, got True"),
        ({"size": 20, "refresh": -1}, "refresh must be 0 or more, got -1"),
        ({"size": 20, "refresh": 21}, r"refresh \(21\) must not be larger than size \(20\)"),
        ({"size": 20, "seed": -1}, "seed must be 0 or more, got -1"),
        (
            {"size": 20, "storage": "int4"},
            "storage must be one of float32, float16, uint8, got 'int4'",
        ),
        ({"size": 20, "image_size": 0}, "image_size must be 1 or more, got 0"),
        ({"size": 20, "image_size": 10**6}, "image_size must be 32768 or less"),
        ({"size": 20, "memory": "gpu"}, "memory must be one of device, host, got 'gpu'"),
        (
            {"size": 2, "interventions": Interventions(shape=1, texture=[1, 2, 3], background=0)},
            "size 2 cannot hold each of the 3 classes of texture: make size at least 3, or list",
        ),
    ],
)
def test_a_bank_that_cannot_be_is_an_error(
    arguments: dict[str, object], message: str, tiny_cgn: SmallCGN
) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        BankSource(tiny_cgn, **arguments)


def test_a_bank_of_few_listed_classes_may_be_small(tiny_cgn: SmallCGN) -> None:
    source = BankSource(tiny_cgn, 1, 1, Interventions(shape=3, texture=9, background=0))
    first, second = (source.sample(2, seeded(), Step(number)) for number in (0, 1))
    assert labels_of(first).tolist() == [[3, 3], [9, 9], [0, 0]]
    assert torch.equal(first.images[0], first.images[1])
    assert not torch.equal(first.images, second.images)


def test_settings_are_in_the_fingerprint_and_are_kept_by_a_restriction(tiny_cgn: SmallCGN) -> None:
    first = {"size": 20, "refresh": 0, "seed": 0, "storage": "float32"}
    other = {"size": 21, "refresh": 1, "seed": 1, "storage": "uint8"}
    changes = [{}, *({name: value} for name, value in other.items())]
    sources = [BankSource(tiny_cgn, **{**first, **change}) for change in changes]
    assert len({source.fingerprint for source in sources}) == len(sources)
    restricted = BankSource(tiny_cgn, **other, chunk=4).restrict(ClassMap([0, 1]))
    assert {name: getattr(restricted, name) for name in other} == other
    assert restricted.chunk == 4
