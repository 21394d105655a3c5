"""One small CGN of each architecture, and what its three mechanisms draw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from conftest import make_tiny_cgn
from imagenet_helpers import make_reduced_cgn
from torch import nn

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import CGN, SmallCGN
from cgn_augment.types import FACTORS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make_deep_cgn(seed: int = 0, **config: int) -> SmallCGN:
    """A deep CGN whose flow and batch statistics do something."""
    deep = {"shape_network": "deep", "texture_network": "deep"}
    cgn = make_tiny_cgn(seed, **{**deep, **config})  # type: ignore[arg-type]
    with isolated_rng(seed, torch.device("cpu")), torch.no_grad():
        for mechanism in (cgn.f_shape, cgn.f_text1, cgn.f_text2):
            for layer in mechanism[0].layers:
                nn.init.normal_(layer[-1].weight, std=0.1)
        draw(cgn, 64)
    return cgn


MAKERS: dict[str, Callable[[], CGN]] = {
    "small": make_tiny_cgn,
    "deep": make_deep_cgn,
    "imagenet": make_reduced_cgn,
}


def draw(cgn: CGN, num: int = 4) -> dict[str, torch.Tensor]:
    """What the three mechanisms make of the same noise and classes."""
    noise = cgn.draw_noise(num, torch.Generator().manual_seed(1))
    y = torch.arange(num) % cgn.num_classes
    return {factor: getattr(cgn, factor)(noise, y) for factor in FACTORS}


def require_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for factor in FACTORS:
        torch.testing.assert_close(first[factor], second[factor], **CLOSE)


def require_same(first: CGN, second: CGN) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert first.config == second.config
    assert first.fingerprint == second.fingerprint


def vary_norms(network: nn.Module, seed: int = 0) -> None:
    """Gives batch normalisations statistics and weights that differ from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for value in (part.weight, part.bias, part.running_mean, part.running_var):
                assert value is not None
                value.data = torch.rand(len(value), generator=generator) + 0.5
