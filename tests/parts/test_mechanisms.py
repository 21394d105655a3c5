"""Mechanisms that give what a masker has found in real images."""

from __future__ import annotations

import pytest
import torch
from bar_helpers import watch_bars
from source_helpers import seeded
from torch import Tensor
from torch.utils.data import TensorDataset

from cgn_augment import (
    BankSource,
    ClassMap,
    CounterfactualDataset,
    FreshSource,
    Interventions,
    MaskGate,
    Mechanisms,
    Parts,
    RealShapeSource,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.masks import UNetMasker
from cgn_augment.masks.trust import VERDICTS

NUM_CLASSES = 3


def colors_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (N, 3, 1, 1) of the object and of the ground of a class."""
    bright, dark = 0.9 - 0.2 * y, -0.9 + 0.2 * y
    return bright.view(-1, 1, 1, 1).expand(-1, 3, 1, 1), dark.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def make_images(num: int = 12, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Bright squares on dark grounds, at a place of their own; images, labels and masks."""
    y = torch.arange(num) % NUM_CLASSES
    masks = torch.zeros(num, 1, size, size)
    for i, mask in enumerate(masks):
        mask[:, 4 + i % 7 : 16 + i % 7, 6 : 18 + y[i]] = 1
    bright, dark = colors_of(y)
    return masks * bright + (1 - masks) * dark, y, masks


def find_bright(images: Tensor) -> Tensor:
    return (images.mean(dim=1, keepdim=True) > 0.05).float()


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


def make_parts(**options: object) -> Parts:
    images, y, _ = make_images()
    return Parts.from_images(images, y, find_bright, **options)  # type: ignore[arg-type]


def test_the_parts_of_each_class_are_those_of_its_images(parts: Parts) -> None:
    _, labels, masks = make_images()
    assert isinstance(parts, Mechanisms)
    y = torch.arange(30) % NUM_CLASSES
    noise = parts.draw_noise(30, seeded())
    bright, dark = colors_of(y)
    torch.testing.assert_close(parts.texture(noise, y), bright.expand(-1, -1, 32, 32))
    torch.testing.assert_close(parts.background(noise, y), dark.expand(-1, -1, 32, 32))
    drawn = parts.shape(noise, y)
    for mask, label in zip(drawn, y, strict=True):
        assert any(torch.equal(mask, own) for own in masks[labels == label])
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) > NUM_CLASSES
    assert torch.equal(parts.shuffle(drawn, seeded()), drawn)


def test_bars_count_what_is_found_and_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = "cgn_augment.masks.finding", "cgn_augment.parts.textures"
    bars = watch_bars(monkeypatch, *modules)
    images, y, _ = make_images()
    Parts.from_images(images, y, find_bright, chunk=7)
    counted = [(bar.desc, bar.n, bar.total) for bar in bars]
    assert counted == [
        ("finding masks", len(images), len(images)),
        ("foregrounds", NUM_CLASSES, NUM_CLASSES),
        ("backgrounds", NUM_CLASSES, NUM_CLASSES),
    ]


def test_what_is_drawn_is_a_function_of_noise_and_class(parts: Parts) -> None:
    again, y = make_parts(), torch.tensor([2, 0])
    noise = parts.draw_noise(2, seeded(3))
    assert torch.equal(parts.shape(noise, y), again.shape(noise, y))
    assert parts.fingerprint == again.fingerprint
    images, labels, masks = make_images()
    for given in (masks, masks.bool()):
        assert Parts.from_images(images, labels, given).fingerprint == parts.fingerprint
    assert parts.fingerprint != make_parts(num_per_class=1).fingerprint


def test_images_whose_masks_cannot_be_used_are_left_out_and_counted() -> None:
    images, y, _ = make_images()
    images[0] = -0.8  # no object
    images[4] = 0.8  # nothing else
    parts = Parts.from_images(images, y, find_bright)
    assert parts.counts == dict.fromkeys(VERDICTS, 0) | {"usable": 10, "empty": 1, "full": 1}
    areas = parts.shape(parts.draw_noise(60, seeded()), torch.arange(60) % 3).mean(dim=(1, 2, 3))
    assert 0.1 < areas.min() <= areas.max() < 0.3
    loose = Parts.from_images(images, y, find_bright, gate=None)
    assert loose.counts["usable"] == 12
    with pytest.raises(ArgumentError, match=r"no image of the classes \[0, 1, 2\] has a usable"):
        Parts.from_images(images, y, find_bright, gate=MaskGate(min_area=0.5))


def test_sources_take_them_for_a_cgn(parts: Parts) -> None:
    images, y, _ = make_images()
    made = FreshSource(parts).sample(20, seeded())
    bright, dark = colors_of(made.texture)[0], colors_of(made.background)[1]
    object_at = (made.images - dark).abs().sum(dim=1, keepdim=True) > 1e-4
    torch.testing.assert_close(made.images, torch.where(object_at, bright, dark))
    kept = RealShapeSource(find_bright, BankSource(parts, size=30, refresh=3))
    stream = CounterfactualDataset(
        TensorDataset(images, y), kept, batch_size=4, class_map={0: 2, 1: 0, 2: 1}
    )
    for shown, labels in stream:
        assert shown.shape == (8, 3, 32, 32)
        assert sorted(labels[4:].tolist()) == sorted(labels[:4].tolist())
    restricted = BankSource(parts, size=30).restrict(ClassMap({0: 1}))
    assert restricted.sample(9, seeded()).shape.eq(1).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": torch.zeros(12, 3, 32, 30)}, ArgumentError, "H = W"),
        ({"images": torch.zeros(12, 3, 32, 32, dtype=torch.uint8)}, ArgumentTypeError, "uint8"),
        ({"images": torch.full((12, 3, 32, 32), 2.0)}, ArgumentError, "scale them first"),
        ({"labels": torch.zeros(12)}, ArgumentTypeError, "int64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, ArgumentError, "each of the 12 images"),
        ({"labels": torch.arange(12) - 1}, ArgumentError, "0 or more"),
        (
            {"images": torch.full((12, 3, 32, 32), 0.2)},
            ArgumentError,
            r"in \[0, 1\] do: .* \* 2 - 1",
        ),
        ({"masks": UNetMasker(4)}, ArgumentError, r"in training mode: call masker.eval\(\)"),
        ({"masks": torch.zeros(5, 1, 32, 32)}, DataError, r"got \(5, 1, 32, 32\)"),
        ({"num_per_class": 0}, ArgumentError, "num_per_class must be 1 or more"),
        ({"chunk": 0}, ArgumentError, "chunk must be"),
    ],
)
def test_what_cannot_be_used_is_refused(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    images, y, _ = make_images()
    arguments = {"images": images, "labels": y, "masks": find_bright, **changes}
    with pytest.raises(error, match=message):
        Parts.from_images(**arguments)  # type: ignore[arg-type]


def test_labels_may_be_any_numbers() -> None:
    images, y, _ = make_images()
    parts = Parts.from_images(images, 3 * y + 2, find_bright)
    assert parts.labels == (2, 5, 8)
    assert parts.num_classes == 9
    for source in (FreshSource(parts), BankSource(parts, 12, 2, storage="uint8")):
        made = source.sample(60, seeded())
        assert set(made.shape.tolist()) == set(made.background.tolist()) == {2, 5, 8}
        bright, _ = colors_of((made.texture - 2) // 3)
        inside = (made.images - bright).abs().sum(dim=1, keepdim=True) < 0.05
        assert inside.flatten(1).any(dim=1).all()
    with pytest.raises(ArgumentError, match=r"shape lists class 4 but .* classes \[2, 5, 8\]"):
        FreshSource(parts, Interventions(shape=[2, 4]))
    with pytest.raises(ArgumentError, match=r"class_map names the classes \[0\] .* \[2, 5, 8\]"):
        FreshSource(parts).restrict(ClassMap([0, 2]))
    real = CounterfactualDataset(
        TensorDataset(images, 3 * y + 2),
        BankSource(parts, 9, 0, Interventions("permute")),
        batch_size=6,
    )
    for _, labels in real:
        assert sorted(labels[6:].tolist()) == sorted(labels[:6].tolist())


def test_an_object_keeps_its_own_texture_where_that_is_asked_for() -> None:
    images, y, masks = make_images()
    images = images + 0.05 * torch.randn(images.shape, generator=seeded()) * masks  # one each
    images = images.clamp(-1, 1)
    parts = Parts.from_images(images, y, masks)
    rule = Interventions(texture="shape", background="other")
    for source in (FreshSource(parts, rule), BankSource(parts, 12, 2, rule)):
        (mask, foreground, _), classes = source.sample_factors(20, seeded())
        assert torch.equal(classes[0], classes[1])
        assert (classes[0] != classes[2]).all()
        for own, shown in zip(mask, foreground, strict=True):
            inside = own.bool().expand(3, -1, -1)
            assert any(torch.equal(shown[inside], image[inside]) for image in images)
