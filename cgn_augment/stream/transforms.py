"""Brings counterfactuals into the form in which the user's real images arrive."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cgn_augment.checks import require_channels, require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError


class MatchReal(nn.Module):
    """The transform under which counterfactuals arrive as the real images do: `match_real(…)`.

    A module for `CounterfactualDataset(transform=…)` from (N, 3, H, W) float32 in [-1, 1] to
    (N, 3, crop_size, crop_size) float32 in its `value_range`.

    Args:
        mean: of the `Normalize` at the end of the real pipeline, one value or three. With the
            defaults images arrive in [0, 1], as from `ToTensor` alone; 0.5 and 0.5 give [-1, 1].
        std: of the same `Normalize`.
        crop_size: height and width of the real images in pixels. Larger counterfactuals are
            cropped at a random place, smaller ones enlarged.
        augment: a kornia module for images in [0, 1] (flips, colour jitter,
            `AugmentationSequential` …), applied first, at the CGN's own size. What it draws depends
            on (seed, epoch, rank, step) alone, and the global generators stay as they are.

    Attributes:
        value_range: least and greatest value that an image can have.
        size: height and width in pixels, or None where the CGN's own size stays.

    Raises:
        ArgumentError: a mean or std that is not one or three numbers, a std or size not above 0.
        ArgumentTypeError: a mean, std or size that is no number, an augment that cannot be called.

    Example:
        >>> import torch
        >>> from cgn_augment import match_real
        >>> imagenet = match_real((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_size=224)
        >>> imagenet(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 3, 224, 224])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        crop_size: int | None = None,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", require_channels("mean", mean), persistent=False)
        self.register_buffer("std", require_channels("std", std), persistent=False)
        if not (self.std > 0).all():
            raise ArgumentError(f"std must be above 0, got {std}")
        if augment is not None and not callable(augment):
            raise ArgumentTypeError(
                "augment must be a module of kornia (several in a Sequential) or None, got "
                f"{augment!r}"
            )
        self.size, self.augment = crop_size, augment
        self._crop = None
        if crop_size is not None:
            from kornia.augmentation import RandomCrop  # slow to import, and not always needed

            require_count("crop_size", crop_size)
            self._crop = RandomCrop((crop_size, crop_size))
        low, high = (0 - self.mean) / self.std, (1 - self.mean) / self.std
        self.value_range = (float(low.min()), float(high.max()))

    def forward(self, images: Tensor) -> Tensor:
        """Transforms a batch.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].

        Returns:
            (N, 3, size, size) float32 in `value_range`.
        """
        if self.mean.device != images.device:
            self.to(images.device)
        images = (images + 1) / 2
        if self.augment is not None:
            images = self.augment(images)
        if self.size is not None and min(images.shape[-2:]) < self.size:
            from kornia.geometry import resize  # as in __init__

            images = resize(images, self.size, side="short", antialias=True)
        if self._crop is not None and images.shape[-2:] != (self.size, self.size):
            images = self._crop(images)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


match_real = MatchReal
"""Reads as what it is for in `CounterfactualDataset(transform=match_real(…))`."""
