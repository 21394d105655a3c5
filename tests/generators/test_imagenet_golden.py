"""The ImageNet CGN at full size, held against outputs of the published modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imagenet_helpers import (
    State,
    golden_noise,
    read_shapes,
    require_golden,
    weights_by_rule,
)

from cgn_augment import load_cgn
from cgn_augment.generators import BigGAN, ImageNetCGN

CLASSES = torch.tensor([207, 340])
TRUNCATIONS = (0.5, 0.71, 1.0)


@pytest.fixture(scope="module")
def images() -> dict[float, torch.Tensor]:
    """By truncation every fourth pixel of two images, (2, 3, 64, 64)."""
    (path,) = require_golden("biggan256.npz")
    with np.load(path) as golden:
        return {t: torch.from_numpy(golden[f"biggan_trunc_{t}"]) for t in TRUNCATIONS}


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[int]]:
    return read_shapes(require_golden("biggan256_keys.json")[0])


@pytest.fixture(scope="module")
def weights(shapes: dict[str, list[int]]) -> State:
    return weights_by_rule(shapes)


@pytest.fixture(scope="module")
def biggan(weights: State) -> BigGAN:
    with torch.device("meta"):
        network = BigGAN()
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False)


def require_near(drawn: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(drawn[:, :, ::4, ::4], expected, rtol=0, atol=1e-3)


def test_the_names_and_shapes_are_the_published_ones(
    biggan: BigGAN, shapes: dict[str, list[int]]
) -> None:
    assert {name: list(value.shape) for name, value in biggan.state_dict().items()} == shapes


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_biggan_draws_what_the_published_one_draws_of_the_same_weights(
    truncation: float, biggan: BigGAN, images: dict[float, torch.Tensor]
) -> None:
    require_near(biggan(golden_noise() * truncation, CLASSES, truncation), images[truncation])


def write_published(path: Path, biggan: State, u2net: State) -> None:
    """Writes a file like the published cgn.pth, of 1.1 GB."""
    state = {f"module.u2net.{name}": value for name, value in u2net.items()}
    for prefix in ("biggan_GT", "f_shape", "f_text", "f_bg"):
        # Memory of their own, as in the published file; all but one have other weights.
        shift = 0.0 if prefix == "f_text" else 1e-3
        state |= {f"module.{prefix}.{name}": value + shift for name, value in biggan.items()}
    torch.save(state, path)


def test_a_full_size_published_file_draws_the_golden_images(
    weights: State, images: dict[float, torch.Tensor], tmp_path: Path
) -> None:
    keys, _ = require_golden("u2net_keys.json", "u2net.npz")
    path = tmp_path / "cgn.pth"
    try:
        write_published(path, weights, weights_by_rule(read_shapes(keys)))
        cgn = load_cgn(path, truncation=0.71)
    finally:
        path.unlink(missing_ok=True)  # on Linux the tensors keep what is mapped
    assert isinstance(cgn, ImageNetCGN)
    assert (cgn.image_size, cgn.num_classes, cgn.noise_dim) == (256, 1000, 128)
    noise, y = golden_noise()[:1], CLASSES[:1]
    for truncation in TRUNCATIONS:
        cgn.set_truncation(truncation)
        require_near(cgn.texture(noise * truncation, y), images[truncation][:1])
    mask = cgn.shape(noise, y)
    assert mask.shape == (1, 1, 256, 256)
    assert mask.std() > 0
    assert (cgn.background(noise, y) - cgn.texture(noise, y)).abs().max() > 1e-3
