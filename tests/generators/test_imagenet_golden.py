"""The ImageNet CGN at full size, held against outputs of the published modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imagenet_helpers import (
    State,
    named_randn,
    read_shapes,
    require_golden,
    weights_by_rule,
)

from cgn_augment import load_cgn
from cgn_augment.generators import BigGAN, BigGANConfig, ImageNetCGN
from cgn_augment.generators.assembly import infer_biggan
from cgn_augment.generators.layout import without_memory

CLASSES = torch.tensor([207, 340])
NOISE = torch.from_numpy(named_randn("input.noise", (2, 128))).clamp(-2, 2)
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


def require_near(drawn: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(drawn[:, :, ::4, ::4], expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_biggan_draws_what_the_published_one_draws_of_the_same_weights(
    shapes: dict[str, list[int]], weights: State, images: dict[float, torch.Tensor]
) -> None:
    with without_memory():
        network = BigGAN()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes
    network.load_state_dict({k: v.clone() for k, v in weights.items()}, assign=True)
    for truncation, one in zip(TRUNCATIONS, (0, 1, 0), strict=True):
        noise, y = NOISE[[one]] * truncation, CLASSES[[one]]
        require_near(network(noise, y, truncation), images[truncation][[one]])
        network.fold()  # the second and third are drawn with folded weights


def test_the_sizes_of_a_full_size_file_are_read_off_its_tensors(
    shapes: dict[str, list[int]],
) -> None:
    with without_memory():
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert infer_biggan(Path("cgn.pth"), state) == BigGANConfig()


def write_published(path: Path, biggan: State, u2net: State) -> None:
    """Writes a file like the published cgn.pth, of 1.1 GB."""
    state = {f"module.u2net.{name}": value for name, value in u2net.items()}
    for prefix in ("biggan_GT", "f_shape", "f_text", "f_bg"):
        # Memory of their own, as in the published file; all but one have other weights.
        shift = 0.0 if prefix == "f_text" else 1e-3
        state |= {f"module.{prefix}.{name}": value + shift for name, value in biggan.items()}
    torch.save(state, path)


@pytest.mark.slow
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
    noise, y = NOISE[:1], CLASSES[:1]
    for truncation in TRUNCATIONS:
        cgn.set_truncation(truncation)
        require_near(cgn.texture(noise * truncation, y), images[truncation][:1])
    mask = cgn.shape(noise, y)
    assert mask.shape == (1, 1, 256, 256)
    assert mask.std() > 0
    assert (cgn.background(noise, y) - cgn.texture(noise, y)).abs().max() > 1e-3
