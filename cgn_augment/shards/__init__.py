"""Sets of WebDataset shards: rendered once, checked, and read by a stream."""

from cgn_augment.shards.config import ShardConfig
from cgn_augment.shards.verify import Problem, verify_shards
from cgn_augment.shards.write import render_shards
from cgn_augment.sources.shards import ShardSource

__all__ = ["Problem", "ShardConfig", "ShardSource", "render_shards", "verify_shards"]
