"""Reduced trainings of an ImageNet CGN: files to start from, settings, features of four blocks."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from imagenet_helpers import make_reduced_biggan, make_reduced_cgn
from torch import nn

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import BigGAN, ImageNetCGN
from train_generator.imagenet.config import ImageNetConfig, LossesConfig, MetricsConfig
from train_generator.losses.perceptual import PerceptualFeatures

RATE = 1e-3


@lru_cache
def _start() -> tuple[ImageNetCGN, BigGAN]:
    target = make_reduced_biggan().requires_grad_(False)
    target.settle_norms(200)  # until they have found their singular vectors
    cgn = make_reduced_cgn()
    for mechanism in (cgn.f_shape, cgn.f_text, cgn.f_bg):
        mechanism.load_state_dict(target.state_dict())
    return cgn, target


def make_start(*_: object) -> tuple[ImageNetCGN, BigGAN]:
    """A CGN whose three mechanisms are the BigGAN of the target images."""
    return copy.deepcopy(_start())


@lru_cache
def tiny_features(*_: object, **__: object) -> PerceptualFeatures:
    """Four blocks of a convolution each, in the place of VGG-16."""
    with isolated_rng(0, torch.device("cpu")):
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
        for _block in range(3):
            layers += [nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return PerceptualFeatures(layers)


def write_start(folder: Path) -> dict[str, str]:
    """Writes the files that a reduced training starts from; returns settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"biggan": str(folder / "biggan.bin"), "u2net": str(folder / "u2net.pth")}
    cgn, target = _start()
    torch.save(target.state_dict(), paths["biggan"])
    torch.save(cgn.u2net.state_dict(), paths["u2net"])
    return paths


def make_config(
    losses: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None, **settings: Any
) -> ImageNetConfig:
    """Settings of a training of few small steps on a CPU."""
    defaults = {
        "biggan": "biggan.bin",
        "u2net": "u2net.pth",
        "num_steps": 3,
        "batch_size": 1,
        "accumulation": 2,
        "shape_rate": RATE,
        "texture_rate": RATE,
        "background_rate": RATE,
        "norm_iterations": 1,
        "device": "cpu",
        "losses": LossesConfig(**{"features": "random"} | (losses or {})),
        "metrics": MetricsConfig(**{"every": 0, "num_images": 2} | (metrics or {})),
    }
    return ImageNetConfig(**defaults | settings)
