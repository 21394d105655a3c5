"""Composes factors into images in few passes over memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from cgn_augment.functional import compose
from cgn_augment.types import Affine

_BLOCK = 2**17
"""Values of images that a processor makes at once: half a megabyte, which stays in its cache."""

_AS_THEY_ARE = Affine((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def compose_floats(
    mask: Tensor,
    foreground: Tensor,
    background: Tensor,
    out: Tensor | None = None,
    affine: Affine | None = None,
) -> Tensor:
    """Composes images, maps their values, and writes them in the form of `out`.

    Args:
        mask: (N, 1, H, W) float32 in [0, 1].
        foreground: (N, 3, H, W) float32 in [-1, 1].
        background: (N, 3, H, W) float32 in [-1, 1]; its memory is used up.
        out: memory for the images, of any floating type and memory format; by default the
            background's.
        affine: how to map values; by default not at all.

    Returns:
        (N, 3, H, W) images.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.composing import compose_floats
        >>> from cgn_augment.types import Affine
        >>> white, black = torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)
        >>> from_0_to_1 = Affine((0.5,) * 3, (0.5,) * 3)
        >>> compose_floats(torch.full((1, 1, 2, 2), 0.25), white, black, None, from_0_to_1).unique()
        tensor([0.2500])
    """
    out = background if out is None else out
    for rows in _blocks(out):
        made = out[rows] if _is_plain(out) else background[rows]
        compose(mask[rows], foreground[rows], background[rows], out=made)
        _write(made, out[rows], affine)
    return out


def compose_stored(
    masks: Tensor,
    foregrounds: Tensor,
    backgrounds: Tensor,
    slots: Tensor,
    out: Tensor | None = None,
    affine: Affine | None = None,
    *,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Composes images from stored factors, a few at a time, without a float32 copy of a batch's.

    Args:
        masks: (K, 1, H, W), uint8, or of a floating type in [0, 1].
        foregrounds: (K', 3, H, W), uint8, or of a floating type in [-1, 1].
        backgrounds: (K', 3, H, W) of the same type.
        slots: (3, N) int64 on the CPU, the mask, foreground and background of each image.
        out: memory for the images, of any floating type and memory format.
        affine: how to map values from [-1, 1]; by default not at all.
        device: where to compose; by default where the factors are.

    Returns:
        Images (N, 3, H, W), float32 in [-1, 1] by default, and their masks (N, 1, H, W) float32 in
        [0, 1], on the device.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.composing import compose_stored
        >>> white, black = (torch.full((1, 3, 2, 2), v, dtype=torch.uint8) for v in (255, 0))
        >>> fifth = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)
        >>> image, mask = compose_stored(fifth, white, black, torch.zeros(3, 1).long())
        >>> round(image[0, 0, 0, 0].item(), 3), round(mask[0, 0, 0, 0].item(), 3)
        (-0.6, 0.2)
    """
    device = backgrounds.device if device is None else device
    num, (_, height, width) = slots.shape[1], backgrounds.shape[1:]
    if out is None:
        out = torch.empty(num, 3, height, width, dtype=torch.float32, device=device)
    weights = torch.empty(num, 1, height, width, dtype=torch.float32, device=device)
    as_bytes = backgrounds.dtype is torch.uint8
    if as_bytes:
        affine = (_AS_THEY_ARE if affine is None else affine).of_bytes()
    near = slots.to(backgrounds.device, non_blocking=True)
    at = near[0] if masks.device == near.device else slots[0].to(masks.device, non_blocking=True)
    room: list[Tensor] = []  # the same for all blocks, so that it stays in the cache
    for rows in _blocks(out):
        m, (f, b) = at[rows], near[1:, rows]
        size = len(b), 3, height, width
        if not room or len(room[0]) != len(b):
            count = 1 if _is_plain(out) else 2
            room = [torch.empty(size, dtype=torch.float32, device=device) for _ in range(count)]
        made = out[rows] if _is_plain(out) else room[1]
        background = _look_up(backgrounds, b, made)
        foreground = _look_up(foregrounds, f, room[0])
        weight = _fill(masks, m, weights[rows])
        if masks.dtype is torch.uint8:
            weight.div_(255)
        torch.lerp(background, foreground, weight, out=made)
        _write(made, out[rows], affine)
    return out, weights


def gather(kept: Tensor, places: Tensor, device: torch.device) -> Tensor:
    """Copies rows of kept factors to a device.

    Rows in the host's memory go to a GPU through pinned memory, so the host goes on at once.
    PyTorch's allocator keeps that memory from being used again until it is copied.

    Args:
        kept: (K, …), on the device or on the CPU.
        places: (N,) int64 on the device of `kept`.
        device: where the rows are needed.

    Returns:
        (N, …) on the device.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.composing import gather
        >>> gather(torch.arange(5), torch.tensor([3, 1]), torch.device("cpu"))
        tensor([3, 1])
    """
    if kept.device == device:
        return kept.index_select(0, places)
    pinned = device.type == "cuda"
    rows = torch.empty((len(places), *kept.shape[1:]), dtype=kept.dtype, pin_memory=pinned)
    return torch.index_select(kept, 0, places, out=rows).to(device, non_blocking=True)


def unpack(kept: Tensor, places: Tensor, low: float, device: torch.device) -> Tensor:
    """Copies rows of kept factors to a device as float32 in [low, 1]; bytes are mapped to that.

    Args:
        kept: (K, C, H, W), uint8 or of a floating type, on the device or on the CPU.
        places: (N,) int64 on the device of `kept`.
        low: the value of the byte 0.
        device: where the rows are needed.

    Returns:
        (N, C, H, W) float32 on the device.

    Examples:
        >>> import torch
        >>> from cgn_augment.sources.composing import unpack
        >>> kept = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> unpack(kept, torch.tensor([1, 0]), -1.0, kept.device).flatten().tolist()
        [1.0, -1.0]
    """
    out = torch.empty(len(places), *kept.shape[1:], dtype=torch.float32, device=device)
    for rows in _blocks(out):
        made = _fill(kept, places[rows], out[rows])
        if kept.dtype is torch.uint8:
            made.mul_((1 - low) / 255).add_(low)
    return out


def _fill(kept: Tensor, places: Tensor, room: Tensor) -> Tensor:
    """Writes rows of kept factors to `room`, and returns it."""
    found = _look_up(kept, places, room)
    return room if found is room else room.copy_(found)


def _look_up(kept: Tensor, places: Tensor, room: Tensor) -> Tensor:
    """Returns rows of kept factors in the type of `room`: written to it, or one as it is kept."""
    if kept.device.type == room.device.type == "cpu" and len(places) == 1:
        place = int(places)
        row = kept[place : place + 1]
        return row if row.dtype is room.dtype else room.copy_(row)
    if (kept.device, kept.dtype) == (room.device, room.dtype):
        return torch.index_select(kept, 0, places, out=room)
    return room.copy_(gather(kept, places, room.device))


def _write(made: Tensor, out: Tensor, affine: Affine | None) -> None:
    """Maps images in float32, whose memory is used up, and writes them to `out`."""
    if affine is not None:
        scale, shift = _on(affine, made.device)
        if made.device.type != "cpu":
            torch.addcmul(shift, made, scale, out=out)  # with the cast in the same pass
            return
        made.mul_(scale).add_(shift)  # in the cache, as exact as MatchReal
    if made.data_ptr() != out.data_ptr():
        # First the type, then the order: both at once take a processor twice as long.
        out.copy_(made.to(out.dtype) if made.device.type == "cpu" else made)


def _is_plain(out: Tensor) -> bool:
    """Whether images can be composed in this memory itself."""
    return out.dtype is torch.float32 and out.is_contiguous()


def _blocks(out: Tensor) -> Iterator[slice]:
    """Yields the rows to make at once: on a CPU as many as its cache holds."""
    num, size = len(out), max(1, out[:1].numel())
    step = max(1, _BLOCK // size) if out.device.type == "cpu" else max(1, num)
    for first in range(0, num, step):
        yield slice(first, min(first + step, num))


@lru_cache(maxsize=64)
def _on(affine: Affine, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns scale and shift (3, 1, 1) on a device, copied there once."""
    scale, shift = (torch.tensor(each, dtype=torch.float32)[:, None, None] for each in affine)
    return scale.to(device), shift.to(device)
