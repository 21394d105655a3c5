"""Maskers, from an image to the mask of its object, and the gate that says which masks are used."""

from cgn_augment.masks.checkpoint import bundled_maskers, load_masker, save_masker
from cgn_augment.masks.trust import MaskGate
from cgn_augment.masks.unet import UNetMasker

__all__ = ["MaskGate", "UNetMasker", "bundled_maskers", "load_masker", "save_masker"]
