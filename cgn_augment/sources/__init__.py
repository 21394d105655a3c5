"""Sources of counterfactuals. `ShardSource` is in `cgn_augment.sources.shards`."""

from cgn_augment.sources.bank import BankSource
from cgn_augment.sources.drawn import FreshSource
from cgn_augment.sources.placement import Placement
from cgn_augment.sources.real_shapes import RealShapeSource

__all__ = ["BankSource", "FreshSource", "Placement", "RealShapeSource"]
