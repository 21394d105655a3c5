"""Sets of WebDataset shards: rendered once, checked, and read by a `ShardSource`."""

from cgn_augment.shards.checking import Problem
from cgn_augment.shards.config import ShardConfig
from cgn_augment.shards.verify import verify_shards
from cgn_augment.shards.write import render_shards

__all__ = ["Problem", "ShardConfig", "render_shards", "verify_shards"]
