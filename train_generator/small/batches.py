"""The biased images in the order in which training sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator


class RealImages:
    """Images and labels in memory; each epoch goes through all of them in a new order.

    The images of a step are a function of (seed, step, batch size) alone.

    Args:
        images: (N, 3, H, W) float32 in [-1, 1].
        labels: (N,) int64.
        seed: seed of the order.
        device: device for the batches.

    Raises:
        ArgumentError: there are no images, or the number of labels differs.

    Examples:
        >>> import torch
        >>> from train_generator.small.batches import RealImages
        >>> real = RealImages(torch.zeros(5, 3, 32, 32), torch.arange(5), seed=0)
        >>> sorted([*real.batch(0, 2)[1].tolist(), *real.batch(1, 2)[1].tolist()])[0] in (0, 1)
        True
    """

    def __init__(
        self, images: Tensor, labels: Tensor, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        if len(images) == 0 or len(images) != len(labels):
            raise ArgumentError(
                f"there must be a label for each image, and at least one; got {len(images)} and "
                f"{len(labels)}"
            )
        self.images, self.labels, self.seed, self.device = images, labels, seed, device
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Returns the batch of a step: images and labels; see `choose`."""
        chosen = self.choose(step, batch_size)
        return self.images[chosen].to(self.device), self.labels[chosen].to(self.device)

    def choose(self, step: int, batch_size: int) -> Tensor:
        """Returns the indices of a step's images. An epoch leaves out an incomplete last batch.

        Args:
            step: counted from 0.
            batch_size: number of images, at most as many as there are.

        Returns:
            (batch_size,) int64 on the CPU.

        Raises:
            ArgumentError: the batch is larger than the data.
        """
        if not 1 <= batch_size <= len(self):
            raise ArgumentError(
                f"batch_size must be 1 to {len(self)}, the number of images; got {batch_size}"
            )
        steps = len(self) // batch_size
        if step // steps != self._epoch:
            self._epoch = step // steps
            generator = step_generator(Purpose.ORDER, self.seed, self._epoch)
            self._order = torch.randperm(len(self), generator=generator)
        first = step % steps * batch_size
        return self._order[first : first + batch_size]
