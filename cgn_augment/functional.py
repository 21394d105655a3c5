"""Pure functions: compose, draw, move, seed. All else is a thin class around these."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError

UNIT = 10**12
"""Shares of an image are counted as integers of 1/UNIT, so they never drift."""


def compose(
    mask: Tensor, foreground: Tensor, background: Tensor, out: Tensor | None = None
) -> Tensor:
    """Blends an object over a background: `x = m * f + (1 - m) * b` (paper, equation 4).

    Args:
        mask: (N, 1, H, W) float in [0, 1].
        foreground: (N, 3, H, W) float in [-1, 1].
        background: (N, 3, H, W) float in [-1, 1].
        out: where to write the result, such as a background that is no longer needed.

    Returns:
        (N, 3, H, W) float in [-1, 1]: exactly `foreground` at mask 1 and `background` at mask 0.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import compose
        >>> white, black = torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)
        >>> compose(torch.full((1, 1, 2, 2), 0.25), white, black).unique().item()
        -0.5
    """
    return torch.lerp(background, foreground, mask, out=out)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes images, bilinear and antialiased, as torchvision's `Resize` does.

    Args:
        images: (N, C, h, w) float.
        size: (H, W), in pixels.

    Returns:
        (N, C, H, W) float; the images themselves if they have this size.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import resize_images
        >>> resize_images(torch.zeros(2, 3, 256, 256), (224, 224)).shape
        torch.Size([2, 3, 224, 224])
    """
    if images.shape[-2:] == size:
        return images
    if len(images) == 0:
        return images.new_zeros(*images.shape[:2], *size)
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def check_classes(y: Tensor, num: int, num_classes: int, what: str) -> None:
    """Raises unless `y` holds one integer class of 0 … `num_classes` − 1 for each item.

    Args:
        y: the classes.
        num: number of items.
        num_classes: number of classes.
        what: name of the items, for the message.

    Raises:
        ArgumentError: the shape is wrong or a class is out of range. Not checked on a GPU, where
            reading the values would stall the host; the embedding that uses them checks there.
        ArgumentTypeError: the classes are not integers.
    """
    if y.shape != (num,):
        raise ArgumentError(
            f"y must hold one class for each of the {num} {what}, got the shape {tuple(y.shape)}"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ArgumentTypeError(f"y must hold integer classes, got {y.dtype}")
    if y.device.type == "cpu" and num and (y.min() < 0 or y.max() >= num_classes):
        raise ArgumentError(
            f"y must hold classes of 0 to {num_classes - 1}, got {int(y.min())} to {int(y.max())}"
        )


def draw_choices(choices: Sequence[Sequence[int]], num: int, generator: torch.Generator) -> Tensor:
    """Draws a group uniformly, then a member of that group uniformly.

    Args:
        choices: groups of classes. For a plain list each group has one class. A class map makes one
            group per label, so that each label is equally frequent however many classes it has.
        num: how many to draw.
        generator: a CPU generator.

    Returns:
        (num,) int64 classes.
    """
    table, lengths = choice_table(tuple(map(tuple, choices)))
    group = torch.randint(len(choices), (num,), generator=generator)
    if table.shape[1] == 1:
        return table[:, 0].index_select(0, group)
    member = torch.rand(num, generator=generator, dtype=torch.float64) * lengths[group]
    return table[group, member.long()]


@lru_cache(maxsize=64)
def choice_table(choices: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """Returns the groups as rows (G, longest) int64, padded with zeros, and their lengths (G,).

    Args:
        choices: groups of classes.
    """
    longest = max(map(len, choices))
    table = torch.tensor([[*group, *[0] * (longest - len(group))] for group in choices])
    return table, torch.tensor([len(group) for group in choices])


def pick_choices(
    choices: Sequence[Sequence[int]], shares: Tensor, unlike: Tensor | None = None
) -> Tensor:
    """Picks a group uniformly, then a member of it uniformly, from numbers that are already drawn.

    Args:
        choices: groups of classes, as in `draw_choices`.
        shares: (N, 2) float64 in [0, 1): the position among the groups, and inside the group.
        unlike: (N,) int64 classes. Each row leaves out the group of its class; a class that is in
            no group leaves nothing out.

    Returns:
        (N,) int64 classes.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import pick_choices
        >>> shares = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.9, 0.6]], dtype=torch.float64)
        >>> pick_choices([[0], [1], [2, 5]], shares, unlike=torch.tensor([0, 1, 7])).tolist()
        [1, 0, 5]
    """
    table, lengths = choice_table(tuple(map(tuple, choices)))
    if unlike is None:
        group = (shares[:, 0] * len(table)).long()
    else:
        member = torch.arange(table.shape[1]) < lengths[:, None]
        own = ((table == unlike[:, None, None]) & member).any(dim=2)
        known, at = own.max(dim=1)
        group = (shares[:, 0] * (len(table) - known.long())).long()
        group += known & (group >= at)
    return table[group, (shares[:, 1] * lengths[group]).long()]


def sample_interventions(
    num: int,
    choices: Sequence[Sequence[Sequence[int]]],
    generator: torch.Generator,
    num_per_shape: int = 1,
) -> Tensor:
    """Draws the three classes of `num` counterfactuals independently (paper, section 2).

    Args:
        num: how many counterfactuals.
        choices: groups as in `draw_choices`, one sequence each for shape, texture and background.
        generator: a CPU generator.
        num_per_shape: how many neighbours share one shape; the last group may be smaller.

    Returns:
        (3, num) int64: the classes of shape, texture and background.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import sample_interventions
        >>> any_digit = [[y] for y in range(10)]
        >>> shape, texture, background = sample_interventions(
        ...     6, (any_digit, any_digit, [[3]]), torch.Generator().manual_seed(0), num_per_shape=3)
        >>> bool((shape[:3] == shape[0]).all()), background.tolist()
        (True, [3, 3, 3, 3, 3, 3])
    """
    shape = draw_choices(choices[0], -(-num // num_per_shape), generator)
    texture = draw_choices(choices[1], num, generator)
    background = draw_choices(choices[2], num, generator)
    if num_per_shape > 1:
        shape = shape.repeat_interleave(num_per_shape)[:num]
    return torch.stack([shape, texture, background])


def permute_classes(
    classes: Tensor, num: int, generator: torch.Generator, num_per_shape: int = 1
) -> Tensor:
    """Assigns the batch's own classes to the three factors, each in its own order.

    The paper's MNIST experiments draw this way: texture and background classes are permutations
    of the shape classes, so each factor keeps the batch's class frequencies.

    Args:
        classes: (B,) int64 classes of the batch, B > 0. Taken in random order; if `num` needs more
            than B, the order repeats.
        num: number of counterfactuals.
        generator: a CPU generator.
        num_per_shape: how many neighbours share one shape.

    Returns:
        (3, num) int64: the classes of shape, texture and background.
    """
    num_shapes = -(-num // num_per_shape)
    order = torch.randperm(len(classes), generator=generator)
    taken = order.repeat(-(-num_shapes // len(classes)))[:num_shapes]
    shape = classes[taken].repeat_interleave(num_per_shape)[:num]
    texture = shape[torch.randperm(num, generator=generator)]
    background = shape[torch.randperm(num, generator=generator)]
    return torch.stack([shape, texture, background])


def roll_images(images: Tensor, offsets: Tensor) -> Tensor:
    """Moves each image around the torus, as by tiling it 2x2 and cropping one tile.

    Args:
        images: (N, C, H, W).
        offsets: (N, 2) int64, upper left corner (row, column) of each crop; any integers.

    Returns:
        (N, C, H, W) images, each rolled by its own offset.
    """
    height, width = images.shape[-2:]
    offsets = offsets.to(images.device)
    rows = (torch.arange(height, device=images.device) + offsets[:, :1]) % height
    columns = (torch.arange(width, device=images.device) + offsets[:, 1:]) % width
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    index = index[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def roll_randomly(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image (N, C, H, H) around the torus by 0 to H pixels in each direction.

    Args:
        images: (N, C, H, H).
        generator: a CPU generator.

    Returns:
        (N, C, H, H) images, each rolled by its own offset.
    """
    offsets = torch.randint(images.shape[-1] + 1, (len(images), 2), generator=generator)
    return roll_images(images, offsets)


def move_images(images: Tensor, offsets: Tensor) -> Tensor:
    """Moves each image and fills the uncovered area with 0.

    Args:
        images: (N, C, H, W).
        offsets: (N, 2) int64, upper left corner (row, column) of each crop; any integers. Negative
            ones move the image down and to the right.

    Returns:
        (N, C, H, W) images.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import move_images
        >>> move_images(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[0, 1]]))
        tensor([[[[2., 0.],
                  [4., 0.]]]])
    """
    moved = roll_images(images, offsets)
    inside = []
    for size, offset in zip(images.shape[-2:], offsets.to(images.device).unbind(1), strict=True):
        place = torch.arange(size, device=images.device) + offset[:, None]
        inside.append((place >= 0) & (place < size))
    rows, columns = inside
    return moved * (rows[:, None, :, None] & columns[:, None, None, :])


class Purpose(IntEnum):
    """The purpose of a seed; keeps any two draws from using the same numbers."""

    ITEM = 1
    LOADER = 2
    SOURCE = 3
    TRANSFORM = 4
    MIX = 5
    BANK_FILL = 6
    BANK_REFRESH = 7
    TRAINING = 8
    WEIGHTS = 9
    ORDER = 10
    MEASURE = 11
    SAMPLE_CLASSES = 12
    SAMPLE_NOISE = 13
    SHARD_ORDER = 15
    SHARD_SHUFFLE = 16
    ROWS = 17


def step_seed(purpose: Purpose, *key: int) -> int:
    """Mixes a purpose and a key such as (seed, epoch, rank, step) into one seed of 63 bits.

    Args:
        purpose: what the seed is for.
        key: integers of 0 or more.

    Raises:
        ArgumentError: a part of the key is negative, or the seed, which comes first, too large.
    """
    require_count("seed", key[0], 0)
    if min(key) < 0:
        raise ArgumentError(f"seed, epoch, rank and step must be 0 or more, got {key}")
    words = np.random.SeedSequence([*key, purpose]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def step_generator(purpose: Purpose, *key: int) -> torch.Generator:
    """Returns a CPU generator seeded by `purpose` and `key` alone; see `step_seed`.

    Args:
        purpose: what the generator is for.
        key: integers of 0 or more, such as seed, epoch, rank and step.
    """
    return torch.Generator().manual_seed(step_seed(purpose, *key))


def look_at_rng() -> tuple[object, ...]:
    """Returns the state of the global random generators of the CPU, to compare it with another.

    Covers torch, NumPy and Python.
    """
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *others = numpy_state
    torch_state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), name, keys.tobytes(), *others, torch_state


@contextmanager
def kept_rng(device: torch.device) -> Iterator[None]:
    """Restores the global random generators after the block.

    Covers torch on the CPU and on `device`, NumPy and Python.

    Args:
        device: a device whose generator is included.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global random generators inside the block and restores them after it.

    For code that knows only global randomness, such as augmentation libraries. Covers the same
    generators as `kept_rng`.

    Args:
        seed: seed of all global generators.
        device: a device whose generator is included.
    """
    with kept_rng(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield


_AUTOCAST = "cpu", "cuda", "mps", "xpu"


@contextmanager
def standard_numbers() -> Iterator[None]:
    """Makes results independent of the caller's modes. Also a decorator.

    Turns autocast, inference mode and gradients off, and sets the default type to float32. Results
    are the same bit for bit in any of these modes, and may enter a training graph.

    Examples:
        >>> import torch
        >>> from cgn_augment.functional import standard_numbers
        >>> with torch.inference_mode(), standard_numbers():
        ...     torch.ones(1).is_inference()
        False
    """
    default = torch.get_default_dtype()
    casting = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
    unusual = casting or default != torch.float32 or torch.is_inference_mode_enabled()
    if not unusual and not torch.is_grad_enabled():
        yield  # inside such a block
        return
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.no_grad())
        for kind in casting:
            modes.enter_context(torch.autocast(kind, enabled=False))
        if default != torch.float32:
            torch.set_default_dtype(torch.float32)
            modes.callback(torch.set_default_dtype, default)
        yield
