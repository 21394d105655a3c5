"""Counterfactuals that leave the source as the batch will hold them, in one pass less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import Blocks, ReadableCGN, find_bright
from stream_helpers import collect, stream
from torch import Tensor, nn

from cgn_augment import (
    BankSource,
    Counterfactuals,
    FreshSource,
    Placement,
    RealShapeSource,
    Source,
    Step,
    match_real,
)
from cgn_augment.stream.transforms import MatchReal

CGN = ReadableCGN()
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = torch.float32, torch.bfloat16, torch.float16

SOURCES: dict[str, Callable[[], Any]] = {
    "fresh": lambda: FreshSource(CGN),
    "bank": lambda: BankSource(CGN, 20, 3),
    "bank of bytes": lambda: BankSource(CGN, 20, 3, storage="uint8"),
    "bank, placed": lambda: BankSource(CGN, 20, 3, placement=Placement(shift=0.3, flip=0.5)),
    "bank of parts": lambda: BankSource(make_parts(8), 20, 3),
    "bank of another size": lambda: BankSource(make_parts(12), 20, 3, image_size=8),
    "real shapes": lambda: RealShapeSource(find_bright, BankSource(CGN, 20)),
}


class InTwoPasses:
    """A source that leaves the map to the transform, as any source of a user does."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def sample(
        self, num: int, generator: Any, step: Step = Step(), real: Any = None, *, out: Any = None
    ) -> Counterfactuals:
        made: Counterfactuals = self.source.sample(num, generator, step, real, out=out)
        return made


class Spy(BankSource):
    """Remembers how it was asked."""

    def sample(self, *arguments: Any, out: Any = None, affine: Any = None) -> Any:
        self.asked = out, affine
        return super().sample(*arguments, out=out, affine=affine)


def real(dtype: torch.dtype = torch.float32, last: bool = False) -> list[Any]:
    """Batches of four of the values of plain images, normalized to half of [-1, 1]."""
    kept = torch.channels_last if last else torch.contiguous_format
    images = torch.stack([Blocks(12)[i][0] for i in range(12)]).to(dtype, memory_format=kept)
    return [(images[i : i + 4], torch.arange(4) % 3) for i in (0, 4, 8)]


def run(source: Any, batches: list[Any], **options: Any) -> list[tuple[Tensor, Tensor]]:
    settings = {"transform": match_real(MEAN, STD), "value_range": None, **options}
    return collect(stream(batches, source, **settings), 2)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the transform went over the images once more")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_it_is_what_the_transform_would_have_made(
    kind: str, last: bool, dtype: torch.dtype
) -> None:
    make, batches = SOURCES[kind], real(dtype, last)
    expected = run(InTwoPasses(make()), batches)
    close = max(1e-6, torch.finfo(dtype).eps)
    for depth in (0, 2):
        made = run(make(), batches, prefetch=depth)
        for (images, labels), (others, same_labels) in zip(made, expected, strict=True):
            assert torch.equal(labels, same_labels)
            assert images.dtype is others.dtype is dtype
            assert images.stride() == others.stride()
            torch.testing.assert_close(images, others, rtol=close, atol=close)


@pytest.mark.parametrize("mix", ["append", "replace", "separate"])
@pytest.mark.parametrize("depth", [0, 1])
def test_the_transform_does_not_run_again(
    mix: Any, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"mix": mix, "ratio": 1.0, "prefetch": depth}
    expected = run(SOURCES["bank"](), real(), **options)
    for name in ("forward", "with_masks"):
        monkeypatch.setattr(MatchReal, name, refuse)
    made = run(SOURCES["bank"](), real(), **options)
    for each, other in zip(made, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="once more"):
        run(InTwoPasses(SOURCES["bank"]()), real(), **options)


def test_masks_come_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(*batch, torch.zeros(4, 1, 8, 8)) for batch in real()]
    source = InTwoPasses(SOURCES["bank of bytes"]())
    expected = run(source, batches, fill={2: "mask"})
    monkeypatch.setattr(MatchReal, "with_masks", refuse)
    made = run(SOURCES["bank of bytes"](), batches, fill={2: "mask"})
    for (images, _, masks), (others, _, same_masks) in zip(made, expected, strict=True):  # type: ignore[misc]
        torch.testing.assert_close(images, others, rtol=1e-6, atol=1e-6)
        assert torch.equal(masks, same_masks)
        assert masks.max() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
def test_the_source_writes_into_the_batch(last: bool, dtype: torch.dtype) -> None:
    for transform in (None, match_real(MEAN, STD)):
        source = Spy(CGN, 20)
        (images, _), *_ = run(source, real(dtype, last)[:1], transform=transform)
        out, affine = source.asked
        assert (affine is None) is (transform is None)
        assert out.dtype is dtype
        assert out.is_contiguous(memory_format=torch.channels_last) is last
        assert out.shape == (4, 3, 8, 8)
        assert images.shape == (8, 3, 8, 8)


class Negated(MatchReal):
    def forward(self, images: Tensor, *, overwrite: bool = False) -> Tensor:
        return -super().forward(images, overwrite=overwrite)


@pytest.mark.parametrize(
    "transform",
    [
        match_real(MEAN, STD, 8, resize=8),
        match_real(MEAN, STD, augment=nn.Identity()),
        match_real(MEAN, STD, 8, resize=10),
        Negated(MEAN, STD),
        lambda images: images,
    ],
)
def test_other_transforms_run_by_themselves(transform: Any) -> None:
    source = Spy(CGN, 20)
    expected = run(InTwoPasses(BankSource(CGN, 20)), real(), transform=transform)
    made = run(source, real(), transform=transform)
    assert source.asked[1] is None
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(made, expected, strict=True))
    run(source, real(torch.bfloat16), transform=transform)
    assert source.asked[0] is None  # they would be rounded before the transform


def test_images_of_another_size_are_resized() -> None:
    source = Spy(CGN, 20)
    batches = [(torch.rand(4, 3, 12, 12), torch.arange(4))]
    ((images, _),) = collect(stream(batches, source, transform=match_real(size=12)))
    assert images.shape == (8, 3, 12, 12)
    assert source.asked == (None, None)


def test_batches_of_another_type_or_format_are_drawn_as_without_prefetch() -> None:
    """What was drawn ahead in half precision is not what a batch in full precision holds."""
    half, plain, last = real(torch.bfloat16), real(), real(last=True)
    batches = [half[0], plain[1], half[2], last[0], half[1], plain[0], last[1], plain[2]]
    expected = run(BankSource(CGN, 20, 3), batches)
    made = run(BankSource(CGN, 20, 3), batches, prefetch=2)
    for (images, _), (others, _) in zip(made, expected, strict=True):
        assert images.dtype is others.dtype
        assert images.stride() == others.stride()
        assert torch.equal(images, others)


def test_a_range_is_checked_of_finished_images_too() -> None:
    given: Source = BankSource(CGN, 20, storage="uint8")
    batches = [(torch.zeros(4, 3, 8, 8), torch.arange(4))]
    with pytest.raises(ValueError, match=r"counterfactuals span .*declared to be in \[-0.5, 0.5\]"):
        run(given, batches, value_range=(-0.5, 0.5), transform=match_real(0.5, 0.05))
