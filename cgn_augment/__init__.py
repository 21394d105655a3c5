"""Counterfactual images, mixed into an existing PyTorch training loop.

After "Counterfactual Generative Networks", Sauer and Geiger, ICLR 2021.

The names here are those that a training loop needs. The rest is in subpackages, which need no
import of their own: `cgn_augment.generators` (networks, checkpoints), `masks`, `parts`, `sources`,
`stream`, `shards` (render and verify sets of images), `images` and `pictures`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import CGNError
from cgn_augment.generators import load_cgn
from cgn_augment.interventions import Interventions
from cgn_augment.masks import MaskGate, load_masker
from cgn_augment.parts import Parts, load_parts
from cgn_augment.sources import BankSource, FreshSource, Placement, RealShapeSource
from cgn_augment.stream import CounterfactualDataset, OffAfter, Ramp, match_real
from cgn_augment.types import (
    Counterfactuals,
    Masker,
    Mechanisms,
    MixedBatch,
    RealBatch,
    Source,
    Step,
)

if TYPE_CHECKING:
    from cgn_augment import images as images
    from cgn_augment import pictures as pictures
    from cgn_augment import shards as shards
    from cgn_augment.sources.shards import ShardSource

__all__ = [
    "BankSource",
    "CGNError",
    "ClassMap",
    "CounterfactualDataset",
    "Counterfactuals",
    "FreshSource",
    "Interventions",
    "MaskGate",
    "Masker",
    "Mechanisms",
    "MixedBatch",
    "OffAfter",
    "Parts",
    "Placement",
    "Ramp",
    "RealBatch",
    "RealShapeSource",
    "ShardSource",
    "Source",
    "Step",
    "load_cgn",
    "load_masker",
    "load_parts",
    "match_real",
]

_LATER = {
    "ShardSource": "cgn_augment.sources.shards",
    "images": "cgn_augment.images",
    "pictures": "cgn_augment.pictures",
    "shards": "cgn_augment.shards",
}
"""Names whose modules import large packages. A loop that does not use them does not wait."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    globals()[name] = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
