"""Shapes of the user's own images, with drawn textures and backgrounds."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from imagenet_helpers import make_reduced_cgn
from stream_helpers import collect, same
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    Counterfactuals,
    Factors,
    FreshSource,
    GivenMasks,
    Interventions,
    RealBatch,
    RealShapeSource,
    SmallCGN,
    UNetMasker,
    match_real,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError
from cgn_augment.functional import compose

SIZE = 8


class Textures:
    """Foregrounds, backgrounds and masks that show their classes; `seeks` are those asked for."""

    image_size, num_classes = SIZE, 10
    fingerprint = "textures"

    def __init__(self, interventions: Interventions | None = None) -> None:
        self.interventions = interventions or Interventions()
        self.seeks: list[tuple[int, int]] = []
        self.restricted: Any = None

    def seek(self, step: int, rank: int = 0) -> None:
        self.seeks.append((step, rank))

    def restrict(self, class_map: Any) -> Textures:
        other = Textures(self.interventions.restrict(class_map))
        other.restricted = class_map
        return other

    def sample_factors(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> tuple[Factors, Tensor]:
        y = self.interventions.draw(num, self.num_classes, generator)
        grey = (y / 5 - 1)[:, :, None, None, None]
        mask = torch.zeros(num, 1, SIZE, SIZE)
        mask[..., :4] = 1  # a drawn shape is the left half
        full = grey.expand(3, num, 3, SIZE, SIZE).clone()
        return Factors(mask, full[1], full[2]), y

    def sample(
        self, num: int, generator: torch.Generator, real: RealBatch | None = None
    ) -> Counterfactuals:
        factors, y = self.sample_factors(num, generator, real)
        return Counterfactuals(compose(factors.mask, factors.foreground, factors.background), *y)


def blocks(num: int, first: int = 0) -> Tensor:
    """Images: a bright block whose place says which image it is, on black."""
    images = torch.full((num, 3, SIZE, SIZE), -1.0)
    for place in range(num):
        row, column = divmod(first + place, 6)
        images[place, :, row % 6 : row % 6 + 3, column : column + 3] = 1.0
    return images


def find_bright(images: Tensor) -> Tensor:
    return (images[:, :1] > 0).float()


def batch(num: int = 6, **parts: Any) -> RealBatch:
    labels = torch.arange(num) % 10
    return RealBatch(**{"images": blocks(num), "labels": labels, "classes": labels, **parts})


def make(masker: Any = find_bright, textures: Any = None, **options: Any) -> RealShapeSource:
    return RealShapeSource(masker, textures or Textures(), **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey_of(y: Tensor) -> Tensor:
    return (y / 5 - 1)[:, None, None, None].expand(-1, 3, SIZE, SIZE)


def expected(real: RealBatch, made: Counterfactuals) -> Tensor:
    assert made.real is not None
    masks = find_bright(real.images)[made.real]
    return torch.where(masks > 0, grey_of(made.texture), grey_of(made.background))


# What is drawn


def test_the_shape_is_the_images_and_the_rest_is_drawn() -> None:
    real = batch()
    made = make().sample(6, seeded(), real)
    assert made.images.shape == (6, 3, SIZE, SIZE)
    assert sorted(made.real.tolist()) == [0, 1, 2, 3, 4, 5]  # each once
    assert torch.equal(made.shape, real.classes[made.real])
    torch.testing.assert_close(made.images, expected(real, made))
    assert len(set(made.texture.tolist())) > 1


def test_more_than_a_batch_takes_each_image_again_after_all() -> None:
    made = make().sample(15, seeded(), batch())
    assert sorted(made.real[:6].tolist()) == sorted(made.real[6:12].tolist()) == [*range(6)]
    assert len(set(made.real[12:].tolist())) == 3
    assert made.real[:6].tolist() != made.real[6:12].tolist()


def test_several_counterfactuals_have_the_shape_of_one_image() -> None:
    made = make(num_per_shape=4).sample(10, seeded(), batch())
    rows = made.real.tolist()
    assert rows == [rows[0]] * 4 + [rows[4]] * 4 + [rows[8]] * 2
    assert len({rows[0], rows[4], rows[8]}) == 3
    torch.testing.assert_close(made.images, expected(batch(), made))


def test_none_is_none() -> None:
    assert len(make().sample(0, seeded(), batch())) == 0


@pytest.mark.parametrize("keep", ["texture", "background"])
def test_one_of_the_two_can_be_kept(keep: str) -> None:
    real = batch(images=blocks(6) * 0.5)
    made = make(keep=keep).sample(6, seeded(), real)
    masks = find_bright(real.images)[made.real] > 0
    own = real.images[made.real]
    if keep == "texture":
        whole = torch.where(masks, own, grey_of(made.background))
        assert torch.equal(made.texture, real.classes[made.real])
        assert not torch.equal(made.background, made.shape)
    else:
        whole = torch.where(masks, grey_of(made.texture), own)
        assert torch.equal(made.background, real.classes[made.real])
        assert not torch.equal(made.texture, made.shape)
    torch.testing.assert_close(made.images, whole)


def test_soft_masks_blend() -> None:
    made = make(lambda images: find_bright(images) * 0.6 + 0.2, gate=None).sample(
        6, seeded(), batch()
    )
    masks = find_bright(blocks(6))[made.real] * 0.6 + 0.2
    whole = compose(masks, grey_of(made.texture), grey_of(made.background))
    torch.testing.assert_close(made.images, whole, atol=2 / 255, rtol=0)


def test_unseen_pairs_are_drawn_again_and_what_is_kept_stays() -> None:
    real = batch(10)
    plain = make().sample(10, seeded(), real)
    assert (plain.texture == plain.background).any()
    for keep in (None, "texture"):
        made = make(keep=keep, min_contrast=0.1).sample(10, seeded(), real)
        if keep is None:
            assert not (made.texture == made.background).any()
            torch.testing.assert_close(made.images, expected(real, made))
        else:
            masks = find_bright(real.images)[made.real] > 0
            assert torch.equal(made.texture, real.classes[made.real])
            torch.testing.assert_close(
                made.images, torch.where(masks, 1.0, grey_of(made.background))
            )


# Range, size, masks


def test_images_are_brought_into_the_generators_range_and_size() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wide = torch.nn.functional.interpolate(blocks(6), scale_factor=4)
    normal = match_real(mean, std)(wide)
    seen = []

    def spy(images: Tensor) -> Tensor:
        seen.append(images)
        return find_bright(images)

    made = make(spy, mean=mean, std=std, keep="texture").sample(6, seeded(), batch(images=normal))
    torch.testing.assert_close(seen[0], blocks(6), atol=0.5, rtol=0)  # softened by the resizing
    assert seen[0].shape == (6, 3, SIZE, SIZE)
    assert made.images.shape == (6, 3, SIZE, SIZE)


def test_images_in_another_range_are_an_error_at_the_first_step() -> None:
    for images in ((blocks(6) + 1) * 2, blocks(6) * float("nan")):
        with pytest.raises(DataError, match=r"real images span .* mean and std of your Normalize"):
            make().sample(6, seeded(), batch(images=images))


@pytest.mark.parametrize(
    ("masker", "message"),
    [
        (lambda images: images, r"must give masks \(6, 1, 8, 8\), got \(6, 3, 8, 8\)"),
        (lambda images: images[:, :1], r"masks must be in \[0, 1\], got \[-1, 1\]"),
    ],
)
def test_masks_that_are_none_are_an_error(masker: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(masker).sample(6, seeded(), batch())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_may_come_with_the_batch(dtype: torch.dtype) -> None:
    masks = torch.zeros(6, SIZE, SIZE)
    masks[:, 2:5, 2:5] = 1
    given = {"image": blocks(6), "mask": masks.to(dtype)}
    made = make(GivenMasks("mask")).sample(6, seeded(), batch(batch=given))
    whole = torch.where(masks[:, None] > 0, grey_of(made.texture), grey_of(made.background))
    torch.testing.assert_close(made.images, whole)


def test_masks_that_are_not_in_the_batch_are_an_error() -> None:
    with pytest.raises(DataError, match="no tensor of masks at 2"):
        make(GivenMasks(2)).sample(6, seeded(), batch(batch=(blocks(6), torch.arange(6))))
    wrong = {"mask": torch.zeros(6, 4, 4)}
    with pytest.raises(DataError, match=r"must be \(6, 1, 8, 8\), .* got \(6, 1, 4, 4\)"):
        make(GivenMasks("mask")).sample(6, seeded(), batch(batch=wrong))
    with pytest.raises(ArgumentError, match="cannot find them in images"):
        GivenMasks("mask")(blocks(2))


# The gate


def with_blanks(num: int, blanks: int) -> RealBatch:
    images = blocks(num)
    images[:blanks] = -1
    return batch(num, images=images)


def test_images_without_a_usable_mask_are_replaced_by_others() -> None:
    source = make()
    made = source.sample(8, seeded(), with_blanks(8, 3))
    assert set(made.real.tolist()) == {3, 4, 5, 6, 7}
    assert source.counts == {"usable": 5, "empty": 3, "full": 0, "unsure": 0}
    source.sample(8, seeded(), with_blanks(8, 1))
    assert source.counts == {"usable": 12, "empty": 4, "full": 0, "unsure": 0}


def test_or_by_shapes_that_the_generator_draws() -> None:
    real = with_blanks(8, 3)
    made = make(replace="generator").sample(8, seeded(), real)
    drawn = made.real < 0
    assert int(drawn.sum()) == 3
    assert sorted(made.real[~drawn].tolist()) == [3, 4, 5, 6, 7]
    assert torch.equal(made.shape[~drawn], real.classes[made.real[~drawn]])
    left = torch.arange(SIZE) < 4
    whole = torch.where(left, grey_of(made.texture), grey_of(made.background))
    torch.testing.assert_close(made.images[drawn], whole[drawn])


def test_a_batch_without_any_usable_mask_is_an_error_or_drawn() -> None:
    real = with_blanks(4, 4)
    with pytest.raises(DataError, match=r"none of the 4 real images .* replace='generator'"):
        make().sample(4, seeded(), real)
    made = make(replace="generator").sample(4, seeded(), real)
    assert made.real.tolist() == [-1] * 4
    assert len(make(gate=None).sample(4, seeded(), real)) == 4


def test_many_images_without_a_mask_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make().sample(30, seeded(), with_blanks(64, 40))
    assert "40 of 64 masks of real images are left out" in caplog.text


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "shape"}, "keep must be one of None, texture, background, got 'shape'"),
        ({"replace": "drop"}, "replace must be one of resample, generator, got 'drop'"),
        ({"num_per_shape": 0}, "num_per_shape must be an integer of 1 or more, got 0"),
        ({"chunk": True}, "chunk must be an integer of 1 or more, got True"),
        ({"cache_bytes": 0}, "cache_bytes must be an integer of 1 or more, got 0"),
        ({"min_contrast": 3.0}, "min_contrast .* got 3.0"),
        ({"std": 0.0}, "std must be above 0, got 0.0"),
        ({"mean": (1.0, 2.0)}, "mean must be one number or three"),
    ],
)
def test_values_that_cannot_be_used_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**options)


def test_things_of_the_wrong_kind_are_errors() -> None:
    with pytest.raises(ArgumentTypeError, match="masker must take images to masks"):
        make("masker")
    with pytest.raises(ArgumentTypeError, match="textures must be a BankSource or a FreshSource"):
        make(textures=SmallCGN(width=4))
    with pytest.raises(ArgumentTypeError, match=r"gate must be MaskGate\(…\) or None, got 0.5"):
        make(gate=0.5)
    with pytest.raises(ArgumentError, match=r"in training mode: call masker.eval\(\)"):
        make(UNetMasker(4))
    for real in (None, batch(0)):
        with pytest.raises(ArgumentError, match="takes shapes from the real batch, and none"):
            make().sample(2, seeded(), real)


# In the stream


class Blocks(Dataset[Any]):
    """`num` images of blocks; with `flip`, at random upside down."""

    def __init__(self, num: int = 18, *, flip: bool = False, mask: bool = False) -> None:
        self.num, self.flip, self.mask = num, flip, mask

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = blocks(1, index)[0]
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(1)
        item = image, index % 10
        return (*item, find_bright(image[None])[0]) if self.mask else item


def stream(source: Any = None, real: Any = None, **options: Any) -> CounterfactualDataset:
    settings = {"batch_size": 6, "output": "dict", **options}
    return CounterfactualDataset(real or Blocks(), source or make(), **settings)


@pytest.mark.parametrize("mix", ["append", "replace", "separate"])
def test_each_counterfactual_knows_the_row_of_its_image(mix: str) -> None:
    for made in stream(mix=mix, ratio=1.0):
        if mix == "separate":
            first, second = made
            images, rows, shapes = second["image"], second["real_index"], second["shape"]
            real, labels = first["image"], first["label"]
        else:
            is_made = made["is_counterfactual"]
            images, rows = made["image"][is_made], made["real_index"][is_made]
            shapes = made["shape"][is_made]
            real, labels = made["image"], made["label"]
            own = torch.arange(int((~is_made).sum()))
            assert torch.equal(made["real_index"][~is_made], own)
        known = rows >= 0
        assert known.all() == (mix != "replace")
        assert known.any()
        assert torch.equal(shapes[known], labels[rows[known]])
        inside = find_bright(real[rows[known]]) > 0
        # Of one grey inside the block of the real image, and of another outside it.
        for image, mask in zip(images[known], inside, strict=True):
            assert len(image[:, mask[0]].unique()) == 1
            assert len(image[:, ~mask[0]].unique()) == 1


def test_the_label_is_the_users_even_where_the_class_map_has_none() -> None:
    class_map = {0: 3, 1: [4, 5], 12: 9}
    textures = Textures()
    labels = []
    for made in stream(make(textures=textures), class_map=class_map, label="shape"):
        is_made = made["is_counterfactual"]
        rows = made["real_index"][is_made]
        assert torch.equal(made["label"][is_made], made["label"][rows])
        labels += made["label"][is_made].tolist()
        assert set(made["texture"][is_made].tolist()) <= {0, 1, 12}
        assert set(made["background"][is_made].tolist()) <= {0, 1, 12}
    assert set(labels) == {*range(10)}


def real_cgn_source(**options: Any) -> RealShapeSource:
    cgn = SmallCGN(width=4).freeze()
    bank = BankSource(cgn, size=20, refresh=3, seed=1)
    return RealShapeSource(find_bright, bank, **{"gate": None, **options})


class Wide(Blocks):
    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, label = super().__getitem__(index)
        return torch.nn.functional.interpolate(image[None], scale_factor=4)[0], label


@pytest.mark.parametrize("options", [{}, {"cache_masks": True}, {"min_contrast": 0.05}])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5])
def test_a_stream_is_resumed_bit_for_bit(options: dict[str, Any], stop: int) -> None:
    torch.manual_seed(0)

    def run() -> CounterfactualDataset:
        return stream(real_cgn_source(**options), Wide(), num_workers=0)

    torch.manual_seed(0)
    whole = collect(run(), 3)
    torch.manual_seed(0)
    first = run()
    taken = 0
    while taken < stop:
        for _ in first:
            taken += 1
            if taken == stop:
                state = first.state_dict()
                break
    state = first.state_dict()
    torch.manual_seed(0)
    second = run()
    second.load_state_dict(state)
    rest = [made for _ in range(3) for made in second][: len(whole) - stop]
    assert same(rest, whole[stop:])


def test_a_state_of_another_masker_is_refused() -> None:
    torch.manual_seed(0)
    textures = Textures()
    maskers = [UNetMasker(4).freeze(), UNetMasker(4).freeze()]
    first, second = (stream(RealShapeSource(masker, textures)) for masker in maskers)
    with pytest.raises(CheckpointError, match="source: 'real_shapes"):
        second.load_state_dict(first.state_dict())


def test_the_u2net_of_an_imagenet_cgn_is_a_masker() -> None:
    cgn, other = (make_reduced_cgn().freeze() for _ in range(2))
    with torch.no_grad():
        other.u2net.outconv.bias += 1e-3
    size = cgn.image_size
    images = torch.rand(8, 3, size, size, generator=seeded()) * 2 - 1
    data = TensorDataset(images, torch.arange(8))

    def run(masker: Any) -> CounterfactualDataset:
        source = RealShapeSource(masker, BankSource(cgn, size=12), gate=None, chunk=2)
        return stream(source, data, batch_size=4, class_map={y: y for y in range(6)})

    expected = cgn.u2net(images)
    assert expected.std() > 0.001
    for made in run(cgn.u2net):
        is_made = made["is_counterfactual"]
        assert set(made["label"][is_made].tolist()) == set(made["label"][~is_made].tolist())
        assert made["image"].shape == (8, 3, size, size)
    source = RealShapeSource(cgn.u2net, BankSource(cgn, size=12), chunk=2)
    y = torch.arange(8)
    masks = source.masks_of(images, RealBatch(images, y, y))
    torch.testing.assert_close(masks, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="another configuration"):
        run(other.u2net).load_state_dict(run(cgn.u2net).state_dict())


def test_a_state_of_another_network_without_weights_is_refused() -> None:
    class Other(nn.Identity):
        pass

    first, second = (stream(make(network.eval())) for network in (nn.Identity(), Other()))
    with pytest.raises(CheckpointError, match="another configuration"):
        second.load_state_dict(first.state_dict())


def test_what_a_step_draws_is_a_function_of_seed_epoch_rank_and_step() -> None:
    plain = collect(stream(), 2)
    torch.manual_seed(7)
    assert same(plain, collect(stream(), 2))
    assert same(plain, collect(stream(num_workers=2), 2))
    assert not same(plain, collect(stream(seed=1), 2))
    ranks = [stream(rank=rank, world_size=2, batch_size=3) for rank in (0, 1)]
    first, second = (collect(each) for each in ranks)
    assert len(first) == len(second)
    assert not same(first, second)


def test_ratio_0_asks_nothing_of_the_source() -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    for made in stream(make(never), ratio=0):
        assert not made["is_counterfactual"].any()
        assert made["real_index"].tolist() == [*range(6)]


def test_textures_are_sought_at_the_step_once_more_for_each_drawing() -> None:
    textures = Textures()
    collect(stream(make(textures=textures, min_contrast=0.1)), 2)
    steps = [step for step, _ in textures.seeks]
    assert sorted(set(steps)) == [*range(6)]
    assert len(steps) > 6
    assert steps == sorted(steps)


def test_masks_of_the_users_dataset_go_through_the_stream() -> None:
    made = collect(stream(make(GivenMasks(2)), Blocks(mask=True), output="same"))
    plain = collect(stream(make(), Blocks(), output="same"))
    for (images, labels, masks), (others, other_labels) in zip(made, plain, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert masks.shape == (12, 1, SIZE, SIZE)
        assert masks[6:].isnan().all()  # a counterfactual has no such value


# The cache


def counting(calls: list[int]) -> Any:
    def find(images: Tensor) -> Tensor:
        calls.append(len(images))
        return find_bright(images)

    return find


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cached_masks_are_found_once_and_are_the_same(num_workers: int) -> None:
    plain = collect(stream(), 3)
    calls: list[int] = []
    cached = stream(make(counting(calls), cache_masks=True, chunk=4), num_workers=num_workers)
    assert same(plain, collect(cached, 3))
    assert sum(calls) == 3 * 8  # three steps of six in chunks of four, padded; nothing afterwards


def test_a_full_cache_goes_on_finding() -> None:
    calls: list[int] = []
    source = make(counting(calls), cache_masks=True, cache_bytes=7 * SIZE * SIZE, chunk=1)
    assert same(collect(stream(), 3), collect(stream(source), 3))
    assert sum(calls) == 18 + 11 + 11


def test_random_transforms_do_not_go_with_cached_masks() -> None:
    torch.manual_seed(0)
    source = make(cache_masks=True)
    with pytest.raises(DataError, match=r"looks different .* without random transforms"):
        collect(stream(source, Blocks(flip=True)), 3)
    torch.manual_seed(0)
    collect(stream(make(), Blocks(flip=True)), 3)


def test_cached_masks_need_a_dataset_with_an_index() -> None:
    loader = DataLoader(Blocks(), batch_size=6)
    stream_ = CounterfactualDataset(loader, make(cache_masks=True))
    with pytest.raises(ArgumentError, match="pass CounterfactualDataset the map-style dataset"):
        collect(stream_)
    collect(CounterfactualDataset(loader, make()))


def test_a_collate_that_drops_items_does_not_go_with_cached_masks() -> None:
    def drop(items: list[Any]) -> Any:
        return torch.utils.data.default_collate(items[:-1])

    options = {"collate_fn": drop}
    with pytest.raises(DataError, match="a batch of 6 items has 5 images"):
        collect(stream(make(cache_masks=True), **options))
    collect(stream(make(), **options))


def test_fresh_textures_serve_too() -> None:
    source = RealShapeSource(
        find_bright, FreshSource(SmallCGN(width=4).freeze(), Interventions(texture=3)), gate=None
    )
    made = source.sample(4, seeded(), batch(4))
    assert made.images.shape == (4, 3, 32, 32)
    assert set(made.texture.tolist()) == {3}
