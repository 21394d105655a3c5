"""Makes the source of a classifier's counterfactuals from settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from cgn_augment import (
    BankSource,
    Counterfactuals,
    FreshSource,
    Interventions,
    Parts,
    Placement,
    ShardSource,
    load_cgn,
    load_parts,
)
from cgn_augment.checks import require_choice, require_choices, require_counts
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import CGN
from cgn_augment.images.loading import LoadConfig
from cgn_augment.sources.bank import MemoryName, StorageName

Texture = Literal["shape", "any"]
Background = Literal["any", "other"]


@dataclass(frozen=True)
class SourceConfig:
    """How counterfactuals are combined.

    Attributes:
        bank: masks, foregrounds and backgrounds to keep and recombine; 0 draws each image anew,
            from the CGN or from disk.
        refresh: how many of the bank are replaced at each step.
        storage: storage of the bank: uint8, float16 or float32.
        memory: memory of the bank: device, or host for one larger than a GPU's.
        chunk: images made at once.
        truncation: truncation of an ImageNet CGN, in (0, 1]; by default as in its file.
        texture: "shape" leaves each object its own texture, the default for parts; "any" exchanges
            it, the default for a CGN. For parts, "any" needs a set made with sheets of textures.
        background: any, or other: of another class than the object's.
        placement: where to put objects; by default they stay where they were.

    Raises:
        ArgumentError: a value cannot be used.
    """

    bank: int = 2000
    refresh: int = 4
    storage: StorageName = "uint8"
    memory: MemoryName = "device"
    chunk: int = 16
    truncation: float | None = None
    texture: Texture | None = None
    background: Background = "any"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        require_counts(self, "bank", "refresh", least=0)
        require_counts(self, "chunk")
        require_choices(self, background=Background)
        if self.texture is not None:
            require_choice("texture", self.texture, ("shape", "any"))

    @property
    def placement_or_none(self) -> Placement | None:
        """The placement of objects, or None if they stay."""
        return None if self.placement == Placement() else self.placement


class NoSource:
    """A source for a stream of real images only, which never draws from it.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import CounterfactualDataset
        >>> from train_generator.classifier.sources import NoSource
        >>> real = TensorDataset(torch.zeros(4, 3, 8, 8), torch.arange(4))
        >>> [(images, labels)] = CounterfactualDataset(real, NoSource(), batch_size=4, ratio=0)
        >>> len(images)
        4
    """

    def sample(
        self, num: int, generator: torch.Generator, step: Any = None, real: Any = None
    ) -> Counterfactuals:
        """Raises `NotImplementedError`: there is nothing to draw."""
        raise NotImplementedError("there are no counterfactuals in this training")


class Origin(NamedTuple):
    """The origin of counterfactuals: one of the three.

    Attributes:
        parts: folder or URL of a set of parts.
        cgn: path or name of a CGN.
        shards: folder or URLs of rendered counterfactuals.
    """

    parts: str | None = None
    cgn: str | None = None
    shards: str | list[str] | None = None


def make_source(
    origin: Origin,
    config: SourceConfig,
    *,
    size: int,
    classes: Sequence[str],
    num: float,
    reading: LoadConfig,
    device: torch.device,
) -> BankSource | FreshSource | ShardSource:
    """Makes the source of a stream.

    Args:
        origin: origin of the counterfactuals.
        config: settings.
        size: size of parts, in pixels.
        classes: names of the images' classes, by label; parts must have the same.
        num: approximate number of counterfactuals per step.
        reading: seed and processes.
        device: device for the images.

    Raises:
        ArgumentError: there is not exactly one of the three, or settings do not apply to it.
    """
    if sum(given is not None for given in origin) != 1:
        raise ArgumentError(
            "counterfactuals come from parts, from a CGN or from shards: pass one of --parts, "
            "--cgn and --shards; or train without them: --method plain"
        )
    if origin.shards is not None:
        if (config.texture, config.background, config.placement_or_none) != (None, "any", None):
            raise ArgumentError(
                "shards hold counterfactuals that are composed already: leave texture, background "
                "and placement of the source out, or pass --parts or --cgn"
            )
        many = reading.num_workers
        workers = 1 << (many.bit_length() - 1) if many else 0  # a power of two
        refresh = max(1, math.ceil(num))
        return ShardSource(origin.shards, refresh=refresh, seed=reading.seed, num_workers=workers)
    cgn: CGN | Parts
    if origin.parts is not None:
        if config.truncation is not None:
            raise ArgumentError("parts have no truncation: leave it out")
        labels = {name: label for label, name in enumerate(classes)}
        cgn = load_parts(origin.parts, size, device, class_to_idx=labels)
    else:
        cgn = load_cgn(str(origin.cgn), device=device, truncation=config.truncation)
    texture = config.texture or ("any" if origin.parts is None else "shape")
    interventions = Interventions(
        texture="shape" if texture == "shape" else None,
        background="other" if config.background == "other" else None,
    )
    placement = config.placement_or_none
    if config.bank == 0:
        return FreshSource(cgn, interventions, placement=placement, chunk=config.chunk)
    return BankSource(
        cgn,
        config.bank,
        config.refresh,
        interventions,
        placement=placement,
        seed=reading.seed,
        storage=config.storage,
        chunk=config.chunk,
        memory=config.memory,
    )
