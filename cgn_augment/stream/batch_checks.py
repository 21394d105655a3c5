"""Checks the values of batches: labels that have a class, images in the declared range."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.stream.batches import Layout
from cgn_augment.stream.forms import require_images, require_labels

ENOUGH = 8
"""Images whose range is checked together; a single one may well be dark or bright."""

_SLACK = 1e-3
"""How far rounding may take values out of the range, as a share of it."""

_NEAR = 0.05
"""How far interpolation may take images in [0, 1] out of that range."""

Range = tuple[float, float]


@dataclass(eq=False)
class BatchChecker:
    """Checks real batches before counterfactuals are mixed in.

    The form is checked in each step. Values are checked in each step if the batch arrives on the
    CPU, as it does from a loader, even if it then moves to a GPU: labels below 0 or beyond the
    CGN's classes, and images that are not finite. Reading a batch that arrives on a GPU would stall
    the host, so there only the first batches are checked, until `ENOUGH` images were seen. The same
    first images are checked against the range.

    Args:
        value_range: range that images must be in, or None if unknown.
        num_classes: classes of the CGN if labels are its classes; None if unknown, or if a class
            map says which labels have one.
    """

    value_range: Range | None
    num_classes: int | None
    _seen: int = field(default=0, init=False)
    _least: float = field(default=float("inf"), init=False)
    _most: float = field(default=float("-inf"), init=False)

    def check(self, batch: Any, layout: Layout) -> None:
        """Checks a batch.

        Raises:
            DataError: it has a wrong form or impossible values.
            ArgumentError: the CGN has no class for a label.
        """
        images, labels = self.check_form(batch, layout)
        first = self._seen < ENOUGH
        if first or labels.device.type == "cpu":
            self._look_at_labels(labels)
        if first or images.device.type == "cpu":
            self._look_at_images(images)

    def check_form(self, batch: Any, layout: Layout) -> tuple[Tensor, Tensor]:
        """Returns images and labels of a batch; raises `DataError` if their form is wrong."""
        images, labels = layout.take(batch)
        require_images(images, batch)
        require_labels(labels, len(images))
        return images, labels

    def _look_at_labels(self, labels: Tensor) -> None:
        least, most = span(labels.long())
        if least < 0:
            raise DataError(
                f"the real data has label {least}: labels must be 0 or more. Leave images without "
                "a label out of the dataset, and give ignore_index to labels after the stream"
            )
        if self.num_classes is None or most < self.num_classes:
            return
        hint = "pass class_map={label: class, …}"
        if least > 0 and most == self.num_classes:
            hint = "labels that count from 1 want a target_transform that takes 1 off; or " + hint
        raise ArgumentError(
            f"the real data has label {most} and the CGN only the classes 0 to "
            f"{self.num_classes - 1}: {hint}"
        )

    def _look_at_images(self, images: Tensor) -> None:
        least, most = span(images)
        if not (abs(least) < float("inf") and abs(most) < float("inf")):  # also for NaN
            wrong = ~images.isfinite().flatten(1).all(dim=1)
            raise DataError(
                f"{int(wrong.sum())} of {len(images)} real images hold NaN or infinity (row "
                f"{int(wrong.nonzero()[0])} is the first): look for a damaged file, or a division "
                "by 0 in the dataset's transforms"
            )
        if self._seen >= ENOUGH:
            return
        self._seen += len(images)
        self._least, self._most = min(self._least, least), max(self._most, most)
        if self.value_range is not None:
            require_range("real images", self._least, self._most, self.value_range, images.dtype)
            if self._seen >= ENOUGH:
                require_no_other_scale(self._least, self._most, self.value_range)


def span(given: Tensor) -> tuple[float, float]:
    """Returns the smallest and the greatest value, or NaN if there is one; integers of integers.

    Reads values in memory order. Any other order, as for channels-last images, takes fifteen times
    as long.

    Examples:
        >>> import torch
        >>> from cgn_augment.stream.batch_checks import span
        >>> span(torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last))
        (0.0, 23.0)
    """
    values = given.detach()
    if not values.is_contiguous():
        values = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    least, most = torch.aminmax(values)
    if values.device.type == "cpu":
        return least.item(), most.item()
    low, high = torch.stack((least, most)).tolist()  # one wait instead of two
    return low, high


def require_range(
    what: str, least: float, most: float, value_range: Range, dtype: torch.dtype, remedy: str = ""
) -> None:
    """Raises `DataError` unless values lie in a range, up to the rounding of `dtype`."""
    low, high = value_range
    # Mean, std and result are each rounded.
    rounding = 4 * torch.finfo(dtype).eps * max(abs(low), abs(high))
    slack = _SLACK * (high - low) + rounding
    if low - slack <= least and most <= high + slack:  # False for NaN
        return
    raise DataError(
        f"{what} span [{least:.4g}, {most:.4g}] but images are declared to be in "
        f"[{low:.4g}, {high:.4g}]: {remedy or _advise(least, most, value_range)}"
    )


def require_made_range(images: Tensor, value_range: Range, transform: object) -> None:
    """Raises `DataError` unless counterfactuals are in the range of the real images."""
    least, most = span(images)
    remedy = ""
    if transform is not None:
        remedy = (
            "a source gives images in [-1, 1], and transform brings them to where the real ones "
            "are; look at both, or pass the value_range that is right"
        )
    elif value_range == (-1, 1):
        remedy = "a source must give images in [-1, 1]"
    require_range("counterfactuals", least, most, value_range, images.dtype, remedy)


def require_no_other_scale(least: float, most: float, value_range: Range) -> None:
    """Raises `DataError` if many images look as if they were on another scale.

    Dark or pale images on the right scale come close to black, the low end of the range. Images in
    [0, 1] never do if the range begins below 0. Images in [-1, 1] come close to both ends.
    """
    low, high = value_range
    found = None
    if least >= -_NEAR and most <= 1 + _NEAR and (low < -2 * _NEAR or high > 2):
        found = "[0, 1]", "transform=match_real(), as for plain ToTensor"
    elif abs(least + 1) < 0.01 and abs(most - 1) < 0.01 and (low < -1.1 or high > 1.1):
        found = "[-1, 1]", "transform=match_real(0.5, 0.5)"
    if found is not None:
        scale, remedy = found
        raise DataError(
            f"real images span [{least:.4g}, {most:.4g}] but images are declared to be in "
            f"[{low:.4g}, {high:.4g}], of which they never reach the ends. Either they are in "
            f"{scale}: then pass {remedy}, or Normalize them as declared. Or there is nothing "
            "darker and nothing brighter in them, and all is right: then pass value_range=None"
        )


def _advise(least: float, most: float, value_range: Range) -> str:
    right = "value_range=None if this is right (as with RandomErasing's random values)"
    if least >= 0 and most > 2 and value_range[1] < 128:
        return (
            "they look like bytes of 0 to 255; divide by 255 in the dataset (ToTensor, or "
            f"v2.ToDtype(torch.float32, scale=True)), or pass {right}"
        )
    return (
        "pass transform=match_real(mean, std) with the mean and std of your Normalize (0 and 1 for "
        f"plain ToTensor, 0.5 and 0.5 for [-1, 1]), or {right}"
    )
