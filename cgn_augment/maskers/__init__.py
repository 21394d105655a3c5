"""Maskers: from an image to the mask of its object."""

from cgn_augment.maskers.checkpoint import bundled_maskers, load_masker, save_masker
from cgn_augment.maskers.given import GivenMasks
from cgn_augment.maskers.unet import UNetMasker

__all__ = ["GivenMasks", "UNetMasker", "bundled_maskers", "load_masker", "save_masker"]
