"""Maskers: from an image to the mask of its object."""

from cgn_augment.masks.checkpoint import bundled_maskers, load_masker, save_masker
from cgn_augment.masks.given import GivenMasks
from cgn_augment.masks.unet import UNetMasker

__all__ = ["GivenMasks", "UNetMasker", "bundled_maskers", "load_masker", "save_masker"]
