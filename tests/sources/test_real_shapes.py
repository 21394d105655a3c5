"""Shapes of the user's own images, with drawn textures and backgrounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import Blocks, ReadableCGN, blocks, find_bright, seeded
from stream_helpers import collect, same
from torch import Tensor
from torch.utils.data import DataLoader

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    Counterfactuals,
    FreshSource,
    Interventions,
    Placement,
    RealBatch,
    RealShapeSource,
    Step,
    match_real,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN, U2Net
from cgn_augment.masks.trust import VERDICTS
from cgn_augment.sources.composing import compose_floats
from cgn_augment.sources.drawn import DrawnSource
from cgn_augment.types import Affine

SIZE = 8


class Greys(ReadableCGN):
    """A CGN of textures that are the grey of their class and of shapes that are the left half."""

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        super().shape(noise, y)  # which counts it
        return (torch.arange(SIZE) < 4).float().expand(len(y), 1, SIZE, SIZE)

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return grey_of(y)

    background = texture


def batch(num: int = 6, **parts: Any) -> RealBatch:
    labels = torch.arange(num) % 10
    return RealBatch(**{"images": blocks(num), "labels": labels, "classes": labels, **parts})


def make(masker: Any = find_bright, textures: Any = None, **options: Any) -> RealShapeSource:
    return RealShapeSource(masker, textures or FreshSource(Greys()), **options)


def grey_of(y: Tensor) -> Tensor:
    return (y / 5 - 1)[:, None, None, None].expand(-1, 3, SIZE, SIZE)


def expected(real: RealBatch, made: Counterfactuals) -> Tensor:
    assert made.real is not None
    masks = find_bright(real.images)[made.real]
    return torch.where(masks > 0, grey_of(made.texture), grey_of(made.background))


# What is drawn


def test_the_shape_is_the_images_and_the_rest_is_drawn() -> None:
    real = batch()
    made = make().sample(6, seeded(), real=real)
    assert made.images.shape == (6, 3, SIZE, SIZE)
    assert sorted(made.real.tolist()) == [0, 1, 2, 3, 4, 5]  # each once
    assert torch.equal(made.shape, real.classes[made.real])
    torch.testing.assert_close(made.images, expected(real, made))
    assert len(set(made.texture.tolist())) > 1


def test_more_than_a_batch_takes_each_image_again_after_all() -> None:
    made = make().sample(15, seeded(), real=batch())
    assert sorted(made.real[:6].tolist()) == sorted(made.real[6:12].tolist()) == [*range(6)]
    assert len(set(made.real[12:].tolist())) == 3
    assert made.real[:6].tolist() != made.real[6:12].tolist()


def test_several_counterfactuals_have_the_shape_of_one_image() -> None:
    made = make(num_per_shape=4).sample(10, seeded(), real=batch())
    rows = made.real.tolist()
    assert rows == [rows[0]] * 4 + [rows[4]] * 4 + [rows[8]] * 2
    assert len({rows[0], rows[4], rows[8]}) == 3
    torch.testing.assert_close(made.images, expected(batch(), made))


@pytest.mark.parametrize("keep", ["texture", "background"])
def test_one_of_the_two_can_be_kept(keep: str) -> None:
    real = batch(images=blocks(6) * 0.5)
    made = make(keep=keep).sample(6, seeded(), real=real)
    inside, own = find_bright(real.images)[made.real] > 0, real.images[made.real]
    texture, background = grey_of(made.texture), grey_of(made.background)
    if keep == "texture":
        texture, kept, other = own, made.texture, made.background
    else:
        background, kept, other = own, made.background, made.texture
    assert torch.equal(kept, real.classes[made.real])
    assert not torch.equal(other, made.shape)
    torch.testing.assert_close(made.images, torch.where(inside, texture, background))


def test_soft_masks_blend() -> None:
    source = make(lambda images: find_bright(images) * 0.6 + 0.2, gate=None)
    made = source.sample(6, seeded(), real=batch())
    masks = find_bright(blocks(6))[made.real] * 0.6 + 0.2
    whole = compose(masks, grey_of(made.texture), grey_of(made.background))
    torch.testing.assert_close(made.images, whole, atol=2 / 255, rtol=0)


# Range, size, masks


def test_images_are_brought_into_the_generators_range_and_size() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wide = torch.nn.functional.interpolate(blocks(6), scale_factor=4)
    normal = match_real(mean, std)(wide)
    seen = []

    def spy(images: Tensor) -> Tensor:
        seen.append(images)
        return find_bright(images)

    made = make(spy, mean=mean, std=std, keep="texture").sample(
        6, seeded(), real=batch(images=normal)
    )
    torch.testing.assert_close(seen[0], blocks(6), atol=0.5, rtol=0)  # softened by the resizing
    assert seen[0].shape == (6, 3, SIZE, SIZE)
    assert made.images.shape == (6, 3, SIZE, SIZE)


def test_images_in_another_range_are_an_error_at_the_first_step() -> None:
    for images in ((blocks(6) + 1) * 2, blocks(6) * float("nan")):
        with pytest.raises(DataError, match=r"real images span .* mean and std of your Normalize"):
            make().sample(6, seeded(), real=batch(images=images))


def test_masks_of_a_batch_are_brought_to_the_generators_size_and_checked() -> None:
    wide = torch.nn.functional.interpolate(blocks(6), scale_factor=4)
    masks = torch.nn.functional.interpolate(find_bright(blocks(6)), scale_factor=4)
    real = batch(images=wide, batch=(wide, 0, masks))
    found = make(None, masks=2).masks_of(blocks(6), real)
    assert ((found > 0.5) == (find_bright(blocks(6)) > 0)).all()
    with pytest.raises(DataError, match=r"masks must be in \[0, 1\], got \[0, 255\]"):
        make(None, masks=2).masks_of(blocks(6), real._replace(batch=(wide, 0, masks * 255)))


@pytest.mark.parametrize("keep", [None, "texture"])
def test_images_that_nothing_is_taken_from_are_only_checked_once(
    keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = blocks(6)
    real = batch(6, batch=(images, 0, (images > 0).float()[:, :1]))
    source, calls = make(None, masks=2, keep=keep), 0

    def bring(given: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return given

    monkeypatch.setattr(source, "bring", bring)
    made = [source.sample(4, seeded(), Step(number), real).images for number in range(3)]
    assert calls == (1 if keep is None else 3)
    assert torch.equal(made[0], made[2])


def test_masks_may_be_of_any_size_and_images_need_not_be_square() -> None:
    images = torch.nn.functional.interpolate(blocks(6), size=(48, 32))
    exact = find_bright(blocks(6))
    for size in ((48, 32), (96, 64), (225, 150)):
        masks = torch.nn.functional.interpolate(exact, size=size)
        for given in (masks, masks[:, 0].bool(), (masks[:, 0] * 255).byte()):
            real = batch(images=images, batch={"mask": given})
            source = make(None, masks="mask")
            found = source.masks_of(source.bring(images), real)
            assert ((found > 0.5) == (exact > 0)).all()
            made = source.sample(6, seeded(), real=real)
            torch.testing.assert_close(made.images, expected(batch(), made), atol=0.8, rtol=0)


def test_images_in_0_to_1_are_an_error_where_many_say_so() -> None:
    with pytest.raises(DataError, match=r"all of 8 real images span \[0, 1\], as images in"):
        make().sample(8, seeded(), real=batch(8, images=(blocks(8) + 1) / 2))
    bright = torch.cat([(blocks(7) + 1) / 2, blocks(1)])
    make().sample(8, seeded(), real=batch(8, images=bright))


# Placed, and other classes


def test_real_objects_are_placed_with_the_texture_that_they_keep() -> None:
    placement, real = Placement(shift=0.4), batch(images=blocks(6) * 0.5)
    source = make(placement=placement, keep="texture", num_per_shape=2)
    made = source.sample(6, seeded(), real=real)
    still = make(keep="texture", num_per_shape=2).sample(6, seeded(), real=real)
    assert torch.equal(made.real, still.real)
    shown = (made.images - grey_of(made.background)).abs().sum(1) > 1e-3
    was = (still.images - grey_of(still.background)).abs().sum(1) > 1e-3
    assert not torch.equal(shown, was)
    assert torch.equal(shown[::2], shown[1::2])
    assert source.with_options(keep=None).placement == placement
    assert source.fingerprint != source.with_options(placement=None).fingerprint


def test_another_background_is_other_than_the_real_images_class() -> None:
    textures = FreshSource(Greys(4), Interventions(background="other"))
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    real = batch(classes=classes)
    for seed in range(20):
        made = make(textures=textures).sample(6, seeded(seed), real=real)
        assert torch.equal(made.shape, classes[made.real])
        assert (made.background != made.shape).all()
    of_parts = BankSource(make_parts(8), 12, 2)
    kept = make(textures=of_parts, keep="texture").sample(6, seeded(), real=real)
    assert torch.equal(kept.texture, kept.shape)


# The gate


def with_blanks(num: int, blanks: int) -> RealBatch:
    images = blocks(num)
    images[:blanks] = -1
    return batch(num, images=images)


def test_images_without_a_usable_mask_are_replaced_by_others() -> None:
    source = make()
    made = source.sample(8, seeded(), real=with_blanks(8, 3))
    assert set(made.real.tolist()) == {3, 4, 5, 6, 7}
    assert source.counts == dict.fromkeys(VERDICTS, 0) | {"usable": 5, "empty": 3}
    source.sample(8, seeded(), real=with_blanks(8, 1))
    assert source.counts == dict.fromkeys(VERDICTS, 0) | {"usable": 12, "empty": 4}


def test_or_by_shapes_that_the_generator_draws_where_they_are_shown() -> None:
    cgn, real = Greys(), with_blanks(8, 3)
    source = make(textures=FreshSource(cgn), replace="generator")
    make(textures=FreshSource(cgn)).sample(8, seeded(), real=real)
    source.sample(8, seeded(), real=batch(8))
    assert cgn.made == {}
    made = source.sample(8, seeded(), real=real)
    assert cgn.made == {"shape": 8}
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
        make().sample(4, seeded(), real=real)
    made = make(replace="generator").sample(4, seeded(), real=real)
    assert made.real.tolist() == [-1] * 4
    assert len(make(gate=None).sample(4, seeded(), real=real)) == 4


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "shape"}, "keep must be one of texture, background, got 'shape'"),
        ({"replace": "drop"}, "replace must be one of resample, generator, got 'drop'"),
        ({"num_per_shape": 0}, "num_per_shape must be 1 or more, got 0"),
        ({"chunk": 0}, "chunk must be 1 or more, got 0"),
        ({"cache_bytes": 0}, "cache_bytes must be 1 or more, got 0"),
        ({"masks": "mask"}, "takes either a masker, .* got both"),
        ({"masker": None}, "takes either a masker, .* got neither"),
        ({"std": 0.0}, "std must be above 0, got 0.0"),
        ({"mean": (1.0, 2.0)}, "mean must be one number or three"),
        ({"masker": "masker"}, "masker must take images to masks"),
        ({"textures": SmallCGN(width=4)}, "must be a BankSource or a FreshSource, .* got SmallCGN"),
        ({"masker": None, "masks": 0.5}, "masks must be the key .* got 0.5"),
        ({"gate": 0.5}, "gate must be MaskGate"),
        ({"placement": 0.5}, "placement must be Placement"),
        ({"placement": Placement(), "keep": "background"}, "is seen where it was, wherever"),
        (
            {"textures": FreshSource(Greys(), placement=Placement())},
            r"placement of their own, .* pass it to RealShapeSource\(placement=",
        ),
        (
            {"textures": FreshSource(Greys(), Interventions(texture="shape"))},
            r"pass RealShapeSource\(keep='texture'\), or",
        ),
    ],
)
def test_what_cannot_be_used_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        make(**options)


def test_a_real_batch_is_needed() -> None:
    for real in (None, batch(0)):
        with pytest.raises(ArgumentError, match="takes shapes from the real batch, and none"):
            make().sample(2, seeded(), real=real)


# In the stream


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
    labels = []
    for made in stream(make(), class_map=class_map, label="shape"):
        is_made = made["is_counterfactual"]
        rows = made["real_index"][is_made]
        assert torch.equal(made["label"][is_made], made["label"][rows])
        labels += made["label"][is_made].tolist()
        assert set(made["texture"][is_made].tolist()) <= {0, 1, 12}
        assert set(made["background"][is_made].tolist()) <= {0, 1, 12}
    assert set(labels) == {*range(10)}


def test_the_u2net_of_an_imagenet_cgn_is_a_masker(tiny_cgn: SmallCGN) -> None:
    u2net, y = U2Net(4).eval().requires_grad_(False), torch.arange(4)
    images = torch.rand(4, 3, 32, 32, generator=seeded()) * 2 - 1
    expected, real = u2net(images), RealBatch(images, y, y)
    source = RealShapeSource(u2net, FreshSource(tiny_cgn), gate=None, chunk=2)
    torch.testing.assert_close(source.masks_of(images, real), expected, atol=0.002, rtol=0)
    assert source.sample(4, seeded(), real=real).images.shape == (4, 3, 32, 32)
    before = source.fingerprint
    with torch.no_grad():
        u2net.outconv.bias += 1e-3
    assert source.with_options().fingerprint != before


def test_ratio_0_asks_nothing_of_the_source() -> None:
    calls: list[int] = []
    for made in stream(make(counting(calls)), ratio=0):
        assert not made["is_counterfactual"].any()
        assert made["real_index"].tolist() == [*range(6)]
    assert calls == []


def test_textures_are_drawn_for_the_step() -> None:
    steps: list[Step] = []

    class Spy(FreshSource):
        def _draw(self, classes: Tensor, generator: Any, step: Step, masks: bool) -> list[Tensor]:
            steps.append(step)
            return super()._draw(classes, generator, step, masks)

    collect(stream(make(textures=Spy(Greys())), rank=1, world_size=3), 2)
    assert steps == [Step(number, 1, 3) for number in range(len(steps))]
    assert len(steps) > 1


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8", None])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_bank_composes_by_the_images_masks_what_its_factors_would_give(
    storage: Any, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_factors(self: Any, own: Any, *args: Any, shapes: Any, out: Any, affine: Any) -> Any:
        (foreground, background), classes = self.sample_factors(
            len(own[1]), *args, masks=False, shapes=shapes
        )
        mask = own[0][own[1]]
        return compose_floats(mask, foreground, background, out, affine), mask, classes

    cgn = SmallCGN().freeze()
    real = batch(9, images=torch.rand(9, 3, 32, 32) * 2 - 1)

    def draw() -> Counterfactuals:
        textures = FreshSource(cgn) if storage is None else BankSource(cgn, 30, 4, storage=storage)
        source = RealShapeSource(lambda images: (images[:, :1] + 1) / 2, textures, gate=None)
        room = torch.empty(14, 3, 32, 32).to(memory_format=form)
        affine = Affine((0.5, 2.0, 1.0), (0.0, 1.0, -1.0))
        return source.sample(14, seeded(), Step(3), real, out=room, affine=affine)

    made = draw()
    monkeypatch.setattr(DrawnSource, "sample_with", by_factors)
    expected = draw()
    assert torch.allclose(made.images, expected.images, atol=1e-5)
    assert made.mask is not None
    assert expected.mask is not None
    assert torch.equal(made.mask, expected.mask)
    for name in ("shape", "texture", "background", "real"):
        assert torch.equal(getattr(made, name), getattr(expected, name))


def test_masks_of_the_users_dataset_go_through_the_stream() -> None:
    made = collect(stream(make(None, masks=2), Blocks(mask=True), output="same"))
    plain = collect(stream(make(), Blocks(), output="same"))
    for (images, labels, masks), (others, other_labels) in zip(made, plain, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert masks.shape == (12, 1, SIZE, SIZE)
        # A counterfactual has the mask of the image that its shape is of.
        assert all(any(torch.equal(mask, own) for own in masks[:6]) for mask in masks[6:])


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
