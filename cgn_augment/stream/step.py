"""Makes one step of the stream: a function of the real batch, the number and the position alone.

Nothing here remembers the step before, so steps can be made ahead of time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.stream.arguments import Label, Output, label_factors
from cgn_augment.stream.batches import (
    Layout,
    append_rows,
    check_batch,
    check_range,
    describe_rows,
    follow_rows,
    pad_extra,
)
from cgn_augment.stream.mixing import Mix
from cgn_augment.stream.state import Position
from cgn_augment.types import FACTORS, Counterfactuals, MixedBatch, RealBatch, Source, Step


@dataclass(eq=False, kw_only=True)
class StepMaker:
    """Puts real images and counterfactuals of one step together.

    The arguments are those of `CounterfactualDataset`.

    Raises:
        ArgumentTypeError: the source's `sample` does not take the arguments of `Source.sample`.
    """

    source: Source
    mix: Mix
    label: Label
    output: Output
    class_map: ClassMap | None
    transform: Callable[[Tensor], Tensor] | None
    device: torch.device
    value_range: tuple[float, float] | None
    seed: int
    rank: int = 0
    world_size: int = 1
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        try:
            signature(self.source.sample).bind(1, torch.Generator(), Step(), None)
        except TypeError as error:
            raise ArgumentTypeError(
                f"sample of {type(self.source).__name__} must take (num, generator, step, real), "
                f"as Source.sample does: {error}"
            ) from error

    def make(
        self, batch: Any, layout: Layout, num: int, position: Position, items: Tensor | None
    ) -> Any:
        """Mixes `num` counterfactuals into a real batch, at the step of this position.

        `items` (B,) int64 on the CPU are those of the dataset that the batch holds, if known.

        Raises:
            DataError: the real batch, or what the source or the transform gave, does not fit.
            ArgumentError: a label that the CGN has no class for, or the other way round.
        """
        if num == 0 and self.mix == "append" and self.output == "same" and self.label != "all":
            return layout.move(batch, self.device)
        images, labels = layout.take(layout.move(batch, self.device))
        if num and not self._checked:
            check_batch(images, labels)
            if self.value_range is not None:
                # Many images that fill hardly half of the range are nearly always in [0, 1], beside
                # counterfactuals in [-1, 1].
                share = 0.5 if len(images) >= 8 else 0
                check_range("real images", images, self.value_range, share)
        key = (self.seed, position.epoch, self.rank, position.step)
        step = Step(position.total, self.rank, self.world_size)
        made = self._draw(num, step, key, RealBatch(images, labels, labels, items, batch))
        factors = [getattr(made, factor).to(labels.dtype) for factor in FACTORS]
        rows = torch.full_like(made.shape, -1) if made.real is None else made.real
        keep = None
        if self.mix == "replace" and num:
            order = torch.randperm(len(images), generator=step_generator(Purpose.MIX, *key))
            keep = order[num:].sort().values
            stay = keep.to(self.device)
            rows = follow_rows(rows, stay, len(images))
            images, labels = images[stay], labels[stay]
        extra = describe_rows(made.images, factors, rows, self.label, made=True)
        own = torch.arange(len(images), device=images.device)
        real = describe_rows(images, [labels] * 3, own, self.label, made=False)
        if self.mix == "separate":
            nothing = torch.zeros(0, dtype=torch.int64)
            return (
                self._pack(batch, layout, real, 0, None),
                self._pack(batch, layout, extra, num, nothing),
            )
        return self._pack(batch, layout, append_rows(real, extra), num, keep)

    @torch.no_grad()
    def _draw(self, num: int, step: Step, key: tuple[int, ...], real: RealBatch) -> Counterfactuals:
        """Draws, transforms and checks; the labels that come back are the user's."""
        images, labels, items = real.images, real.labels, real.items
        if num == 0:
            none = labels.new_zeros(0)
            return Counterfactuals(images.new_zeros(0, *images.shape[1:]), none, none, none)
        generator = step_generator(Purpose.SOURCE, *key)
        if items is not None and len(items) != len(images):
            raise DataError(
                f"a batch of {len(items)} items has {len(images)} images: its collate_fn must keep "
                "each item where it is, for the source looks at which items they are"
            )
        real = real._replace(classes=self._classes_of(labels, generator))
        made = self.source.sample(num, generator, step, real)
        if len(made) != num:
            raise DataError(f"the source was asked for {num} counterfactuals and gave {len(made)}")
        pictures = made.images.to(self.device, non_blocking=True)
        if self.transform is not None:
            with isolated_rng(step_seed(Purpose.TRANSFORM, *key), self.device):
                pictures = self.transform(pictures)
        if pictures.shape[1:] != images.shape[1:]:
            raise DataError(
                f"counterfactuals arrive as {tuple(pictures.shape[1:])} and real images as "
                f"{tuple(images.shape[1:])}: pass transform=match_real(mean, std, crop_size="
                f"{images.shape[-1]}), or resize the real images"
            )
        if self.value_range is not None and not self._checked:
            check_range("counterfactuals", pictures, self.value_range)
        rows = None if made.real is None else made.real.to(self.device, non_blocking=True)
        shape, texture, background = (
            self._labels_of(made, factor, rows, labels) for factor in FACTORS
        )
        self._checked = True
        return Counterfactuals(pictures.to(images.dtype), shape, texture, background, rows)

    def _classes_of(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.class_map is not None:
            return self.class_map.to_class(labels, generator)
        num_classes = getattr(self.source, "num_classes", None)
        if num_classes is not None and not self._checked and int(labels.max()) >= num_classes:
            raise ArgumentError(
                f"the real data has label {int(labels.max())} and the CGN only the classes 0 to "
                f"{num_classes - 1}: pass class_map={{label: class, …}}"
            )
        return labels.long()

    def _labels_of(
        self, made: Counterfactuals, factor: str, rows: Tensor | None, real_labels: Tensor
    ) -> Tensor:
        classes: Tensor = getattr(made, factor).to(self.device, non_blocking=True)
        if self.class_map is None:
            return classes
        labels = self.class_map.to_label(classes)
        if rows is not None and factor == "shape":  # a real shape has the label of its image
            labels = torch.where(rows >= 0, real_labels[rows.clamp(min=0)].long(), labels)
        # On a GPU a look at every step would make the host wait; the first step is looked at.
        look = not self._checked or self.device.type == "cpu"
        if look and factor in label_factors(self.label) and bool((labels < 0).any()):
            y = int(classes[labels < 0][0])
            raise ArgumentError(
                f"the source drew class {y} for the {factor}, which is outside the class map and "
                "can have no label: add it to class_map, or keep the source to the map's classes"
            )
        return labels

    def _pack(
        self, batch: Any, layout: Layout, rows: MixedBatch, num: int, keep: Tensor | None
    ) -> Any:
        """Puts rows into the structure of the real batch, or into the one that was asked for."""
        if self.output == "namedtuple":
            return rows
        if self.output == "dict":
            return rows._asdict()
        num_real = len(batch[layout.image])

        return layout.rebuild(
            batch, rows.image, rows.label, lambda value: pad_extra(value, num_real, num, keep)
        )
