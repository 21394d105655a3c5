"""Settings of a masker that is opened by name, and of how its masks are refined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cgn_augment.checks import require_channels, require_choices, require_counts, require_side
from cgn_augment.errors import ArgumentError

Edges = Literal["none", "guided", "grabcut"]
Activation = Literal["none", "sigmoid"]

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class MaskSettings:
    """Settings for finding masks with a masker.

    Attributes:
        size: side of the square that images are resized to for the masker, in pixels (default: the
            masker's own).
        mean: for an ONNX model: mean of each channel in [0, 1], which is subtracted (default: known
            for the usual file names).
        std: for an ONNX model: standard deviation of each channel, by which images are divided.
        activation: sigmoid, if the file of an ONNX model returns logits (default: known for the
            usual file names, none for others).
        classes: for a torchvision network: names of the classes that are object, separated by
            commas (default: all but the background).
        weights: for a torchvision network: a file with its state dict (default: torchvision's own,
            downloaded).
        largest: keep only the largest part of the object.
        close: fill holes in the object.
        edges: align the mask with the image's edges, by a guided filter or by GrabCut.
        batch_size: images that the masker gets at once.
        device: device to run on, such as cpu or cuda.

    Raises:
        ArgumentError: a value cannot be used.

    Examples:
        >>> from cgn_augment.masks.settings import MaskSettings
        >>> MaskSettings(largest=True, edges="grabcut").batch_size
        8
    """

    size: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    activation: Activation | None = None
    classes: str | None = None
    weights: str | None = None
    largest: bool = False
    close: bool = False
    edges: Edges = "none"
    batch_size: int = 8
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_counts(self, "batch_size")
        if self.size is not None:
            require_side("size", self.size)
        require_choices(self, edges=Edges)
        if self.activation is not None:
            require_choices(self, activation=Activation)
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None:
                values = require_channels(name, given).tolist()
                if name == "std" and min(values) <= 0:
                    raise ArgumentError(f"std must be above 0, got {given}")
                object.__setattr__(self, name, tuple(values))

    def refuse(self, names: tuple[str, ...], masker: str) -> None:
        """Raises `ArgumentError` for settings that a masker does not have.

        Args:
            names: names of the settings.
            masker: the masker, for errors.
        """
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ArgumentError(f"{masker} has no {' and no '.join(given)}: leave it out")
