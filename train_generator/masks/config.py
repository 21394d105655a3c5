"""Settings of a masker that learns from masks drawn by hand."""

from __future__ import annotations

from dataclasses import dataclass

from cgn_augment.checks import (
    require_choices,
    require_count,
    require_counts,
    require_positive,
    require_shares,
    require_side,
    require_weights,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.masks.photo_unet import Backbone, PhotoMasker
from train_generator.training.precision import Precision


@dataclass(frozen=True)
class PhotoMaskerConfig:
    """Settings of a masker that learns from photographs with given masks.

    Attributes:
        num_steps: steps of the training.
        batch_size: images per step.
        size: side of the square that images are resized to, in pixels; a multiple of 32.
        width: channels of the U-Net at full resolution.
        backbone: a torchvision ResNet for the U-Net's downward path, with torchvision's weights
            from this machine or downloaded (default: none, and new weights).
        backbone_file: a file of its state dict, instead of torchvision's weights.
        learning_rate: highest learning rate of AdamW; it rises and falls once.
        weight_decay: weight decay of AdamW.
        recombine: share of a batch whose objects are put on the backgrounds of other images.
        average: decay of the running average of the weights, which is what is kept.
        holdout: share of the given images to leave out of the training and measure on in the end.
        precision: no is float32; bf16 is faster if the GPU or CPU supports it.

    Raises:
        ArgumentError: a value cannot be used.
    """

    num_steps: int = 3000
    batch_size: int = 16
    size: int = 128
    width: int = 16
    backbone: Backbone | None = None
    backbone_file: str | None = None
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    recombine: float = 0.5
    average: float = 0.99
    holdout: float = 0.2
    precision: Precision = "no"

    def __post_init__(self) -> None:
        require_counts(self, "num_steps", "width")
        require_side("size", self.size)
        require_count("batch_size", self.batch_size, least=2)  # for the batch normalisation
        require_positive(self, "learning_rate")
        require_weights(self, "weight_decay")
        require_shares(self, "recombine", "average", "holdout")
        require_choices(self, precision=Precision)
        if self.backbone is not None:
            require_choices(self, backbone=Backbone)
        elif self.backbone_file is not None:
            raise ArgumentError("backbone_file has the weights of a backbone: say which, backbone")
        if self.size % PhotoMasker.stride:
            raise ArgumentError(f"size must be a multiple of {PhotoMasker.stride}, got {self.size}")
