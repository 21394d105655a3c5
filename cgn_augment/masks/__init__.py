"""Maskers, which find the mask of an image's object, and the gate that decides which to use."""

from cgn_augment.masks.checkpoint import bundled_maskers, load_masker, save_masker
from cgn_augment.masks.trust import MaskGate
from cgn_augment.masks.unet import UNetMasker

__all__ = ["MaskGate", "UNetMasker", "bundled_maskers", "load_masker", "save_masker"]
