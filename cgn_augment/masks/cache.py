"""Remembers the masks of a dataset's items, so that each is found once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgn_augment.errors import DataError

LEVELS = 255
"""Masks are rounded to so many levels, whether they are kept or not."""

_TOLERANCE = 1e-3


def round_masks(masks: Tensor) -> Tensor:
    """Rounds masks in [0, 1] to what a byte can hold."""
    return (masks * LEVELS).round_().div_(LEVELS)


class MaskCache:
    """Keeps masks by the index of the item, a byte a pixel, until its memory is full.

    Of each item a random projection is kept too: if the item looks different the next time, its
    mask would not fit it.

    Args:
        max_bytes: memory for masks; what comes later is found anew each time.
        device: where they are kept.

    Example:
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
        self._slots = torch.empty(0, dtype=torch.int64)  # of an item; -1 for none
        self._masks: Tensor | None = None
        self._marks = torch.empty(0)
        self._weights: Tensor | None = None
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def masks_of(self, images: Tensor, index: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns masks of images, of which those that are not kept are found.

        Args:
            images: (N, 3, H, W) float32.
            index: (N,) int64 on the CPU, which items they are.
            find: takes some of the images to their masks (M, 1, H, W), already rounded.

        Returns:
            (N, 1, H, W) float32 on the images' device.

        Raises:
            DataError: an item looks different from when its mask was found.
        """
        marks = self._mark(images)
        self._grow_index(int(index.max()) + 1 if len(index) else 0)
        slots = self._slots[index]
        known = slots >= 0
        if self._masks is not None and known.any():
            self._check(marks, slots, known, index)
        if self._masks is not None and known.all():
            return self._read(slots).to(images.device)
        unknown = (~known).nonzero().flatten()
        found = find(images[unknown.to(images.device)])
        self._keep(index[unknown], found, marks[unknown])
        if len(unknown) == len(images):
            return found
        masks = torch.empty(len(images), *found.shape[1:], device=images.device)
        masks[unknown.to(images.device)] = found
        kept = known.nonzero().flatten()
        masks[kept.to(images.device)] = self._read(slots[kept]).to(images.device)
        return masks

    def _mark(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if self._weights is None or self._weights.shape[0] != flat.shape[1]:
            generator = torch.Generator().manual_seed(0)
            weights = torch.randn(flat.shape[1], generator=generator) / flat.shape[1] ** 0.5
            self._weights = weights.to(images.device)
        return (flat @ self._weights).cpu()

    def _check(self, marks: Tensor, slots: Tensor, known: Tensor, index: Tensor) -> None:
        changed = known & ((marks - self._marks[slots.clamp(min=0)]).abs() > _TOLERANCE)
        if changed.any():
            raise DataError(
                f"item {int(index[changed][0])} looks different from when its mask was cached: "
                "cache_masks is for datasets without random transforms; move them behind the "
                "stream, or leave cache_masks out"
            )

    def _read(self, slots: Tensor) -> Tensor:
        if self._masks is None:  # pragma: no cover - a slot is only given with masks
            raise RuntimeError("the cache is empty")
        return self._masks[slots.to(self.device)].float().div_(LEVELS)

    def _grow_index(self, size: int) -> None:
        if size > len(self._slots):
            more = torch.full((max(size, 2 * len(self._slots)) - len(self._slots),), -1)
            self._slots = torch.cat([self._slots, more])

    def _keep(self, index: Tensor, found: Tensor, marks: Tensor) -> None:
        capacity = self.max_bytes // found[0].numel()
        first = torch.zeros(len(index), dtype=torch.bool)  # an item may come twice in a batch
        first[[*{int(item): place for place, item in enumerate(index)}.values()]] = True
        places = first.nonzero().flatten()[: capacity - self._num]
        if len(places) == 0:
            return
        end = self._num + len(places)
        if self._masks is None or end > len(self._masks):
            size = min(capacity, max(end, 2 * self._num, 1024))
            masks = torch.empty(size, *found.shape[1:], dtype=torch.uint8, device=self.device)
            numbers = torch.empty(size)
            if self._masks is not None:
                masks[: self._num], numbers[: self._num] = (
                    self._masks[: self._num],
                    self._marks[: self._num],
                )
            self._masks, self._marks = masks, numbers
        chosen = found[places.to(found.device)]
        self._masks[self._num : end] = (chosen * LEVELS).round().to(torch.uint8).to(self.device)
        self._marks[self._num : end] = marks[places]
        self._slots[index[places]] = torch.arange(self._num, end)
        self._num = end
