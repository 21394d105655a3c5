"""Images that are mapped and written in the form of a batch while they are composed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import Blocks, ReadableCGN, find_bright, seeded
from torch import Tensor

from cgn_augment import (
    BankSource,
    FreshSource,
    Placement,
    RealBatch,
    RealShapeSource,
    Step,
)
from cgn_augment.generators import SmallCGN
from cgn_augment.sources import composing
from cgn_augment.sources.composing import compose_floats, compose_stored, gather, unpack
from cgn_augment.types import Affine

CGN = ReadableCGN()
LAST = SmallCGN().freeze()
MOVED = Placement((0.8, 1.2), 0.2, 10, 0.5, edge=0.5)
OF_EACH_CHANNEL = Affine((2.2, 2.3, 2.1), (-0.03, 0.09, 0.2))

Make = Callable[[], Any]

SOURCES: dict[str, Make] = {
    "fresh": lambda: FreshSource(CGN),
    "fresh, channels last": lambda: FreshSource(LAST),
    "fresh parts": lambda: FreshSource(make_parts(8)),
    "placed": lambda: FreshSource(CGN, placement=MOVED),
    "bank": lambda: BankSource(CGN, 20, 3),
    "bank of halves": lambda: BankSource(CGN, 20, 3, storage="float16"),
    "bank of bytes": lambda: BankSource(CGN, 20, 3, storage="uint8"),
    "bank of bytes, placed": lambda: BankSource(CGN, 20, storage="uint8", placement=MOVED),
    "bank of parts": lambda: BankSource(make_parts(8), 20, 3),
    "real shapes": lambda: RealShapeSource(find_bright, BankSource(CGN, 20)),
    "real shapes, in place": lambda: RealShapeSource(
        find_bright, BankSource(CGN, 20), keep="background"
    ),
}
DTYPES = torch.float32, torch.bfloat16, torch.float16
FORMATS = torch.contiguous_format, torch.channels_last


def draw(source: Any, **options: Any) -> Any:
    images = torch.stack([Blocks(5)[i][0] for i in range(5)])
    classes = torch.arange(5)
    return source.sample(6, seeded(4), Step(2), RealBatch(images, classes, classes), **options)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_images_are_mapped_and_written_in_any_form(make: Make) -> None:
    plain = draw(make())
    scale, shift = (torch.tensor(each).double()[:, None, None] for each in OF_EACH_CHANNEL)
    expected = plain.images.double() * scale + shift
    mapped = draw(make(), affine=OF_EACH_CHANNEL)
    torch.testing.assert_close(mapped.images.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(mapped.mask, plain.mask)
    for dtype in DTYPES:
        for kept in FORMATS:
            room = torch.empty(plain.images.shape, dtype=dtype, memory_format=kept)
            made = draw(make(), out=room, affine=OF_EACH_CHANNEL)
            assert made.images is room
            assert torch.equal(room, mapped.images.to(dtype))
            assert torch.equal(made.mask, plain.mask)
            assert torch.equal(made.shape, plain.shape)
            assert torch.equal(draw(make(), out=room).images, plain.images.to(dtype))


def some_bytes(size: int) -> list[Tensor]:
    return [
        torch.randint(256, (9, channels, size, size), dtype=torch.uint8, generator=seeded())
        for channels in (1, 3, 3)
    ]


@pytest.mark.parametrize("num", [0, 1, 5])
@pytest.mark.parametrize("block", [1, 400, 2**30])
def test_how_many_images_are_made_at_once_changes_nothing(
    num: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = some_bytes(8)
    slots = torch.randint(9, (3, num), generator=seeded(1))
    floats = [each[places].float() / 255 for each, places in zip(kept, slots, strict=True)]

    stored = [each.float() / 255 for each in kept]

    def images() -> list[Tensor]:
        room = torch.empty(num, 3, 8, 8, dtype=torch.float16)
        halves = compose_stored(*(each.half() for each in stored), slots, room.clone())[0]
        return [
            *compose_stored(*stored, slots, None, OF_EACH_CHANNEL),
            halves,
            *compose_stored(*kept, slots, None, OF_EACH_CHANNEL),
            compose_stored(*kept, slots, room)[0],
            compose_floats(*(each.clone() for each in floats), None, OF_EACH_CHANNEL),
        ]

    def unpacked() -> list[Tensor]:
        return [
            unpack(each, slots[0], -1.0, each.device)
            for each in (kept[1], stored[1], stored[1].half())
        ]

    expected, floating = images(), unpacked()
    monkeypatch.setattr(composing, "_BLOCK", block)
    assert all(torch.equal(*pair) for pair in zip(unpacked(), floating, strict=True))
    assert torch.equal(floating[1], stored[1][slots[0]])
    assert torch.equal(floating[2], stored[1][slots[0]].half().float())
    torch.testing.assert_close(floating[0], stored[1][slots[0]] * 2 - 1)
    assert all(torch.equal(*pair) for pair in zip(images(), expected, strict=True))
    assert [len(each) for each in expected] == [num] * 7
    assert torch.equal(expected[0], expected[-1])
    assert torch.equal(expected[1], floats[0])


@pytest.mark.parametrize("storage", [torch.uint8, torch.float16, torch.float32])
def test_factors_are_never_written_to(storage: torch.dtype) -> None:
    kept = [each.to(storage) for each in some_bytes(8)]
    before = [each.clone() for each in kept]
    for num in (1, 4):
        compose_stored(*kept, torch.zeros(3, num).long(), None, OF_EACH_CHANNEL)
        unpack(kept[1], torch.zeros(num).long(), -1.0, kept[1].device).zero_()
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))


def test_rows_for_another_device_go_through_the_hosts_memory() -> None:
    kept = torch.arange(12.0).view(4, 3)
    rows = gather(kept, torch.tensor([2, 0, 2]), torch.device("meta"))
    assert (rows.device.type, tuple(rows.shape), rows.dtype) == ("meta", (3, 3), torch.float32)
    rows = gather(kept, torch.tensor([2, 0]), torch.device("cpu"))
    assert torch.equal(rows, kept[[2, 0]])
    rows.zero_()
    assert kept[2].tolist() == [6.0, 7.0, 8.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept_format", FORMATS)
def test_the_steps_of_a_gpu_fit_together(
    dtype: torch.dtype, kept_format: torch.memory_format
) -> None:
    """On a device that only looks at types and shapes."""
    device = torch.device("meta")
    kept, slots = some_bytes(8), torch.randint(9, (3, 5), generator=seeded(1))
    on_device = [each.to(device) for each in kept]
    for place in (on_device, kept):
        for affine in (None, OF_EACH_CHANNEL):
            room = torch.empty(5, 3, 8, 8, dtype=dtype, device=device, memory_format=kept_format)
            made, weights = compose_stored(*place, slots, room, affine, device=device)
            assert made is room
            assert weights.device == device
            floats = [torch.rand(5, channels, 8, 8, device=device) for channels in (1, 3, 3)]
            assert compose_floats(*floats, room, affine) is room
            assert room.is_contiguous(memory_format=kept_format)
            assert room.dtype is dtype
    assert compose_stored(*on_device, slots)[0].dtype is torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept_format", FORMATS)
def test_on_a_gpu_they_are_mapped_and_written_alike(
    dtype: torch.dtype, kept_format: torch.memory_format
) -> None:
    kept = some_bytes(24)
    slots = torch.randint(9, (3, 7), generator=seeded(1))
    device = torch.device("cuda", torch.cuda.current_device())
    expected, masks = compose_stored(*kept, slots, None, OF_EACH_CHANNEL)
    on_device = [each.to(device) for each in kept]
    for place in (on_device, kept):  # of the device, and of the host
        room = torch.empty(7, 3, 24, 24, dtype=dtype, device=device, memory_format=kept_format)
        made, weights = compose_stored(*place, slots, room, OF_EACH_CHANNEL, device=device)
        assert made is room
        torch.testing.assert_close(weights.cpu(), masks, rtol=0, atol=1e-6)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(room.cpu().float(), expected, rtol=eps, atol=max(eps, 2e-6))
