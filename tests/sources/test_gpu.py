"""On a GPU every source draws what it draws on the CPU, and so does what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from source_helpers import seeded
from torch import Tensor

from cgn_augment import (
    BankSource,
    Counterfactuals,
    FreshSource,
    Interventions,
    Parts,
    Placement,
    RealBatch,
    RealShapeSource,
    ShardSource,
    Source,
    Step,
    load_cgn,
    load_parts,
    match_real,
)
from cgn_augment.generators import bundled_generators
from cgn_augment.masks import load_masker
from cgn_augment.shards import ShardConfig, render_shards

pytestmark = pytest.mark.gpu

NAME = "colored-mnist"
CLOSE = {"rtol": 0.0, "atol": 2e-3}
MOVED = Placement((0.7, 1.4), 0.2, 20, 0.5, edge=1.5)

Make = Callable[[str], Source]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Convolutions in float32, as on the CPU; by default a GPU rounds their inputs to ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def labels_of(drawn: Counterfactuals) -> Tensor:
    return torch.stack([drawn.shape, drawn.texture, drawn.background]).cpu()


def images_of(num: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Digits with their labels and their masks, drawn on the CPU."""
    source = FreshSource(load_cgn(NAME))
    made = source.sample(num, seeded(9))
    assert made.mask is not None
    return made.images, made.shape, made.mask


def taken_apart(device: str) -> Parts:
    images, labels, masks = images_of()
    return Parts.from_images(images.to(device), labels, (masks > 0.5).to(device), 4, gate=None)


SOURCES: dict[str, Make] = {
    "fresh": lambda device: FreshSource(load_cgn(NAME, device=device)),
    "fresh, in chunks": lambda device: FreshSource(load_cgn(NAME, device=device), chunk=7),
    "permuted": lambda device: FreshSource(
        load_cgn(NAME, device=device), Interventions("permute", num_per_shape=2)
    ),
    "tied": lambda device: FreshSource(
        load_cgn(NAME, device=device), Interventions(texture="shape", background="other")
    ),
    "bank": lambda device: BankSource(load_cgn(NAME, device=device), 40, 4),
    "bank of bytes": lambda device: BankSource(
        load_cgn(NAME, device=device), 40, 4, storage="uint8"
    ),
    "bank of halves": lambda device: BankSource(
        load_cgn(NAME, device=device), 40, 4, storage="float16"
    ),
    "bank, placed": lambda device: BankSource(load_cgn(NAME, device=device), 40, placement=MOVED),
    "bank of bytes, placed": lambda device: BankSource(
        load_cgn(NAME, device=device), 40, placement=MOVED, storage="uint8"
    ),
    "parts in memory": lambda device: FreshSource(taken_apart(device)),
    "bank of parts": lambda device: BankSource(taken_apart(device), 40, 4, storage="uint8"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_draws_what_it_draws_on_the_cpu(name: str) -> None:
    _, labels, _ = images_of(16)
    drawn = []
    for device in ("cpu", "cuda"):
        source = SOURCES[name](device)
        real = RealBatch(torch.zeros(16, 3, 32, 32, device=device), labels, labels)
        for number in (0, 1, 3):  # a bank that is refreshed moves on
            made = source.sample(16, seeded(number), Step(number), real)
            assert made.images.device.type == device
            drawn.append(made)
    for here, there in zip(drawn[:3], drawn[3:], strict=True):
        assert torch.equal(labels_of(here), labels_of(there))
        torch.testing.assert_close(there.images.cpu(), here.images, **tolerance(name))


def tolerance(name: str) -> dict[str, float]:
    """A byte may be rounded to its neighbour, and an object's edge falls between pixels."""
    wide = 0.05 if "placed" in name else 0.012 if "bytes" in name or "parts" in name else 0.0
    return {**CLOSE, "atol": max(wide, CLOSE["atol"])}


@pytest.mark.parametrize("how", ["given", "found", "kept texture"])
def test_real_shapes_are_those_of_the_cpu(how: str) -> None:
    images, labels, masks = images_of(16)
    drawn = []
    for device in ("cpu", "cuda"):
        textures = BankSource(load_cgn(NAME, device=device), 20)
        options: dict[str, Any] = {"keep": "texture"} if how == "kept texture" else {}
        if how == "given":
            options["masks"] = 2
        else:
            options["masker"] = load_masker(NAME, device=device)
        source = RealShapeSource(textures=textures, gate=None, **options)
        batch = tuple(each.to(device) for each in (images, labels, masks))
        real = RealBatch(batch[0], batch[1], batch[1], batch=batch)
        drawn.append(source.sample(16, seeded(), Step(0), real))
    here, there = drawn
    assert there.images.device.type == "cuda"
    assert torch.equal(labels_of(here), labels_of(there))
    assert torch.equal(here.real, there.real.cpu())
    apart = (there.images.cpu() - here.images).abs() > 0.05
    assert apart.float().mean() < 0.002  # where a mask is at the border of what counts as object


def test_shards_that_a_gpu_rendered_are_read_as_those_of_the_cpu(tmp_path: Path) -> None:
    config = ShardConfig(num=64, shard_size=16, block_size=32, format="npy")
    drawn = []
    for device in ("cpu", "cuda"):
        render_shards(load_cgn(NAME, device=device), tmp_path / device, config)
        drawn.append(ShardSource(str(tmp_path / device)).sample(16, seeded(), Step(0)))
    assert torch.equal(*map(labels_of, drawn))
    torch.testing.assert_close(drawn[1].images, drawn[0].images, rtol=0, atol=0.02)


def test_parts_on_disk_are_drawn_on_a_gpu_as_on_the_cpu(parts_folder: Path) -> None:
    drawn = []
    for device in ("cpu", "cuda"):
        source = BankSource(load_parts(parts_folder, 24, device=device), 8, 2, placement=MOVED)
        drawn.append(source.sample(8, seeded(), Step(3)))
    assert torch.equal(*map(labels_of, drawn))
    torch.testing.assert_close(drawn[1].images.cpu(), drawn[0].images, rtol=0, atol=0.05)


@pytest.mark.parametrize("placement", [MOVED, Placement(edge=3.0), Placement((2.0, 3.0), 0.9)])
def test_objects_are_placed_alike(placement: Placement) -> None:
    images, _, masks = images_of(12)
    moves = placement.draw(12, seeded())
    here = placement.move(masks, images, moves)
    there = placement.move(masks.cuda(), images.cuda(), moves)
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=5e-3)
    shown = here[0] > 0.05  # colours are divided by the mask
    torch.testing.assert_close((there[1].cpu() * shown), here[1] * shown, rtol=0, atol=5e-2)


@pytest.mark.parametrize(
    "transform",
    [
        match_real(0.5, 0.5),
        match_real((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=24),
        match_real(0.5, 0.5, size=(20, 28)),
    ],
)
def test_images_are_matched_alike(transform: Any) -> None:
    images, _, masks = images_of(12)
    here = transform(images)
    there = transform(images.cuda())
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)
    with_masks = transform.with_masks(images.cuda(), masks.cuda())
    torch.testing.assert_close(with_masks[0].cpu(), here, rtol=0, atol=1e-4)
    transform(images)  # and back on the CPU
    torch.testing.assert_close(transform(images), here, rtol=0, atol=1e-6)


def test_every_bundled_generator_loads_onto_a_gpu() -> None:
    for name in bundled_generators():
        here, there = load_cgn(name), load_cgn(name, device="cuda")
        assert there.device.type == "cuda"
        assert here.fingerprint == there.fingerprint
        noise, y = here.draw_noise(4, seeded()), torch.arange(4)
        for mechanism in ("shape", "texture", "background"):
            expected = getattr(here, mechanism)(noise, y)
            found = getattr(there, mechanism)(noise.cuda(), y.cuda())
            torch.testing.assert_close(found.cpu(), expected, **CLOSE)
