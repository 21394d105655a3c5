"""Networks that find the object in a real image."""

from cgn_augment.maskers.unet import UNetMasker

__all__ = ["UNetMasker"]
