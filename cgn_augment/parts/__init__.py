"""Real images taken apart: masks, foregrounds and backgrounds to draw from."""

from cgn_augment.parts.mechanisms import RealMechanisms

__all__ = ["RealMechanisms"]
