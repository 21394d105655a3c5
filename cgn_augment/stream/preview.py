"""A picture of what a loop will see: the next real images and counterfactuals of a stream."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.imagenet_classes import class_names
from cgn_augment.pictures.sheets import check_picture, draw_sheet, save_figure
from cgn_augment.stream.peeking import peeking
from cgn_augment.stream.state import Position
from cgn_augment.types import FACTORS, MixedBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgn_augment.stream.dataset import CounterfactualDataset

COLUMNS = 10
"""Images in a row of the picture."""

MOST_STEPS = 16
"""Most steps to look at until one has a counterfactual."""


@dataclass(frozen=True)
class Look:
    """What the next steps of a stream hold.

    Attributes:
        real: the real rows, on the CPU.
        made: the counterfactual rows.
        epoch: epoch of these steps.
        step: the first of them.
        num_steps: number of steps: one, or up to the first counterfactual.
        settings: settings of the stream, in words.
        names: names of the classes by label, if known.
        undo: maps images of a batch to [0, 1]; values out of range stay out of range.
        scale: what `undo` uses, in words.
    """

    real: MixedBatch
    made: MixedBatch
    epoch: int
    step: int
    num_steps: int
    settings: str
    names: Sequence[str]
    undo: Callable[[Tensor], Tensor]
    scale: str

    def __str__(self) -> str:
        steps = f"step {self.step}"
        if self.num_steps > 1:
            steps = f"steps {self.step} to {self.step + self.num_steps - 1}"
        sizes = {_size(rows.image) for rows in (self.real, self.made) if len(rows.image)}
        made = len(self.made.image) or "no"
        return (
            f"epoch {self.epoch}, {steps}: {len(self.real.image)} real and {made} counterfactual "
            f"images of {' and '.join(sorted(sizes))} ({self.settings})"
        )


def save_preview(
    stream: CounterfactualDataset,
    path: str | os.PathLike[str],
    num: int = COLUMNS,
    classes: Sequence[str] | None = None,
) -> Look:
    """Writes the picture of what a stream's loop will see; see `CounterfactualDataset.preview`."""
    check_picture(path)  # before anything slow
    require_count("num", num)
    look = look_at(stream, classes)
    save_figure(draw_look(look, num), path)
    return look


def look_at(stream: CounterfactualDataset, classes: Sequence[str] | None = None) -> Look:
    """Makes the steps that the next iteration begins with; changes nothing.

    Args:
        stream: the stream; it does not move, nor do its sampler and the global random generators.
        classes: names of the classes by label; those of the dataset by default.

    Raises:
        DataError: there is no batch, or it is not what was declared.
        UsageError: a sampler, or an iterable dataset, cannot be copied.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.stream.preview import look_at
        >>> digits = TensorDataset(torch.rand(32, 3, 32, 32) * 2 - 1, torch.arange(32) % 10)
        >>> stream = CounterfactualDataset(digits, SmallCGN().freeze(), batch_size=8, ratio=0.5)
        >>> print(look_at(stream))
        epoch 0, step 0: 8 real and 4 counterfactual images of 32x32 (append, label: shape)
    """
    real, made, first, num_steps = _first_steps(stream)
    undo, scale = _find_undo(stream, torch.cat([real.image, made.image]))
    return Look(
        real,
        made,
        first.epoch,
        first.step - 1,
        num_steps,
        f"{stream.mix}, label: {stream.label}",
        _find_names(stream, classes),
        undo,
        scale,
    )


def draw_look(look: Look, num: int = COLUMNS) -> Figure:
    """Draws real images and counterfactuals with their labels.

    Args:
        look: the rows to draw.
        num: images of each kind, at most.
    """
    rows: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    for what, batch in (("real", look.real), ("counterfactual", look.made)):
        shown = look.undo(batch.image[:num].double()).float() * 2 - 1
        texts = [_caption(look, batch, row) for row in range(len(shown))]
        for start in range(0, len(shown), COLUMNS):
            end = min(start + COLUMNS, len(shown))
            name = f"{what} {start + 1} to {end}" if start else _describe(what, batch, look, num)
            rows[name], captions[name] = shown[start:end], texts[start:end]
    width = 11 * (max(map(len, rows.values())) + 1.6)  # in letters
    return draw_sheet(rows, captions, "\n".join(textwrap.wrap(f"{look}; {look.scale}", int(width))))


def _first_steps(
    stream: CounterfactualDataset,
) -> tuple[MixedBatch, MixedBatch, Position, int]:
    """Returns real and counterfactual rows, the position of the first step, and their number."""
    real, made = [], []
    num_steps = 0
    with peeking(stream) as twin:
        steps = iter(twin)
        if (mixed := next(steps, None)) is None:  # the loaded position was at an epoch's end
            mixed = next(steps := iter(twin), None)
        first = twin._history.position
        while mixed is not None:
            parts = mixed if stream.mix == "separate" else (mixed,)
            real += [_rows(part, ~part.is_counterfactual) for part in parts]
            made += [_rows(part, part.is_counterfactual) for part in parts]
            num_steps += 1
            enough = num_steps == MOST_STEPS or len(made[-1].image)
            mixed = None if enough else next(steps, None)
    if not num_steps:
        raise DataError("there is nothing to show: the real data has no batch")
    return _join(real), _join(made), first, num_steps


def _rows(batch: MixedBatch, chosen: Tensor) -> MixedBatch:
    return MixedBatch(*(part[chosen].detach().cpu() for part in batch))


def _join(parts: list[MixedBatch]) -> MixedBatch:
    return MixedBatch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _find_undo(
    stream: CounterfactualDataset, images: Tensor
) -> tuple[Callable[[Tensor], Tensor], str]:
    """Returns a function that maps images of a batch to [0, 1], and what it uses, in words."""
    transform: Any = stream._maker.transform
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        scale, shift = (part.detach().double().cpu().view(-1, 1, 1) for part in (std, mean))
        told = f"mean {_numbers(mean)} and std {_numbers(std)}"
        return lambda shown: shown * scale + shift, f"shown with {told} undone"
    known = stream._maker.value_range
    finite = images[images.isfinite()]
    if known is None and len(finite):
        known = (float(finite.min()), float(finite.max()))
    low, high = known or (0.0, 1.0)
    told = f"[{low:.3g}, {high:.3g}] shown as black to white"
    if stream._maker.value_range is None:
        told += ", which is what these images span, for the stream knows no range"
    return lambda shown: (shown - low) / ((high - low) or 1.0), told


def _find_names(stream: CounterfactualDataset, classes: Sequence[str] | None) -> Sequence[str]:
    """Returns the names of the labels: as given, from the dataset, or of ImageNet's classes."""
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise ArgumentError(f"classes must be names by label, got {classes!r}")
        return classes
    dataset: Any = stream.dataset
    while dataset is not None:  # a Subset, or another wrapper
        if names := _names_of(dataset):
            return names
        dataset = getattr(dataset, "dataset", None)
    if stream.class_map is None:
        return class_names(getattr(stream.source, "num_classes", 0)) or ()
    return ()


def _names_of(dataset: Any) -> list[str]:
    """Returns the class names of a torchvision or Hugging Face dataset, else an empty list."""
    features = getattr(dataset, "features", None)
    columns = features.values() if isinstance(features, dict) else ()
    found = [getattr(dataset, "classes", None), *(getattr(part, "names", None) for part in columns)]
    named = [
        list(names)
        for names in found
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    ]
    return named[0] if len(named) == 1 else []


def _caption(look: Look, batch: MixedBatch, row: int) -> str:
    """Returns the label to train on and, for a counterfactual, the three factors."""
    labels = batch.label[row].view(-1).tolist()
    shown = [] if len(labels) > 1 else [("label", labels[0])]
    if bool(batch.is_counterfactual[row]) or len(labels) > 1:
        shown += [(factor, int(getattr(batch, factor)[row])) for factor in FACTORS]
    return "\n".join(f"{what} {_name(look.names, label, 20 - len(what))}" for what, label in shown)


def _name(names: Sequence[str], label: int, most: int) -> str:
    """Returns the name of a label in a few letters; a question mark means it has none."""
    if not names:
        return str(label)
    if not 0 <= label < len(names):
        return f"{label}?"
    return names[label] if len(names[label]) <= most else f"{names[label][: most - 1]}…"


def _describe(what: str, batch: MixedBatch, look: Look, num: int) -> str:
    """Returns the number, size and range of values of images of one kind, in words."""
    images = batch.image.double()
    shown = look.undo(images)
    lines = [
        f"{len(images)} {what}" if len(images) <= num else f"{num} of {len(images)} {what}",
        _size(images),
        f"values {float(images.min()):.3g} to {float(images.max()):.3g}",
        f"mean {float(images.mean()):.2f}, std {float(images.std()):.2f}",
    ]
    span = float(shown.max() - shown.min())
    if span < 0.6:
        lines.append(f"only {span:.0%} of the range")
    outside = float(((shown < -1e-3) | (shown > 1 + 1e-3) | shown.isnan()).double().mean())
    if outside:
        lines.append(f"{outside:.1%} out of range")
    return "\n".join(lines)


def _size(images: Tensor) -> str:
    height, width = images.shape[-2:]
    return f"{height}x{width}" if height == width else f"{height}x{width} (height x width)"


def _numbers(values: Tensor) -> str:
    numbers = [f"{value:.3g}" for value in values.flatten().tolist()]
    return numbers[0] if len(set(numbers)) == 1 else f"({', '.join(numbers)})"
