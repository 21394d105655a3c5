"""Takes batches of any common structure apart and puts them together again."""

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

Columns = tuple[Tensor, ...]
"""Images and labels of a batch, alone or followed by the other columns of `MixedBatch`."""

_REFERENCES = MixedBatch._fields.index("real_index")


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
            DataError: they are missing, or are not tensors.
        """
        try:
            images, labels = batch[self.image], batch[self.label]
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"the batch has nothing at {self.image!r} and {self.label!r}; it is "
                f"{describe(batch)}"
            ) from error
        if isinstance(images, Tensor) and images.dim() == 3 and isinstance(labels, int):
            raise DataError(
                f"an item of the real data is one image {tuple(images.shape)} and its label, and "
                "no batch: pass batch_size, or a DataLoader of it"
            )
        if _holds_tensors(images):
            raise DataError(
                f"there are {len(images)} tensors of images: several views or crops of each image; "
                "let the dataset return one as the image, and make further views after the stream"
            )
        if _holds_tensors(labels):
            raise DataError(
                f"there are {len(labels)} tensors of labels: let the dataset return the label that "
                "counterfactuals are to have by itself, and the others beside it"
            )
        if not isinstance(images, Tensor):
            raise DataError(
                f"images must be tensors, got {_describe_value(images)}: end the dataset's "
                "transform with ToTensor (v2.ToImage, v2.ToDtype), let the collate_fn stack them "
                "(torch.from_numpy for arrays), or say where images are with keys=(image, label)"
            )
        if not isinstance(labels, Tensor):
            raise DataError(
                f"labels must be integers, one for each image, in a tensor; got "
                f"{_describe_value(labels)}: the stream is for classification, so let the dataset "
                "return the number of the class (names of classes as numbers), or say where labels "
                "are with keys=(image, label)"
            )
        return images, labels

    def move(self, batch: Any, device: torch.device) -> Any:
        """Returns the batch with images and labels on `device`; unchanged if they are there."""
        images, labels = self.take(batch)
        if images.device == device and labels.device == device:
            return batch

        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        return self.rebuild(batch, images, labels, lambda _, value: value)

    def rebuild(
        self, batch: Any, images: Tensor, labels: Tensor, further: Callable[[Any, Any], Any]
    ) -> Any:
        """Returns a batch of the same structure; `further(key, value)` makes its other values."""
        given = {self.image: images, self.label: labels}

        def part(key: Any, value: Any) -> Any:
            return given[key] if key in given else further(key, value)

        if isinstance(batch, Mapping):
            values = {key: part(key, value) for key, value in batch.items()}
            return values if type(batch) is dict else type(batch)(values)  # type: ignore[call-arg]
        parts = [part(index, value) for index, value in enumerate(batch)]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def find_layout(batch: Any, keys: tuple[str | int, str | int] | None) -> Layout:
    """Finds images and labels in a real batch: at `keys`, or at the usual places.

    Raises:
        DataError: the structure is unknown.
    """
    if keys is not None:
        layout = Layout(*keys)
        layout.take(batch)
        if isinstance(batch, Mapping):
            return layout
        places = [key % len(batch) if isinstance(key, int) else key for key in keys]
        return Layout(*places)
    if isinstance(batch, Mapping):
        image = next((key for key in IMAGE_KEYS if key in batch), None)
        label = next((key for key in LABEL_KEYS if key in batch), None)
        if image is not None and label is not None:
            return Layout(image, label)
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return Layout(0, 1)
    alone = isinstance(batch, Tensor) or (
        isinstance(batch, (tuple, list)) and len(batch) == 1 and isinstance(batch[0], Tensor)
    )
    raise DataError(
        f"the structure of the batch is unknown: it is {describe(batch)}"
        + (
            ", images alone, without labels: let the dataset return (image, label)"
            if alone
            else ". Expected (images, labels, …) or a dict with an image and a label; say where "
            "they are with keys=(image, label), or let the collate_fn put them there"
        )
    )


def describe(batch: Any) -> str:
    """Returns a short text that says what a batch consists of."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {list(batch)}"
    if isinstance(batch, (tuple, list)):
        kinds = ", ".join(type(value).__name__ for value in batch[:4])
        return f"a {type(batch).__name__} of {len(batch)} ({kinds})"
    return f"a {type(batch).__name__}"


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and isinstance(value[0], Tensor)


def _describe_value(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, (tuple, list)) and value:
        return f"a {kind} of {type(value[0]).__name__}"
    return f"a {kind}"


def choose_labels(factors: list[Tensor], label: str, dtype: torch.dtype) -> Tensor:
    """Returns the classes of the factor `label`, (N,), or of all three, (N, 3), as `dtype`."""
    chosen = torch.stack(factors, dim=1) if label == "all" else factors[FACTORS.index(label)]
    return chosen.to(dtype)


def describe_rows(
    images: Tensor, factors: list[Tensor], rows: Tensor, label: str, dtype: torch.dtype, made: bool
) -> MixedBatch:
    """Describes images by the classes of their factors and the rows of their shapes.

    Labels have type `dtype`. Factors are int64, which has room for -1.
    """
    truth = torch.full((len(images),), made, device=images.device)
    shape, texture, background = (classes.long() for classes in factors)
    chosen = choose_labels(factors, label, dtype)
    return MixedBatch(images, chosen, truth, shape, texture, background, rows)


def follow_rows(rows: Tensor, keep: Tensor, num_real: int) -> Tensor:
    """Maps rows (N,) of a batch to their new rows once only `keep` stays; -1 if they are gone."""
    places = torch.full((num_real + 1,), -1, dtype=torch.int64, device=rows.device)
    places[keep] = torch.arange(len(keep), device=rows.device)
    return places[rows]  # row -1 reads the last entry


def is_channels_last(images: Tensor) -> bool:
    """Whether images (B, C, H, W) are stored channels last."""
    beside = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    return beside and not images.is_contiguous()


def as_stored(made: Tensor, images: Tensor) -> Tensor:
    """Returns counterfactual images in the type and memory format of the real ones."""
    kept = torch.channels_last if is_channels_last(images) else torch.preserve_format
    return made.to(images.dtype, memory_format=kept)


def empty_like_rows(images: Tensor, num: int) -> Tensor:
    """Returns memory for `num` images in the type and memory format of others."""
    kept = torch.channels_last if is_channels_last(images) else torch.contiguous_format
    shape = num, *images.shape[1:]
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=kept)


def append_rows(first: Columns, second: Columns, room: Tensor | None = None) -> Columns:
    """Appends the rows of one batch to those of another; copies nothing if one is empty.

    The result has the type and memory format of the first. Each image is written once; the second's
    images are not copied if they are already the last rows of `room`.
    """
    (images, *others), (made, *further) = first, second
    num = len(images)
    if num == 0 or len(made) == 0:
        return second if num == 0 else first
    if room is None or made.data_ptr() != room[num:].data_ptr():
        room = empty_like_rows(images, num + len(made))
        room[num:] = made
    room[:num] = images
    return room, *(torch.cat(pair) for pair in zip(others, further, strict=True))


def reorder_rows(columns: Columns, order: Tensor) -> Columns:
    """Puts the rows of a batch into an order (B,) and updates the references to rows, if any."""
    order = order.to(columns[0].device, non_blocking=True)
    moved = tuple(column[order] for column in columns)
    if len(moved) <= _REFERENCES:
        return moved
    places = torch.full((len(order) + 1,), -1, dtype=torch.int64, device=order.device)
    places[order] = torch.arange(len(order), device=order.device)
    mixed = MixedBatch(*moved)
    return mixed._replace(real_index=places[mixed.real_index])  # row -1 reads the last entry
