"""Frozen generators: the small CGN, the ImageNet CGN, and their checkpoints."""

from cgn_augment.generators.assembly import CGN
from cgn_augment.generators.biggan import BigGAN, BigGANConfig
from cgn_augment.generators.checkpoint import (
    bundled_generators,
    load_cgn,
    read_metadata,
    save_cgn,
)
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.pretrained import (
    continue_imagenet_cgn,
    load_biggan,
    load_u2net,
    start_imagenet_cgn,
)
from cgn_augment.generators.small import SmallCGN
from cgn_augment.generators.u2net import U2Net
from cgn_augment.types import Factors

__all__ = [
    "CGN",
    "BigGAN",
    "BigGANConfig",
    "Factors",
    "ImageNetCGN",
    "SmallCGN",
    "U2Net",
    "bundled_generators",
    "continue_imagenet_cgn",
    "load_biggan",
    "load_cgn",
    "load_u2net",
    "read_metadata",
    "save_cgn",
    "start_imagenet_cgn",
]
