"""Counterfactual images, mixed into an existing PyTorch training loop.

After "Counterfactual Generative Networks", Sauer and Geiger, ICLR 2021.
"""

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import CGNError
from cgn_augment.generators import (
    BigGANConfig,
    ImageNetCGN,
    SmallCGN,
    bundled_generators,
    load_cgn,
    read_metadata,
    save_cgn,
)
from cgn_augment.interventions import Interventions
from cgn_augment.masks import (
    GivenMasks,
    UNetMasker,
    bundled_maskers,
    load_masker,
    save_masker,
)
from cgn_augment.masks.trust import MaskGate
from cgn_augment.parts.mechanisms import RealMechanisms
from cgn_augment.shards import ShardConfig, ShardSource, render_shards, verify_shards
from cgn_augment.sources.bank import BankSource, FreshSource
from cgn_augment.sources.real_shapes import RealShapeSource
from cgn_augment.stream.dataset import CounterfactualDataset
from cgn_augment.stream.mixing import OffAfter, Ramp
from cgn_augment.stream.transforms import MatchReal, match_real
from cgn_augment.types import (
    Counterfactuals,
    Factors,
    Masker,
    Mechanisms,
    MixedBatch,
    RealBatch,
    Source,
)

__all__ = [
    "BankSource",
    "BigGANConfig",
    "CGNError",
    "ClassMap",
    "CounterfactualDataset",
    "Counterfactuals",
    "Factors",
    "FreshSource",
    "GivenMasks",
    "ImageNetCGN",
    "Interventions",
    "MaskGate",
    "Masker",
    "MatchReal",
    "Mechanisms",
    "MixedBatch",
    "OffAfter",
    "Ramp",
    "RealBatch",
    "RealMechanisms",
    "RealShapeSource",
    "ShardConfig",
    "ShardSource",
    "SmallCGN",
    "Source",
    "UNetMasker",
    "bundled_generators",
    "bundled_maskers",
    "load_cgn",
    "load_masker",
    "match_real",
    "read_metadata",
    "render_shards",
    "save_cgn",
    "save_masker",
    "verify_shards",
]
