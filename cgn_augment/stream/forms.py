"""Checks the form of real images, labels and counterfactuals, and says how to correct it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cgn_augment.errors import DataError


def require_images(images: Tensor, batch: Any) -> None:
    """Raises `DataError` unless images are (B, 3, H, W) float, with B above 0."""
    shape = tuple(images.shape)
    got = f"real images must be (B, 3, H, W), got {shape}"
    if images.dim() == 4 and images.shape[1] != 3:
        if images.shape[-1] in (1, 3, 4):
            raise DataError(
                f"{got}, channels last: move them to the front with ToTensor (v2.ToImage) in the "
                "dataset, or images.permute(0, 3, 1, 2)"
            )
        if images.shape[1] == 1:
            raise DataError(
                f"{got}, grey: end the dataset's transform with v2.RGB() (Grayscale(3) for "
                "PIL images), as the counterfactuals have three channels"
            )
        if images.shape[1] == 4:
            raise DataError(f"{got}: RGBA or CMYK; open images with .convert('RGB') in the dataset")
        raise DataError(f"{got}: counterfactuals are RGB and mix with RGB images alone")
    if images.dim() != 4:
        place = _find_places(batch)
        if place is not None:
            raise DataError(
                f"what is taken for images is {shape} {images.dtype}, and the batch has images and "
                f"labels elsewhere: pass keys={place}"
            )
        if images.dim() == 3:
            raise DataError(
                f"{got}: one image without a batch, or grey images without a channel; batch "
                "them, and give each three channels (v2.RGB() behind ToTensor)"
            )
        if images.dim() == 5:
            raise DataError(
                f"{got}: several crops, views or frames of each; flatten them into the batch "
                "(images.flatten(0, 1), with as many labels) before the stream"
            )
        raise DataError(f"{got}: say where images and labels are with keys=(image, label)")
    if not images.is_floating_point():
        raise DataError(
            f"real images must be floating point, got {images.dtype}: scale them in the dataset "
            "(ToTensor, Normalize), as the classifier sees them"
        )
    if len(images) == 0:
        raise DataError(
            "a batch of 0 images: let the loader's collate_fn, sampler or filter leave out batches "
            "that have none"
        )


def require_labels(labels: Tensor, num: int) -> None:
    """Raises `DataError` unless labels are (num,) integers."""
    got = f"real labels must be ({num},) integers, got {tuple(labels.shape)} {labels.dtype}"
    if labels.dim() == 2 and labels.shape == (num, 1):
        raise DataError(
            f"{got}: a column of labels; let the dataset return one number for each image, or "
            "labels.squeeze(1)"
        )
    if labels.dim() == 2 and len(labels) == num:
        values = labels.double()
        if torch.allclose(values.sum(1), torch.ones(num, dtype=torch.float64).to(values.device)):
            raise DataError(
                f"{got}, rows that sum to 1: let the dataset return the number of the class, and "
                "make soft labels (mixup, one-hot, smoothing) after the stream"
            )
        raise DataError(
            f"{got}, several labels for each image: a counterfactual has one shape, texture and "
            "background, so keys=(image, label) must name one label; put the others beside it and "
            "say with fill what counterfactuals have there"
        )
    if labels.dim() != 1:
        raise DataError(
            f"{got}: masks, boxes or several labels for each image; the stream is for "
            "classification, and keys=(image, label) must name one number for each image"
        )
    if len(labels) != num:
        raise DataError(
            f"{got}: images and labels differ in number; look at the collate_fn, or say where "
            "images and labels are with keys=(image, label)"
        )
    if labels.is_floating_point() and bool((labels == labels.round()).all()):
        raise DataError(
            f"{got}: classes as floats; let the dataset return int(label), or labels.long()"
        )
    if labels.is_floating_point():
        raise DataError(
            f"{got}: measurements and no classes; the stream is for classification, so make "
            "classes of them, or put them beside a label and say with fill what counterfactuals "
            "have there"
        )
    if labels.dtype == torch.bool:
        raise DataError(
            f"{got}: there is no room for more than two classes; let the dataset return "
            "int(label), or labels.long()"
        )
    if labels.is_complex():
        raise DataError(got)


def require_same_form(made: Tensor, real: Tensor, transform: object) -> None:
    """Raises `DataError` unless counterfactuals (N, 3, H, W) have the form of the real images."""
    if made.shape[1:] == real.shape[1:]:
        return
    height, width = real.shape[-2:]
    size = str(height) if height == width else f"({height}, {width})"
    text = (
        f"counterfactuals arrive as {tuple(made.shape[1:])} and real images as "
        f"{tuple(real.shape[1:])}: "
    )
    if made.dim() != 4 or made.shape[1] != 3:
        raise DataError(f"{text}the source and the transform must give (N, 3, H, W)")
    if transform is None:
        raise DataError(
            f"{text}pass transform=match_real(mean, std, size={size}), or resize the real images"
        )
    if getattr(transform, "size", 0) is None:
        raise DataError(f"{text}pass match_real size={size}")
    raise DataError(
        f"{text}let transform make images of {size} (match_real(mean, std, size={size})), and the "
        "dataset's transform bring all real images to that size"
    )


def _find_places(batch: Any) -> tuple[str | int, str | int] | None:
    """Returns where in a batch images and labels are, if that is unambiguous."""
    items: Iterable[tuple[Any, Any]] = (
        batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    )
    tensors = [(key, value) for key, value in items if isinstance(value, Tensor)]
    images = [(key, x) for key, x in tensors if x.dim() == 4 and x.is_floating_point()]
    if not images:
        return None
    at, found = images[0]
    labels = [
        key
        for key, y in tensors
        if y.shape == (len(found),) and not y.is_floating_point() and key != "index"
    ]
    # (index, image, label): the label comes after the image; (label, image): it is the only one.
    behind = [key for key in labels if isinstance(at, int) and key > at]
    chosen = behind or labels
    return (at, chosen[0]) if chosen else None
