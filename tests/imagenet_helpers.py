"""Reduced ImageNet CGNs, and the rule of ../shared/golden that makes weights of names."""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import SHARED

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import BigGAN, BigGANConfig, ImageNetCGN

GOLDEN = SHARED / "golden"

# Doubles at every second block, so that its sizes can be read off a state dict.
LAYERS = ((False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1))
REDUCED = BigGANConfig(
    num_classes=6, noise_dim=8, channel_width=4, layers=LAYERS, attention_at=4, num_statistics=51
)

State = dict[str, torch.Tensor]


def require_golden(*names: str) -> list[Path]:
    """Paths of golden files; skips where they are not here."""
    paths = [GOLDEN / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        pytest.skip(f"the golden outputs are not here: {missing}")
    return paths


def read_shapes(path: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads(path.read_text())
    return shapes


def named_randn(name: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return drawn.astype(np.float32)


def weights_by_rule(shapes: Mapping[str, Sequence[int]]) -> State:
    """A state dict in which every value follows from its name."""
    state = {}
    for name, shape in shapes.items():
        if not name.endswith(("weight_u", "weight_v")):
            state[name] = torch.from_numpy(_by_rule(name, shape))
    for name in [name for name in shapes if name.endswith("weight_u")]:
        part = name.removesuffix("weight_u")
        matrix = state[f"{part}weight_orig"].flatten(1).double().numpy()
        u = _normalize(named_randn(name, shapes[name]).astype(np.float64))
        v = _normalize(matrix.T @ u)
        state[name] = torch.from_numpy(_normalize(matrix @ v).astype(np.float32))
        state[f"{part}weight_v"] = torch.from_numpy(v.astype(np.float32))
    return state


def _by_rule(name: str, shape: Sequence[int]) -> npt.NDArray[np.generic]:
    if name.endswith("num_batches_tracked"):
        return np.array(0)
    drawn = named_randn(name, shape)
    if name.endswith(("running_var", "running_vars")):
        return (1 + 0.1 * np.abs(drawn)).astype(np.float32)
    if name.endswith(("running_mean", "running_means", "bias")):
        return (0.1 * drawn).astype(np.float32)
    if name.endswith("gamma"):
        return np.full(shape, 0.5, dtype=np.float32)
    if len(shape) == 1:
        return (1 + 0.1 * drawn).astype(np.float32)
    return (drawn / np.float32(math.sqrt(math.prod(shape[1:])))).astype(np.float32)


def _normalize(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def fill_by_rule(module: torch.nn.Module) -> None:
    """Gives a module, in place, weights that do something in every layer."""
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    module.load_state_dict(weights_by_rule(shapes))


def make_reduced_biggan(config: BigGANConfig = REDUCED) -> BigGAN:
    return copy.deepcopy(_make_biggan(config))


@lru_cache
def _make_biggan(config: BigGANConfig) -> BigGAN:
    with isolated_rng(0, torch.device("cpu")):
        biggan = BigGAN(config)
    fill_by_rule(biggan)
    return biggan


def make_reduced_cgn(config: BigGANConfig = REDUCED, **settings: object) -> ImageNetCGN:
    """An ImageNet CGN of 32 pixels with weights by the rule, not frozen."""
    return copy.deepcopy(_make_cgn(config, **settings))


@lru_cache
def _make_cgn(config: BigGANConfig, **settings: object) -> ImageNetCGN:
    with isolated_rng(0, torch.device("cpu")):
        cgn = ImageNetCGN(config, unet_width=4, **settings)  # type: ignore[arg-type]
    fill_by_rule(cgn)
    return cgn
