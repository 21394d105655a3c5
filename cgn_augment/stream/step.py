"""Makes one step of the stream: a function of the real batch, the number and the position alone.

Nothing here remembers the step before, so steps can be made ahead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import (
    Purpose,
    isolated_rng,
    standard_numbers,
    step_generator,
    step_seed,
)
from cgn_augment.stream.arguments import Label, Output, label_factors
from cgn_augment.stream.batch_checks import BatchChecker, require_made_range, span
from cgn_augment.stream.batches import (
    Columns,
    Layout,
    append_rows,
    as_stored,
    choose_labels,
    describe_rows,
    empty_like_rows,
    follow_rows,
    is_channels_last,
    reorder_rows,
)
from cgn_augment.stream.columns import MASK, Rows, asks_for_masks, check_columns
from cgn_augment.stream.forms import require_same_form
from cgn_augment.stream.mixing import Mix
from cgn_augment.stream.planning import Planned
from cgn_augment.stream.state import Position
from cgn_augment.stream.transforms import MatchReal, as_transform
from cgn_augment.types import (
    FACTORS,
    Affine,
    Counterfactuals,
    MixedBatch,
    RealBatch,
    Source,
    Step,
)

_WRITTEN = (torch.float32, torch.float16, torch.bfloat16)
"""Types in which a source can write images, of the float32 values that it computes."""

_drawing = threading.RLock()
"""Held while drawing: several streams, each with a thread, may share a source."""


def _renew_lock() -> None:
    global _drawing
    _drawing = threading.RLock()


if hasattr(os, "register_at_fork"):  # a thread that the child lacks may hold it
    os.register_at_fork(after_in_child=_renew_lock)


class Drawn(NamedTuple):
    """What was drawn for a step before it is made.

    Attributes:
        made: the counterfactuals.
        room: memory for all rows of the step, (B, 3, H, W), with these as the last rows; or None.
        is_checked: whether the real batch was checked.
    """

    made: Counterfactuals
    room: Tensor | None
    is_checked: bool = False


@dataclass(eq=False, kw_only=True)
class StepMaker:
    """Combines real images and counterfactuals of one step.

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
    shuffle_rows: bool
    fill: Mapping[str | int, Any]
    rank: int = 0
    world_size: int = 1
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        taken = signature(self.source.sample)
        self._draws_into_room = "out" in taken.parameters
        try:
            taken.bind(1, torch.Generator(), Step(), None)
        except TypeError as error:
            raise ArgumentTypeError(
                f"sample of {type(self.source).__name__} must take (num, generator, step, real), "
                f"as Source.sample does: {error}"
            ) from error
        num_classes = getattr(self.source, "num_classes", None)
        self._checker = BatchChecker(
            self.value_range, num_classes if self.class_map is None else None
        )
        self._run = None if self.transform is None else as_transform(self.transform)
        maps = "affine" in taken.parameters
        self._affine = self._find_affine() if maps else None
        # Whether images leave the source as the batch will hold them.
        self._draws_finished = maps and (self._run is None or self._affine is not None)
        at = getattr(self.source, "masks", None)
        if isinstance(at, (str, int)):
            self.fill = {at: MASK, **self.fill}

    @property
    def can_draw_ahead(self) -> bool:
        """Whether the source declares that it draws without the real batch."""
        return getattr(self.source, "needs_real", True) is False

    @property
    def can_draw_apart(self) -> bool:
        """Whether the source declares that it may draw in another thread than the loop's."""
        return self.can_draw_ahead or getattr(self.source, "draws_apart", False) is True

    @property
    def can_make_apart(self) -> bool:
        """Whether all of a step may be made in such a thread: no transform seeds global numbers."""
        return self._run is None or self._affine is not None

    def make(
        self,
        batch: Any,
        layout: Layout,
        num: int,
        position: Position,
        items: Tensor | None,
        drawn: Drawn | None = None,
    ) -> Any:
        """Mixes `num` counterfactuals into a real batch, for the step at this position.

        Args:
            batch: the real batch.
            layout: where its images and labels are.
            num: number of counterfactuals.
            position: position of the step.
            items: (B,) int64 on the CPU, dataset indices of the batch, if known.
            drawn: what `draw_ahead` or `draw_for` drew for this step, if anything.

        Raises:
            DataError: the real batch, or the result of the source or the transform, does not fit.
            ArgumentError: the CGN has no class for a label, or a class has no label.
        """
        if num == 0 and self.mix == "append" and self.output == "same" and self.label != "all":
            return layout.move(batch, self.device)
        if num:
            if drawn is None or not drawn.is_checked:
                self._checker.check(batch, layout)
            if not self._checked and self.output == "same":
                self.fill = check_columns(batch, self.fill, (layout.image, layout.label))
        elif self.output != "same" or self.label == "all":
            self._checker.check_form(batch, layout)
        images, labels = layout.take(layout.move(batch, self.device))
        if drawn is not None and not _fits(drawn.room, images):
            drawn = None
        room = self._find_room(images, num, drawn)
        real_batch, key = RealBatch(images, labels, labels, items, batch), self._key(position)
        made, masks = self._draw(num, position, real_batch, room, drawn)
        replaces = self.mix == "replace" and num > 0
        keep = self._draw_kept(len(images), num, key) if replaces else None
        rows = Rows(len(images), num, keep, masks=masks)
        real, extra = self._describe(images, labels, made, keep)
        if self.mix == "separate" or len(real[0]) == 0:  # else they are written to the real ones
            extra = as_stored(extra[0], images), *extra[1:]
        if self.mix == "separate":
            none = torch.zeros(0, dtype=torch.int64)
            return (
                self._pack(batch, layout, real, replace(rows, num=0)),
                self._pack(batch, layout, extra, replace(rows, keep=none)),
            )
        mixed = append_rows(real, extra, room)
        if self.shuffle_rows and num:
            generator = step_generator(Purpose.ROWS, *key)
            order = torch.randperm(len(mixed[0]), generator=generator)
            rows, mixed = replace(rows, order=order), reorder_rows(mixed, order)
        return self._pack(batch, layout, mixed, rows)

    def make_planned(self, step: Planned, drawn: Drawn | None = None) -> Any:
        """Makes a planned step; see `make`."""
        return self.make(step.batch, step.layout, step.num, step.position, step.items, drawn)

    @standard_numbers()
    def draw_ahead(self, num: int, position: Position, num_real: int, like: Tensor) -> Drawn:
        """Draws what `make` would draw, before the real batch is read.

        Args:
            num: number of counterfactuals, at least one.
            position: position of the step.
            num_real: number of images that the real batch will have.
            like: (…, 3, H, W), images like those of the batch.
        """
        room = self._make_room(like, num_real, num)
        generator = step_generator(Purpose.SOURCE, *self._key(position))
        # A class map always draws one number per label.
        self._classes_of(torch.zeros(num_real, dtype=torch.int64), generator)
        return Drawn(self._sample(num, generator, position, None, room), room)

    @standard_numbers()
    def draw_for(self, step: Planned) -> Drawn:
        """Draws what `make` would draw for a step whose real batch is read.

        Args:
            step: a step on the CPU, with at least one counterfactual.

        Raises:
            DataError: the real batch, or the result of the source, does not fit.
            ArgumentError: the CGN has no class for a label, or a class has no label.
        """
        self._checker.check(step.batch, step.layout)
        images, labels = step.layout.take(step.layout.move(step.batch, self.device))
        room = self._make_room(images, len(images), step.num)
        real = RealBatch(images, labels, labels, step.items, step.batch)
        return Drawn(self._draw_from(real, step.num, step.position, room), room, is_checked=True)

    def _draw_kept(self, num_real: int, num: int, key: tuple[int, ...]) -> Tensor:
        """Returns the rows of the real images that stay, in rising order, on the CPU."""
        if num == num_real:
            return torch.zeros(0, dtype=torch.int64)
        order = torch.randperm(num_real, generator=step_generator(Purpose.MIX, *key))
        return order[num:].sort().values

    def _describe(
        self, images: Tensor, labels: Tensor, made: Counterfactuals, keep: Tensor | None
    ) -> tuple[Columns, Columns]:
        """Returns the columns of the real images that stay and of the counterfactuals."""
        dtype, num_read = labels.dtype, len(images)
        stay = None if keep is None else keep.to(self.device)
        if stay is not None:
            images, labels = images[stay], labels[stay]
        factors = [getattr(made, factor) for factor in FACTORS]
        if self.output == "same":  # nobody asks for the other columns
            return (
                (images, choose_labels([labels] * 3, self.label, dtype)),
                (made.images, choose_labels(factors, self.label, dtype)),
            )
        at = torch.full_like(made.shape, -1) if made.real is None else made.real
        if stay is not None:
            at = follow_rows(at, stay, num_read)
        own = torch.arange(len(images), device=images.device)
        return (
            describe_rows(images, [labels] * 3, own, self.label, dtype, made=False),
            describe_rows(made.images, factors, at, self.label, dtype, made=True),
        )

    def _key(self, position: Position) -> tuple[int, ...]:
        return self.seed, position.epoch, self.rank, position.step

    @standard_numbers()
    def _draw(
        self,
        num: int,
        position: Position,
        real: RealBatch,
        room: Tensor | None,
        drawn: Drawn | None,
    ) -> tuple[Counterfactuals, Tensor | None]:
        """Draws, transforms and checks; returns counterfactuals with the user's labels, and masks.

        Masks are returned if `fill` asks for them and the source knows them. If there is `room`,
        the images are at its end, unless the transform moved them.
        """
        images, labels = real.images, real.labels
        if num == 0:
            none = labels.new_zeros(0, dtype=torch.int64)
            return Counterfactuals(images.new_zeros(0, *images.shape[1:]), none, none, none), None
        made = self._draw_from(real, num, position, room) if drawn is None else drawn.made
        key = self._key(position)
        pictures, masks = self._transformed(made, key, overwrite=room is not None)
        require_same_form(pictures, images, self.transform)
        if self.value_range is not None and not self._checked:
            require_made_range(pictures, self.value_range, self.transform)
        rows = None if made.real is None else made.real.to(self.device, non_blocking=True)
        shape, texture, background = (
            self._labels_of(made, factor, rows, labels) for factor in FACTORS
        )
        self._checked = True
        return Counterfactuals(pictures, shape, texture, background, rows), masks

    def _draw_from(
        self, real: RealBatch, num: int, position: Position, room: Tensor | None
    ) -> Counterfactuals:
        images, labels, items = real.images, real.labels, real.items
        if items is not None and len(items) != len(images):
            raise DataError(
                f"a batch of {len(items)} items has {len(images)} images: its collate_fn must keep "
                "each item where it is, for the source looks at which items they are"
            )
        generator = step_generator(Purpose.SOURCE, *self._key(position))
        real = real._replace(classes=self._classes_of(labels, generator))
        return self._sample(num, generator, position, real, room)

    def _find_affine(self) -> Affine | None:
        """Returns all that the transform does, if the source can do it while it composes."""
        size = getattr(self.source, "image_size", None)
        if type(self._run) is not MatchReal or not isinstance(size, int):
            return None
        return self._run.as_affine(size, size)

    def _sample(
        self,
        num: int,
        generator: torch.Generator,
        position: Position,
        real: RealBatch | None,
        room: Tensor | None,
    ) -> Counterfactuals:
        step = Step(position.total, self.rank, self.world_size)
        further: dict[str, Any] = {} if room is None else {"out": room[-num:]}
        if self._affine is not None:
            further["affine"] = self._affine
        with _drawing:
            made = self.source.sample(num, generator, step, real, **further)
        if len(made) != num:
            raise DataError(f"the source was asked for {num} counterfactuals and gave {len(made)}")
        return made

    def _find_room(self, images: Tensor, num: int, drawn: Drawn | None) -> Tensor | None:
        """Returns the room of what was drawn if these images fit into it, else a new one."""
        if drawn is None:
            return self._make_room(images, len(images), num)
        room = drawn.room
        if room is None:
            return None
        forms = [
            (each.dtype, each.shape[1:], each.device, is_channels_last(each))
            for each in (room, images)
        ]
        return room if forms[0] == forms[1] else None

    @standard_numbers()
    def _make_room(self, images: Tensor, num_real: int, num: int) -> Tensor | None:
        """Returns memory for all rows of the step, if the source can draw into part of it.

        Large images are then written once, instead of once per stage.
        """
        size = getattr(self.source, "image_size", None)
        if (
            not self._draws_into_room
            or num == 0
            or self.mix == "separate"
            or images.dtype not in _WRITTEN
            or not (self._draws_finished or _is_plain(images))
            or tuple(images.shape[1:]) != (3, size, size)
            or getattr(self.source, "device", None) != images.device
        ):
            return None
        stay = num_real - num if self.mix == "replace" else num_real
        return empty_like_rows(images, stay + num)

    def _transformed(
        self, made: Counterfactuals, key: tuple[int, ...], *, overwrite: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns images in the form of the real ones, and masks if asked for and known."""
        pictures, masks = made.images.to(self.device, non_blocking=True), None
        if made.mask is not None and asks_for_masks(self.fill):
            masks = made.mask.to(self.device, non_blocking=True)
        if self._run is None or self._affine is not None:
            return pictures, masks
        with isolated_rng(step_seed(Purpose.TRANSFORM, *key), self.device):
            if masks is not None:
                return self._run.with_masks(pictures, masks)
            if overwrite and isinstance(self._run, MatchReal):
                return self._run(pictures, overwrite=True), None
            return self._run(pictures), None

    def _classes_of(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.class_map is not None:
            return self.class_map.to_class(labels, generator)
        return labels.long()

    def _labels_of(
        self, made: Counterfactuals, factor: str, rows: Tensor | None, real_labels: Tensor
    ) -> Tensor:
        classes: Tensor = getattr(made, factor).to(self.device, non_blocking=True)
        labels = classes
        if self.class_map is not None:
            labels = self.class_map.to_label(classes)
            if rows is not None and factor == "shape":  # a real shape has the label of its image
                labels = torch.where(rows >= 0, real_labels[rows.clamp(min=0)].long(), labels)
        if factor in label_factors(self.label):
            self._look_at_labels(classes, labels, factor, real_labels.dtype)
        return labels

    def _look_at_labels(
        self, classes: Tensor, labels: Tensor, factor: str, dtype: torch.dtype
    ) -> None:
        # Reading values on a GPU at every step would stall the host. The first step is checked, and
        # every step if labels have few bits, where a number could wrap around.
        narrow = torch.iinfo(dtype).bits < 32
        if self._checked and self.device.type != "cpu" and not narrow:
            return
        least, most = span(labels.long())
        if least < 0:
            y = int(classes[labels < 0][0])
            raise ArgumentError(
                f"the source drew class {y} for the {factor}, which is outside the class map and "
                "can have no label: add it to class_map, or keep the source to the map's classes"
                if self.class_map is not None
                else f"the source drew class {y} for the {factor}: classes must be 0 or more"
            )
        if most > torch.iinfo(dtype).max:
            raise DataError(
                f"a counterfactual has label {most}, and the real labels are {dtype}, which end at "
                f"{torch.iinfo(dtype).max}: let the dataset return int(label), or labels.long()"
            )

    def _pack(self, batch: Any, layout: Layout, mixed: Columns, rows: Rows) -> Any:
        """Puts rows into the structure of the real batch, or into the requested one."""
        if self.output == "namedtuple":
            return MixedBatch(*mixed)
        if self.output == "dict":
            return MixedBatch(*mixed)._asdict()
        return layout.rebuild(
            batch,
            mixed[0],
            mixed[1],
            lambda key, value: rows.place((key,), value, self.fill.get(key)),
        )


def _is_plain(images: Tensor) -> bool:
    return images.dtype is torch.float32 and not is_channels_last(images)


def _fits(room: Tensor | None, images: Tensor) -> bool:
    """Whether images that were drawn into a room ahead are as exact as those of the batch."""
    return room is None or room.dtype in (torch.float32, images.dtype)
