"""Frozen generators: the small CGN, and the reading of checkpoints."""

from cgn_augment.generators.checkpoint import (
    bundled_generators,
    load_cgn,
    read_metadata,
    save_cgn,
)
from cgn_augment.generators.small import SmallCGN

__all__ = ["SmallCGN", "bundled_generators", "load_cgn", "read_metadata", "save_cgn"]
