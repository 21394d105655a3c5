"""Settings of a masker that is opened by name, and of what is done with its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cgn_augment.checks import require_channels, require_choices, require_counts
from cgn_augment.errors import ArgumentError

Edges = Literal["none", "guided", "grabcut"]
Activation = Literal["none", "sigmoid"]

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class MaskSettings:
    """Settings of masks that a masker finds.

    Attributes:
        size: side of the square that images are brought to for the masker, in pixels (default: the
            masker's own).
        mean: of each channel, in [0, 1], which an ONNX model's images lose (default: known for the
            usual file names).
        std: of each channel, which they are divided by.
        activation: sigmoid, where an ONNX model's file gives logits (default: known for the usual
            file names, none for others).
        classes: of a network of torchvision, which are the object: names, with commas between them
            (default: all but the background).
        weights: of a network of torchvision: a file of its state dict (default: torchvision's own,
            downloaded).
        largest: keep the largest part of the object alone.
        close: make object of the holes in it.
        edges: follow the image's edges, by a guided filter or by GrabCut.
        batch_size: images that the masker sees at once.
        device: where it runs, such as cpu or cuda.

    Raises:
        ArgumentError: a value that cannot be used.

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
        require_counts(self, "batch_size", *(() if self.size is None else ("size",)))
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
        """Raises for settings that a masker does not know."""
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ArgumentError(f"{masker} has no {' and no '.join(given)}: leave it out")
