"""`ShardSource`: what it draws, in which order, and what it says of damaged shards."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stream_helpers import same
from torch import Tensor

from cgn_augment import (
    ClassMap,
    Counterfactuals,
    Interventions,
    ShardSource,
    Source,
    Step,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError, FileError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards.encode import draw_block

NUM = 96
CONFIG = ShardConfig(num=NUM, shard_size=12, block_size=32, format="npy")


@pytest.fixture(scope="module")
def shards(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of twelve images."""
    folder = tmp_path_factory.mktemp("read") / "set"
    render_shards(tiny_cgn, folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def drawn(tiny_cgn: SmallCGN) -> Counterfactuals:
    """What is in them, in the order of the indices."""
    blocks = [draw_block(tiny_cgn, CONFIG, number) for number in range(3)]
    images = torch.cat([torch.from_numpy(block.pictures["npy"]) for block in blocks])
    return Counterfactuals(images, *torch.cat([torch.from_numpy(b.classes) for b in blocks], 1))


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    """A set that may be damaged."""
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Drawn(NamedTuple):
    """What a step drew; `same` compares it."""

    images: Tensor
    labels: Tensor


def draw(
    source: ShardSource, steps: Any, num: int = 8, rank: int = 0, world_size: int = 1
) -> list[Drawn]:
    samples = [source.sample(num, seeded(n), Step(n, rank, world_size)) for n in steps]
    return [Drawn(s.images, torch.stack([s.shape, s.texture, s.background])) for s in samples]


def indices_of(images: Tensor, drawn: Counterfactuals) -> list[int]:
    """The indices of images of the set."""
    equal = (images[:, None] == drawn.images[None]).flatten(2).all(2)
    assert bool((equal.sum(1) == 1).all())
    return [int(i) for i in equal.float().argmax(1)]


def test_it_is_a_source_of_the_documented_form(shards: Path) -> None:
    source = ShardSource(shards)
    sample = source.sample(5, seeded())
    assert isinstance(source, Source)
    assert (source.image_size, source.num_classes, source.num_images) == (32, 10, NUM)
    assert sample.images.shape == (5, 3, 32, 32)
    assert sample.images.dtype == torch.float32
    assert sample.shape.dtype == torch.int64
    assert len(source.sample(0, seeded())) == 0


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "npy"])
def test_images_are_in_the_range_of_other_sources(
    kind: Any, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render_shards(tiny_cgn, tmp_path / "set", ShardConfig(num=20, format=kind))
    sample = ShardSource(tmp_path / "set", refresh=20, shuffle=0).sample(20, seeded())
    block = draw_block(tiny_cgn, ShardConfig(num=20, format="npy"), 0)
    order = torch.randperm(20, generator=seeded())
    expected = torch.from_numpy(block.pictures["npy"])[:20][order]
    limits = {"png": 0.5 / 127, "jpg": 0.2, "webp": 0.5, "npy": 0}
    assert float((sample.images - expected).abs().max()) <= limits[kind]
    assert torch.equal(sample.texture, torch.from_numpy(block.classes)[1, :20][order])


def test_labels_are_those_of_the_images_and_a_pass_shows_each_image_once(
    shards: Path, drawn: Counterfactuals
) -> None:
    source, shown = ShardSource(shards, refresh=8, size=24), Counter[int]()
    for images, classes in draw(source, range(NUM // 8)):
        indices = indices_of(images, drawn)
        for row, factor in zip(classes, ("shape", "texture", "background"), strict=True):
            assert torch.equal(row, getattr(drawn, factor)[indices])
        shown.update(indices)
    assert len(shown) > 0.8 * NUM  # lanes end a pass at different steps
    source = ShardSource(shards, refresh=12, size=12, shuffle=0)
    samples = draw(source, range(8), 12)
    assert Counter(i for images, _ in samples for i in indices_of(images, drawn)) == Counter(
        range(NUM)
    )


def test_a_step_that_needs_more_draws_from_all_that_is_held(
    shards: Path, drawn: Counterfactuals
) -> None:
    source = ShardSource(shards, refresh=8, size=32)
    sample = source.sample(32, seeded())
    assert len(set(indices_of(sample.images, drawn))) == 32
    assert len(source.sample(80, seeded())) == 80


@pytest.mark.parametrize("shuffle", [0, 5, 256])
def test_what_a_step_draws_is_a_function_of_seed_rank_and_step(shuffle: int, shards: Path) -> None:
    make = lambda: ShardSource(shards, refresh=8, size=24, shuffle=shuffle)  # noqa: E731
    walked = draw(make(), range(20))
    jumping = make()
    for step in (19, 0, 1, 3, 2, 17, 17, 18):
        assert same(draw(jumping, [step])[0], walked[step])
        assert same(draw(make(), [step])[0], walked[step])
    other_seed = ShardSource(shards, refresh=8, size=24, shuffle=5, seed=1)
    assert not same(draw(other_seed, range(3)), walked[:3])


def test_workers_do_not_change_the_order(shards: Path) -> None:
    expected = draw(ShardSource(shards, refresh=5, size=15), range(9))
    source = ShardSource(shards, refresh=5, size=15, num_workers=2)
    before = torch.get_rng_state()
    assert same(draw(source, range(9)), expected)
    assert same(draw(source, [3]), expected[3:4])
    assert torch.equal(torch.get_rng_state(), before)
    source.close()


def test_ranks_read_disjoint_shards(shards: Path, drawn: Counterfactuals) -> None:
    shown = []
    for rank in (0, 1):
        source = ShardSource(shards, refresh=12, size=12)
        samples = draw(source, range(4), 12, rank, 2)
        shown.append({i for sample in samples for i in indices_of(sample.images, drawn)})
    assert len(shown[0]) == len(shown[1]) == NUM // 2
    assert not shown[0] & shown[1]


# Classes


def test_a_restricted_source_keeps_to_shapes_of_the_map(
    shards: Path, drawn: Counterfactuals, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    source = ShardSource(shards, refresh=4, size=12, shuffle=6)
    restricted = source.restrict(ClassMap({0: [8, 1], 1: 4}))
    wanted = {i for i, y in enumerate(drawn.shape.tolist()) if y in (8, 1, 4)}
    assert restricted.num_images == len(wanted)
    assert restricted.fingerprint != source.fingerprint
    walked = draw(restricted, range(40), 4)
    shown = {i for sample in walked for i in indices_of(sample.images, drawn)}
    assert shown == wanted
    assert same(draw(source.restrict(ClassMap({0: [8, 1], 1: 4})), [23], 4)[0], walked[23])
    with pytest.raises(ArgumentError, match=r"names the classes \[11\]"):
        source.restrict(ClassMap([11]))
    two = ShardConfig(num=20, interventions=Interventions(shape=[1, 2]))
    render_shards(tiny_cgn, tmp_path / "set", two)
    with pytest.raises(ArgumentError, match=r"no image .* a shape of the classes \[3, 5\]"):
        ShardSource(tmp_path / "set").restrict(ClassMap([3, 5]))


# Damage


def damage_image(folder: Path, shard: int) -> None:
    """Overwrites the header of the first array of a shard."""
    path = folder / f"counterfactuals-{shard:06d}.tar"
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"BROKEN", 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_sample_is_skipped_with_one_warning_and_a_count(
    num_workers: int, copied: Path
) -> None:
    for shard in (1, 6):
        damage_image(copied, shard)
    source = ShardSource(copied, refresh=12, size=12, num_workers=num_workers)
    told = r"a damaged sample is skipped .* sample 0000.* ShardSource.num_skipped"
    with pytest.warns(UserWarning, match=told) as warned:
        assert len(draw(source, range(9), 1)) == 9
    source.close()
    assert len(warned) == 1
    assert source.num_skipped >= 2


@pytest.mark.parametrize("cut", [3000, 0])
def test_what_is_lost_of_a_cut_shard_is_counted_and_all_else_is_read(
    cut: int, copied: Path, drawn: Counterfactuals
) -> None:
    path = copied / "counterfactuals-000002.tar"
    path.write_bytes(path.read_bytes()[:cut])
    source = ShardSource(copied, refresh=12, size=96, shuffle=0)
    with pytest.warns(UserWarning, match="counterfactuals-000002"):
        sample = source.sample(84, seeded())
    assert source.num_skipped == 12
    assert set(indices_of(sample.images, drawn)) == set(range(96)) - set(range(24, 36))


def test_damage_does_not_move_what_later_steps_draw(shards: Path, copied: Path) -> None:
    damage_image(copied, 0)
    with pytest.warns(UserWarning, match="skipped"):
        damaged = draw(ShardSource(copied, refresh=12, size=12), range(16), 5)
    whole = draw(ShardSource(shards, refresh=12, size=12), range(16), 5)
    alike = [same(a, b) for a, b in zip(damaged, whole, strict=True)]
    assert sum(alike) >= 14


def test_nothing_but_damage_is_an_error(copied: Path) -> None:
    for path in copied.glob("*.tar"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match="all of the 1024 samples read last are damaged"),
    ):
        ShardSource(copied).sample(4, seeded())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_missing_shard_is_one_error(num_workers: int, copied: Path) -> None:
    (copied / "counterfactuals-000003.tar").unlink()
    source = ShardSource(copied, num_workers=num_workers)
    with pytest.raises(FileError, match=r"shard .*counterfactuals-000003\.tar is missing") as told:
        source.sample(4, seeded())
    assert len(str(told.value).splitlines()) == 1


# Which shards


def test_shards_are_named_by_folder_list_or_braces(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ShardSource(shards).fingerprint
    names = [str(shards / f"counterfactuals-{i:06d}.tar") for i in range(8)]
    assert ShardSource(f"{shards}/").fingerprint == expected
    assert ShardSource(names).fingerprint == expected
    braces = str(shards / "counterfactuals-{000000..000007}.tar")
    assert ShardSource(braces).fingerprint == expected
    assert ShardSource(names[:2]).num_images == 24
    monkeypatch.chdir(shards)
    assert ShardSource("counterfactuals-000001.tar").num_images == 12
    assert ShardSource(".").num_images == NUM


def test_sets_may_be_read_together(shards: Path, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    render_shards(tiny_cgn, tmp_path / "more", ShardConfig(num=10, seed=1, format="npy"))
    render_shards(tiny_cgn, tmp_path / "jpg", ShardConfig(num=10, format="jpg"))
    assert ShardSource([shards, tmp_path / "more"]).num_images == NUM + 10
    with pytest.raises(DataError, match="differ in image_size, num_classes, format"):
        ShardSource([shards, tmp_path / "jpg"])


def test_what_is_no_set_is_an_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest\.json, so it is not a complete set"):
        ShardSource(tmp_path)
    with pytest.raises(DataError, match=r"names no shard counterfactuals-000099\.tar"):
        ShardSource(shards / "counterfactuals-000099.tar")
    with pytest.raises(ArgumentError, match="urls is empty"):
        ShardSource([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world_size": 9}, "8 shards are too few for 9 ranks with 1 workers"),
        (
            {"world_size": 3, "num_workers": 4},
            "8 shards are too few for 3 ranks with 4 workers each, .*: pass num_workers=2 or fewer",
        ),
        ({"num_workers": 3}, "num_workers must be one of 0, 1, 2, 4, 8 with these shards"),
        ({"refresh": 0}, "refresh must be 1 or more, got 0"),
    ],
)
def test_arguments_that_cannot_be_are_errors(
    arguments: dict[str, Any], message: str, shards: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        ShardSource(shards, **arguments)


@pytest.mark.parametrize(
    ("world_size", "step", "message"),
    [
        (2, Step(), r"a step of 1 ranks .* made for 2: pass it world_size=1, or leave it out"),
        (None, Step(0, 2, 2), "rank must be 0 to 1 of 2, got 2"),
        (None, Step(0, 0, 9), "8 shards are too few for 9 ranks"),
        (None, torch.zeros(1), "a real batch goes to real="),
    ],
)
def test_another_step_is_an_error(
    world_size: int | None, step: Any, message: str, shards: Path
) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        ShardSource(shards, world_size=world_size).sample(1, seeded(), step)
