"""Real images taken apart: masks, foregrounds and backgrounds to draw from."""

from cgn_augment.parts.mechanisms import Parts
from cgn_augment.parts.opening import load_parts

__all__ = ["Parts", "load_parts"]
