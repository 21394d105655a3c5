"""Brings counterfactuals into the form of the user's real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cgn_augment.checks import require_channels, require_side
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import resize_images
from cgn_augment.stream.augmenting import Augmentation
from cgn_augment.types import Affine

Size = int | tuple[int, int]


class MatchReal(nn.Module):
    """The transform that makes counterfactuals look like the real images: `match_real(…)`.

    A module for `CounterfactualDataset(transform=…)`. Maps (N, 3, h, w) float32 in [-1, 1] to
    (N, 3, H, W) float32 in its `value_range`.

    Args:
        mean: of the `Normalize` at the end of the real pipeline, one value or three. The defaults
            give images in [0, 1], as from `ToTensor` alone; 0.5 and 0.5 give [-1, 1].
        std: of the same `Normalize`.
        size: of the real images in pixels: one number for squares, or (height, width).
            Counterfactuals are resized to it (bilinear, antialiased, as by torchvision's `Resize`);
            nothing is cropped.
        augment: a module for images in [0, 1] (flips, colour jitter …), applied first, at the
            source's own size. kornia's modules run on the whole batch; torchvision's run on each
            image separately. Its draws depend on (seed, epoch, rank, step) alone, and the global
            random generators stay untouched. Modules that blend images with one another (mixup,
            cutmix) are refused: apply them after the stream.
        resize: for a real pipeline that crops: images are first resized to this (one number for the
            shorter side, or (height, width)), then cropped to `size` at a random place, as by
            `Resize(256)` and `RandomCrop(224)`.

    Attributes:
        value_range: smallest and greatest value that an image can have.
        size: height and width in pixels, or None if the source's own size stays.

    Raises:
        ArgumentError: mean or std is not one or three numbers, mean is above 1, std or size is not
            above 0, resize is given without size or is smaller than it, or augment blends images or
            needs labels.
        ArgumentTypeError: mean, std or size is not a number, or augment cannot be called.

    Examples:
        >>> import torch
        >>> from cgn_augment import match_real
        >>> mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        >>> match_real(mean, std, size=224)(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 3, 224, 224])
        >>> match_real(mean, std, size=(48, 64))(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 3, 48, 64])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        size: Size | None = None,
        augment: nn.Module | None = None,
        *,
        resize: Size | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", require_channels("mean", mean), persistent=False)
        self.register_buffer("std", require_channels("std", std), persistent=False)
        if not (self.std > 0).all():
            raise ArgumentError(f"std must be above 0, got {std}")
        if (self.mean > 1).any():
            raise ArgumentError(
                f"mean must be of images in [0, 1], got {mean}: divide mean and std by 255 where "
                "they are of bytes; a size is size=…"
            )
        self.size = None if size is None else _pair("size", size)
        self.resize = tuple(resize) if isinstance(resize, list) else resize
        self._crop = None
        if resize is not None:
            _require_room(self.size, _pair("resize", resize))
            from kornia.augmentation import RandomCrop  # slow to import, and not always needed

            self._crop = RandomCrop(self.size)
        self.augment = augment  # a part of this module
        self._augmentation = None if augment is None else Augmentation("augment", augment)
        low, high = (0 - self.mean) / self.std, (1 - self.mean) / self.std
        self.value_range = (float(low.min()), float(high.max()))

    def forward(self, images: Tensor, *, overwrite: bool = False) -> Tensor:
        """Transforms a batch.

        Args:
            images: (N, 3, h, w) float32 in [-1, 1].
            overwrite: lets the result reuse the memory of the images, which saves time too.

        Returns:
            (N, 3, H, W) float32 in `value_range`.
        """
        if self._augmentation is not None:
            images, overwrite = self._augmentation(self._brought_to_0_1(images)), True
        made = self._resized(images)
        made = made if self._crop is None else self._crop(made)
        overwrite = overwrite or made is not images
        return self._normalized(made, overwrite, from_0=self._augmentation is not None)

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms a batch and moves its masks with the images.

        Args:
            images: (N, 3, h, w) float32 in [-1, 1].
            masks: (N, 1, h, w) float32 in [0, 1].

        Returns:
            What `forward` returns, and masks (N, 1, H, W) float32 in [0, 1].

        Raises:
            ArgumentError: it is unknown how the augmentation moves a mask.
        """
        images = self._brought_to_0_1(images)
        if self._augmentation is not None:
            images, masks = self._augmentation.with_masks(images, masks)
        images, masks = self._resized(images), self._resized(masks).clamp(0, 1)
        if self._crop is not None:
            images = self._crop(images)
            masks = self._crop(masks, params=self._crop._params)
        return self._normalized(images, True, from_0=True), masks

    def as_affine(self, height: int, width: int) -> Affine | None:
        """Returns all that happens to images of this size, if that is a map of each value alone.

        Args:
            height: of the images, in pixels.
            width: of the images, in pixels.

        Returns:
            The map from [-1, 1] to `value_range`, or None if images are resized, cropped or
            augmented.
        """
        changes = self._augmentation is not None or self.resize is not None
        if changes or self.size not in (None, (height, width)):
            return None
        scale, shift = (each.tolist() for each in self._scale_and_shift(from_0=False))
        return Affine(tuple(scale), tuple(shift))

    def _brought_to_0_1(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.to(images.device)
        return (images + 1) / 2

    def _resized(self, images: Tensor) -> Tensor:
        target = self.size if self.resize is None else self.resize
        if isinstance(target, int):  # the shorter side
            height, width = images.shape[-2:]
            short = min(height, width)
            target = target * height // short, target * width // short
        return images if target is None else resize_images(images, target)

    def _normalized(self, images: Tensor, overwrite: bool, *, from_0: bool) -> Tensor:
        """Normalizes images in [0, 1] (`from_0`) or [-1, 1], in place or in new memory."""
        if self.mean.device != images.device:
            self.to(images.device)
        scale, shift = (each[:, None, None] for each in self._scale_and_shift(from_0=from_0))
        return (images.mul_(scale) if overwrite else images * scale).add_(shift)

    def _scale_and_shift(self, *, from_0: bool) -> tuple[Tensor, Tensor]:
        """Returns the map (3,) of values in [0, 1] or in [-1, 1]."""
        scale, shift = 1 / self.std, -self.mean / self.std
        return (scale, shift) if from_0 else (scale / 2, shift + scale / 2)


def _pair(name: str, size: object) -> tuple[int, int]:
    """Returns height and width of a size; one number stands for both."""
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return require_side(name, size[0]), require_side(name, size[1])
    if isinstance(size, (tuple, list)):
        raise ArgumentError(f"{name} must be one number or (height, width), got {size!r}")
    return (require_side(name, size),) * 2


def _require_room(size: tuple[int, int] | None, resize: tuple[int, int]) -> None:
    if size is None:
        raise ArgumentError("resize is what a crop of size is taken from: pass size too")
    if resize[0] < size[0] or resize[1] < size[1]:
        raise ArgumentError(
            f"resize {resize} is smaller than size {size}, which is cropped from it: make it "
            "larger, or leave it out to resize without a crop"
        )


def as_transform(transform: Any) -> MatchReal | Augmentation:
    """Returns a user's `transform`, ready to run; see `Augmentation` for errors."""
    return transform if isinstance(transform, MatchReal) else Augmentation("transform", transform)


match_real = MatchReal
"""Lower-case alias, for `CounterfactualDataset(transform=match_real(…))`."""
