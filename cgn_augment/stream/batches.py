"""Takes batches of any usual structure apart and puts them together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cgn_augment.errors import DataError
from cgn_augment.types import FACTORS, MixedBatch

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")


@dataclass(frozen=True)
class Layout:
    """Where the images and labels of a batch are.

    Attributes:
        image: key or position of the images.
        label: key or position of the labels.
    """

    image: str | int
    label: str | int

    def take(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns the images and labels of a batch.

        Raises:
            DataError: they are not there, or are not tensors.
        """
        try:
            images, labels = batch[self.image], batch[self.label]
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"the batch has nothing at {self.image!r} and {self.label!r}; it is "
                f"{describe(batch)}"
            ) from error
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise DataError(
                f"images and labels must be tensors, got {describe(batch)}: let the dataset return "
                "tensors, or pass keys=(image, label)"
            )
        return images, labels

    def move(self, batch: Any, device: torch.device) -> Any:
        """Returns the batch with images and labels on `device`; itself if they are there."""
        images, labels = self.take(batch)
        if images.device == device and labels.device == device:
            return batch

        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        return self.rebuild(batch, images, labels, lambda value: value)

    def rebuild(
        self, batch: Any, images: Tensor, labels: Tensor, further: Callable[[Any], Any]
    ) -> Any:
        """Returns a batch of the same structure, with `further(value)` for its other values."""
        given = {self.image: images, self.label: labels}

        def part(key: Any, value: Any) -> Any:
            return given[key] if key in given else further(value)

        if isinstance(batch, Mapping):
            values = {key: part(key, value) for key, value in batch.items()}
            return values if type(batch) is dict else type(batch)(values)  # type: ignore[call-arg]
        parts = [part(index, value) for index, value in enumerate(batch)]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def find_layout(batch: Any, keys: tuple[str | int, str | int] | None) -> Layout:
    """Finds where images and labels are in a real batch: at `keys`, or at the usual places.

    Raises:
        DataError: the structure is not known.
    """
    if keys is not None:
        layout = Layout(*keys)
        layout.take(batch)
        return layout
    if isinstance(batch, Mapping):
        image = next((key for key in IMAGE_KEYS if key in batch), None)
        label = next((key for key in LABEL_KEYS if key in batch), None)
        if image is not None and label is not None:
            return Layout(image, label)
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return Layout(0, 1)
    raise DataError(
        f"the structure of the batch is unknown: it is {describe(batch)}. Expected (images, "
        "labels, …) or a dict with an image and a label; say where they are with keys=(image, "
        "label)"
    )


def describe(batch: Any) -> str:
    """Says in a few words what a batch is made of."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {list(batch)}"
    if isinstance(batch, (tuple, list)):
        kinds = ", ".join(type(value).__name__ for value in batch[:4])
        return f"a {type(batch).__name__} of {len(batch)} ({kinds})"
    return f"a {type(batch).__name__}"


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raises `DataError` unless images are (B, 3, H, W) float and labels (B,) integers."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise DataError(
            f"real images must be (B, 3, H, W), got {tuple(images.shape)}: give the dataset a "
            "transform to RGB tensors"
        )
    if not images.is_floating_point():
        raise DataError(
            f"real images must be floating point, got {images.dtype}: scale them in the dataset "
            "(ToTensor, Normalize), as the classifier sees them"
        )
    if labels.dim() != 1 or len(labels) != len(images) or labels.is_floating_point():
        raise DataError(
            f"real labels must be ({len(images)},) integers, got {tuple(labels.shape)} "
            f"{labels.dtype}: mix soft labels (mixup, one-hot) after the stream"
        )


_SLACK = 1e-3
"""Share of the range by which rounding may leave it."""


def check_range(
    what: str, images: Tensor, value_range: tuple[float, float], least_share: float = 0
) -> None:
    """Raises `DataError` unless images lie in the range, and fill more than a share of it."""
    low, high = value_range
    slack = _SLACK * (high - low)
    least, most = float(images.min()), float(images.max())
    inside = low - slack <= least and most <= high + slack  # False for NaN
    if not inside or (least_share and most - least <= least_share * (high - low) + slack):
        raise DataError(
            f"{what} span [{least:.3g}, {most:.3g}] but images are declared to be in "
            f"[{low:.3g}, {high:.3g}]: pass transform=match_real(mean, std) with the mean and std "
            "of your Normalize (0 and 1 for plain ToTensor), or value_range=None if this is right"
        )


def pad_extra(value: Any, num_real: int, num: int, keep: Tensor | None) -> Any:
    """Extends a further value of a batch (an index, a path) by `num` places for counterfactuals.

    Integers get −1 (unsigned ones 0), floats NaN, booleans False, lists None: a counterfactual has
    no such value.

    A value is a tensor or list with one entry for each of `num_real` images, or a dict, list or
    tuple of such; anything else stays as it is. `keep` (K,) int64 are the places of the real images
    that stay, or None for all.
    """
    if isinstance(value, Tensor):
        return _pad_tensor(value, num, keep) if _has_rows(value, num_real) else value
    if isinstance(value, Mapping):
        return {key: pad_extra(part, num_real, num, keep) for key, part in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    columns = bool(value) and all(_has_rows(part, num_real) for part in value)
    if len(value) == num_real and not columns:
        kept = list(value) if keep is None else [value[i] for i in keep.tolist()]
        return type(value)(kept + [None] * num)
    parts = [pad_extra(part, num_real, num, keep) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _has_rows(value: Any, num: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == num


def _pad_tensor(value: Tensor, num: int, keep: Tensor | None) -> Tensor:
    value = value if keep is None else value[keep.to(value.device)]
    blank = float("nan") if value.is_floating_point() else -int(value.dtype.is_signed)
    return torch.cat([value, value.new_full((num, *value.shape[1:]), blank)])


def describe_rows(
    images: Tensor, factors: list[Tensor], rows: Tensor, label: str, made: bool
) -> MixedBatch:
    """Describes images that show these classes of the factors, and the shapes of these rows."""
    chosen = torch.stack(factors, dim=1) if label == "all" else factors[FACTORS.index(label)]
    truth = torch.full((len(images),), made, device=images.device)
    shape, texture, background = factors
    return MixedBatch(images, chosen, truth, shape, texture, background, rows)


def follow_rows(rows: Tensor, keep: Tensor, num_real: int) -> Tensor:
    """Returns where rows (N,) of a batch are once only those in `keep` stay; -1 for the others."""
    places = torch.full((num_real + 1,), -1, dtype=torch.int64, device=rows.device)
    places[keep] = torch.arange(len(keep), device=rows.device)
    return places[rows]  # -1 is the last one


def append_rows(first: MixedBatch, second: MixedBatch) -> MixedBatch:
    """Puts the rows of one batch behind those of another; copies nothing where one is empty."""
    if len(first.image) == 0 or len(second.image) == 0:
        return second if len(first.image) == 0 else first
    return MixedBatch(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
