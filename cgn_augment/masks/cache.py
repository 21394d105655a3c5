"""Caches the masks of a dataset's items, so that each is found once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgn_augment.errors import DataError

LEVELS = 255
"""Masks are rounded to this many levels, whether cached or not."""

_TOLERANCE = 1e-3


def round_masks(masks: Tensor) -> Tensor:
    """Rounds masks in [0, 1] to the 256 levels of a byte."""
    return (masks * LEVELS).round_().div_(LEVELS)


class MaskCache:
    """Keeps masks by dataset index, one byte per pixel, until its memory is full.

    It also keeps a random projection of each item: if the item looks different the next time, its
    mask would not fit.

    Args:
        max_bytes: memory for masks; later masks are found again each time.
        device: device for the masks.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.cache import MaskCache, round_masks
        >>> cache, images = MaskCache(2**20), torch.rand(4, 3, 8, 8)
        >>> find = lambda part: round_masks(part.mean(dim=1, keepdim=True))
        >>> first = cache.masks_of(images, torch.arange(4), find)
        >>> torch.equal(cache.masks_of(images, torch.arange(4), lambda part: None), first)
        True
    """

    def __init__(self, max_bytes: int, device: torch.device | str = "cpu") -> None:
        self.max_bytes, self.device = max_bytes, torch.device(device)
        self._kept: dict[int, tuple[Tensor, float]] = {}  # mask and projection of each item
        self._weights: Tensor | None = None

    def masks_of(self, images: Tensor, index: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns masks of images, and finds those that are not cached.

        Args:
            images: (N, 3, H, W) float32.
            index: (N,) int64 on the CPU, dataset indices of the images.
            find: maps some of the images to masks (M, 1, H, W), already rounded.

        Returns:
            (N, 1, H, W) float32 on the images' device.

        Raises:
            DataError: an item looks different than when its mask was found.
        """
        items, marks = index.tolist(), self._mark(images)
        for item, mark in zip(items, marks, strict=True):
            if item in self._kept and abs(mark - self._kept[item][1]) > _TOLERANCE:
                raise DataError(
                    f"item {item} looks different from when its mask was cached: cache_masks is "
                    "for datasets without random transforms; move them behind the stream, or leave "
                    "cache_masks out"
                )
        masks = {place: self._kept[y][0] for place, y in enumerate(items) if y in self._kept}
        unknown = [place for place in range(len(items)) if place not in masks]
        if unknown:
            found = (find(images[unknown]) * LEVELS).round().to(self.device, torch.uint8)
            masks.update(zip(unknown, found, strict=True))
            for place in unknown:
                if len(self._kept) < self.max_bytes // found[0].numel():
                    self._kept.setdefault(items[place], (masks[place], marks[place]))
        whole = torch.stack([masks[place] for place in range(len(items))])
        return whole.to(images.device).float().div_(LEVELS)

    def _mark(self, images: Tensor) -> list[float]:
        flat = images.flatten(1)
        if self._weights is None:  # all images have one size
            generator = torch.Generator().manual_seed(0)
            weights = torch.randn(flat.shape[1], generator=generator) / flat.shape[1] ** 0.5
            self._weights = weights.to(images.device)
        marks: list[float] = (flat @ self._weights).tolist()
        return marks
