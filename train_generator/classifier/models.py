"""The classifier of the MNIST experiments (Sauer and Geiger, ICLR 2021, appendix)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MNISTClassifier(nn.Sequential):
    """A small CNN for 32x32 images, after Kim et al., Learning Not to Learn, CVPR 2019.

    Takes images (B, 3, 32, 32) float32 in [-1, 1] and returns (B, num_classes) float32 log
    probabilities. 70 thousand parameters.

    Args:
        num_classes: labels.

    Example:
        >>> import torch
        >>> from train_generator.classifier import MNISTClassifier
        >>> MNISTClassifier()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(7),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns log probabilities (B, num_classes) of images (B, 3, 32, 32)."""
        scores: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        # In float32 under autocast too: bfloat16 keeps two digits of a log probability.
        return F.log_softmax(scores, dim=1, dtype=torch.float32)
