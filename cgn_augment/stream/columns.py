"""The further columns of a batch (an index, a weight, a mask) and their values for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.functional import resize_images

MASK = "mask"
"""A value of `fill` for a column of masks: it gets the masks of the counterfactuals."""

Path = tuple[str | int, ...]
"""Keys or positions that lead from a batch to one of its values."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a step's batch.

    Attributes:
        num_real: number of real images read.
        num: number of counterfactuals.
        keep: (K,) int64 on the CPU, the real images that stay; None means all.
        order: (K + num,) int64 on the CPU, final order of the rows; None means unchanged.
        masks: (num, 1, H, W) float32 in [0, 1], masks of the counterfactuals, if known.
    """

    num_real: int
    num: int
    keep: Tensor | None = None
    order: Tensor | None = None
    masks: Tensor | None = None

    def place(self, path: Path, value: Any, fill: Any = None) -> Any:
        """Returns a further value of a batch with its rows for this step.

        A value is a tensor or list with one entry per real image, or a dict, list or tuple of such
        values; anything else stays as it is. By default counterfactuals get -1 in a column of
        signed integers (an index) and None in a list (paths), which mean "none". Any other column
        needs a value in `fill`.

        Args:
            path: keys or positions that lead to the value, for errors.
            value: the value itself.
            fill: what counterfactuals get: for a tensor a number, a tensor with one row, or `MASK`;
                for a list anything; for a dict, list or tuple the values of its parts, by key or
                position.

        Raises:
            DataError: a column has no known value for counterfactuals, or the mask does not fit it.
            ArgumentError: the column cannot hold the value in `fill`.
            ArgumentTypeError: `fill` gives one value for something that has several parts.
        """
        if isinstance(value, Tensor):
            return self._place_tensor(path, value, fill) if self._has_rows(value) else value
        if isinstance(value, Mapping):
            inner = _inner(path, fill)
            placed = {key: self.place((*path, key), v, inner.get(key)) for key, v in value.items()}
            return placed if type(value) is dict else type(value)(placed)  # type: ignore[call-arg]
        if not isinstance(value, (list, tuple)):
            return value
        columns = bool(value) and all(self._has_rows(part) for part in value)
        if len(value) == self.num_real and not columns:
            return type(value)(self._place_list(value, fill))
        inner = _inner(path, fill)
        parts = [self.place((*path, i), part, inner.get(i)) for i, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)

    def _has_rows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.num_real

    def _place_list(self, value: Sequence[Any], fill: Any) -> list[Any]:
        kept = value if self.keep is None else [value[i] for i in self.keep.tolist()]
        rows = [*kept, *[fill] * self.num]
        return rows if self.order is None else [rows[i] for i in self.order.tolist()]

    def _place_tensor(self, path: Path, value: Tensor, fill: Any) -> Tensor:
        kept = value if self.keep is None else value[self.keep.to(value.device)]
        if self.num:
            kept = torch.cat([kept, self._made(path, value, fill)])
        return kept if self.order is None else kept[self.order.to(kept.device)]

    def _made(self, path: Path, value: Tensor, fill: Any) -> Tensor:
        """Returns the values of the counterfactuals in this column."""
        shape = (self.num, *value.shape[1:])
        if isinstance(fill, str):
            return self._masks_for(path, value, fill)
        if fill is not None:
            return _as_row(path, value, fill).expand(shape)
        if value.dim() == 1 and value.dtype.is_signed and not value.is_floating_point():
            return value.new_full(shape, -1)
        raise DataError(
            f"{_name(path)} is {tuple(value.shape)} {value.dtype}, and nobody knows what "
            f"counterfactuals have there: pass {_fill(path, 'value')} with what they get (1.0 for "
            f'a weight; "{MASK}" where it holds masks and the source knows them), or leave it out '
            "of the batch"
        )

    def _masks_for(self, path: Path, value: Tensor, fill: str) -> Tensor:
        if fill != MASK:
            raise ArgumentError(
                f"{_fill(path, repr(fill))}: a column of numbers gets a number, a tensor or "
                f'"{MASK}"'
            )
        if self.masks is None:
            raise DataError(
                f"{_name(path)} is to hold the masks of counterfactuals, and the source gives "
                "none: use a source that knows them (Counterfactuals(mask=…)), pass "
                f"{_fill(path, '0.0')}, or leave it out of the batch"
            )
        if value.dim() not in (3, 4) or (value.dim() == 4 and value.shape[1] != 1):
            raise DataError(
                f"{_name(path)} has rows of {tuple(value.shape[1:])}, and is to hold masks: they "
                "must be (B, 1, H, W) or (B, H, W)"
            )
        masks = self.masks
        if masks.shape[-2:] != value.shape[-2:]:
            size = (value.shape[-2], value.shape[-1])
            masks = resize_images(masks, size).clamp(0, 1)
        masks = masks if value.dim() == 4 else masks[:, 0]
        if value.dtype == torch.bool:
            return (masks > 0.5).to(value.device)
        if value.dtype == torch.uint8:  # as in masks/finding.py, 255 is object
            return (masks * 255).round().to(value.device, torch.uint8)
        if not value.is_floating_point():
            raise DataError(
                f"{_name(path)} holds {value.dtype}: make the dataset's masks bool, uint8 of 0 to "
                "255, or float in [0, 1]"
            )
        return masks.to(value.device, value.dtype)


def check_fill(fill: object) -> dict[str | int, Any]:
    """Returns the argument `fill` as a dict.

    Raises:
        ArgumentTypeError: it is not a mapping of keys or positions.
    """
    if fill is None:
        return {}
    if not isinstance(fill, Mapping) or not all(isinstance(key, (str, int)) for key in fill):
        raise ArgumentTypeError(
            'fill must be {key or position: value}, such as {"weight": 1.0} or {2: 1.0}, got '
            f"{fill!r}"
        )
    return dict(fill)


def check_columns(
    batch: Any, fill: Mapping[str | int, Any], taken: Sequence[str | int]
) -> dict[str | int, Any]:
    """Returns `fill` with positions counted from the front.

    Args:
        batch: a real batch.
        fill: by key or position.
        taken: keys or positions of images and labels.

    Raises:
        ArgumentError: it names something that the batch lacks, or the images or labels.
    """
    there: list[Any] = list(batch) if isinstance(batch, Mapping) else list(range(len(batch)))
    found = {}
    for key, value in fill.items():
        place = key
        if not isinstance(batch, Mapping) and isinstance(key, int) and key < 0:
            place = key + len(batch)
        if place in taken:
            raise ArgumentError(
                f"fill names {key!r}, where images or labels are: it is for what else there is"
            )
        if place not in there:
            raise ArgumentError(f"fill names {key!r}, and the batch has {there}")
        found[place] = value
    return found


def asks_for_masks(fill: Any) -> bool:
    """Whether `fill` asks for masks anywhere."""
    if isinstance(fill, Mapping):
        return any(asks_for_masks(part) for part in fill.values())
    return isinstance(fill, str) and fill == MASK


def _inner(path: Path, fill: Any) -> Mapping[Any, Any]:
    if fill is None:
        return {}
    if not isinstance(fill, Mapping):
        raise ArgumentTypeError(
            f"{_fill(path, repr(fill))}: {_name(path)} has several parts; say what each gets, "
            "{key or position: value}"
        )
    return fill


def _as_row(path: Path, value: Tensor, fill: Any) -> Tensor:
    """Returns the value of a counterfactual in a column, as one row of it."""
    try:
        row = torch.as_tensor(fill)
        made = row.to(value.device, value.dtype).expand(value.shape[1:])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"{_fill(path, repr(fill))} is no row of {_name(path)}, which has rows of "
            f"{tuple(value.shape[1:])} {value.dtype}: {error}"
        ) from error
    exact = value.is_floating_point() or bool((made.cpu().to(row.dtype) == row).all())
    if not exact:
        raise ArgumentError(
            f"{_fill(path, repr(fill))}: {_name(path)} is {value.dtype} and cannot hold that"
        )
    return made


def _name(path: Path) -> str:
    return "batch" + "".join(f"[{key!r}]" for key in path)


def _fill(path: Path, value: str) -> str:
    """Returns the code that gives a value to the column at `path`."""
    for key in reversed(path):
        value = f"{{{key!r}: {value}}}"
    return f"fill={value}"
