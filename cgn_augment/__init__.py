"""Counterfactual images, mixed into an existing PyTorch training loop.

After "Counterfactual Generative Networks", Sauer and Geiger, ICLR 2021.

The names here are those that a training loop needs. The rest is in subpackages, which need no
import of their own: `cgn_augment.generators` (networks, checkpoints), `masks`, `parts`, `sources`,
`stream`, `shards` (render and verify sets of images), `images` and `pictures`. A name is imported
when it is first asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as of typing, which the commands do not wait for before they heed Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from cgn_augment import generators as generators
    from cgn_augment import images as images
    from cgn_augment import masks as masks
    from cgn_augment import parts as parts
    from cgn_augment import pictures as pictures
    from cgn_augment import shards as shards
    from cgn_augment import sources as sources
    from cgn_augment import stream as stream
    from cgn_augment.class_map import ClassMap
    from cgn_augment.errors import CGNError
    from cgn_augment.generators import load_cgn
    from cgn_augment.interventions import Interventions
    from cgn_augment.masks import MaskGate, load_masker
    from cgn_augment.parts import Parts, load_parts
    from cgn_augment.sources import BankSource, FreshSource, Placement, RealShapeSource
    from cgn_augment.sources.shards import ShardSource
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

_ROOMS = ("generators", "images", "masks", "parts", "pictures", "shards", "sources", "stream")
_PLACES = {
    "BankSource": "sources",
    "CGNError": "errors",
    "ClassMap": "class_map",
    "CounterfactualDataset": "stream",
    "Counterfactuals": "types",
    "FreshSource": "sources",
    "Interventions": "interventions",
    "MaskGate": "masks",
    "Masker": "types",
    "Mechanisms": "types",
    "MixedBatch": "types",
    "OffAfter": "stream",
    "Parts": "parts",
    "Placement": "sources",
    "Ramp": "stream",
    "RealBatch": "types",
    "RealShapeSource": "sources",
    "ShardSource": "sources.shards",
    "Source": "types",
    "Step": "types",
    "load_cgn": "generators",
    "load_masker": "masks",
    "load_parts": "parts",
    "match_real": "stream",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *__all__})
