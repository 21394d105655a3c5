"""Settings of a set of parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cgn_augment.checks import (
    MAX_CLASSES,
    require_choices,
    require_count,
    require_counts,
    require_part,
    require_side,
)
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.images.imagenet_classes import class_names
from cgn_augment.masks.trust import MaskGate

Fill = Literal["copy", "telea", "none"]


@dataclass(frozen=True)
class PartConfig:
    """Settings of a set of parts. The same settings and images give the same bytes.

    Attributes:
        masks: where the masks are: a folder of PNG files that mirrors the images (for shards and a
            Hugging Face dataset: their keys); `member:mask.png`, a member of the samples of shards;
            `column:mask`, a column of a table or of a Hugging Face dataset; or `alpha`, the alpha
            channel of the images. By default those that come with the images: of a benchmark's
            layout, or the column `mask` of a table.
        split: which split to take, if the images have splits; `all` takes all.
        classes: names by label, or their number, if the images do not say.
        columns: further columns to keep; the group is kept if it is known.
        shard_size: images per shard.
        size: largest length of the longer side, in pixels; smaller images stay as they are.
        fill: how to fill backgrounds: with copies from the same image, by Telea's method (faster
            and smoother), or not at all.
        min_area: smallest share of an image that a mask may cover.
        max_area: largest share.
        min_confidence: for a soft mask, the least mean of |2m - 1| over its pixels m.
        max_sides: most sides of the image that a mask may touch; 2 leaves out ground that a masker
            took for an object.
        max_second: largest area of a second object as a share of the first one's; 1 allows any.
        max_hole: largest hole as a share of the image; backgrounds with a larger one are left out.
        textures: also make a whole sheet of each object's texture, to exchange textures.
        quality: JPEG quality of the backgrounds, 1 to 100.
    """

    masks: str = "own"
    split: str = "train"
    classes: tuple[str, ...] | int | None = None
    columns: tuple[str, ...] = ()
    shard_size: int = 1000
    size: int = 512
    fill: Fill = "copy"
    min_area: float = MaskGate.min_area
    max_area: float = MaskGate.max_area
    min_confidence: float = MaskGate.min_confidence
    max_sides: int = MaskGate.max_sides
    max_second: float = MaskGate.max_second
    max_hole: float = 0.8
    textures: bool = False
    quality: int = 95

    def __post_init__(self) -> None:
        require_counts(self, "shard_size", "quality")
        require_side("size", self.size)
        if self.quality > 100:
            raise ArgumentError(f"quality must be 1 to 100, got {self.quality}")
        require_choices(self, fill=Fill)
        require_part("max_hole", self.max_hole)
        if isinstance(self.classes, int):
            num = require_count("classes", self.classes, most=MAX_CLASSES)
            names = class_names(num) or [str(label) for label in range(num)]
            object.__setattr__(self, "classes", tuple(names))
        for name in ("classes", "columns"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ArgumentTypeError(f"{name} must be a list of names, got {value!r}")
            object.__setattr__(self, name, None if value is None else tuple(value))
        names = self.class_names or ()
        if len(set(names)) < len(names):
            raise ArgumentError(f"classes has a name twice: {list(names)}")
        _ = self.gate

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by label, if given."""
        return None if isinstance(self.classes, int) else self.classes

    @property
    def gate(self) -> MaskGate:
        """Which masks are trusted."""
        names = ("min_area", "max_area", "min_confidence", "max_sides", "max_second")
        return MaskGate(**{name: getattr(self, name) for name in names})
