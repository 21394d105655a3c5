"""The small CGN: the published networks, the deep ones, and what the published code draws."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import VARIANT_NAMES, make_tiny_cgn
from generator_helpers import draw, make_deep_cgn, require_close
from published_layers import use_published_layers

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import roll_images
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.upconv import UpConv2d


@pytest.mark.parametrize("variant", VARIANT_NAMES)
def test_published_checkpoints_draw_what_the_published_code_draws(
    variant: str, published_paths: dict[str, Path], golden_paths: dict[str, Path]
) -> None:
    cgn = load_cgn(published_paths[variant])
    with np.load(golden_paths[variant]) as golden:
        noise, labels = (torch.from_numpy(golden[name]) for name in ("noise", "labels"))
        expected = {
            "shape": golden["mask"],
            "texture": golden["foreground_uncropped"],
            "background": golden["background_uncropped"],
        }
    for factor, values in expected.items():
        ours = getattr(cgn, factor)(noise, labels).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, values, rtol=0, atol=1e-5)


def test_a_cgn_in_training_trains() -> None:
    cgn = make_tiny_cgn()
    cgn.eval()
    cgn.train()
    assert all(module.training for module in cgn.modules())
    draw(cgn)["texture"].mean().backward()
    assert cgn.label_emb.weight.grad is not None
    assert cgn.f_shape[0].weight.grad is None


def test_noise_is_standard_normal(tiny_cgn: SmallCGN) -> None:
    noise = tiny_cgn.draw_noise(1000, torch.Generator().manual_seed(4))
    assert torch.equal(noise, torch.randn(1000, 32, generator=torch.Generator().manual_seed(4)))


def test_shuffling_rolls_each_published_texture_by_its_own_offset_and_no_deep_one(
    tiny_cgn: SmallCGN, generator: torch.Generator
) -> None:
    images = torch.rand(300, 3, 32, 32, generator=generator)
    shuffled = tiny_cgn.shuffle(images, torch.Generator().manual_seed(6))
    offsets = torch.randint(33, (300, 2), generator=torch.Generator().manual_seed(6))
    assert torch.equal(shuffled, roll_images(images, offsets))
    assert len(offsets.unique(dim=0)) > 200
    assert torch.equal(make_deep_cgn().shuffle(images, generator), images)


def test_a_deep_mask_reaches_the_bounds_and_no_further() -> None:
    cgn = make_deep_cgn()
    with torch.no_grad():
        cgn.f_shape[-2].weight.mul_(1e4)
    mask = draw(cgn.freeze(), 20)["shape"]
    assert mask.min().item() == pytest.approx(1e-4)
    assert mask.max().item() == pytest.approx(0.9999)


@pytest.mark.parametrize(("network", "expected"), [("deep", (0.9, 1.4)), ("published", (0.2, 0.2))])
def test_the_mechanisms_have_the_documented_sizes(network: str, expected: object) -> None:
    cgn = SmallCGN(shape_network=network, texture_network=network)  # type: ignore[arg-type]
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (cgn.f_shape, cgn.f_text1)]
    assert tuple(round(size, 1) for size in sizes) == expected


@pytest.mark.parametrize("name", ["shape_network", "texture_network"])
def test_there_is_no_other_network_and_a_flow_takes_even_noise(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be one of published, deep, got 'deeper'"):
        SmallCGN(**{name: "deeper"})
    make_tiny_cgn(noise_dim=7)
    with pytest.raises(ArgumentError, match="noise_dim must be even"):
        make_tiny_cgn(noise_dim=7, **{name: "deep"})


def test_an_upsampling_convolution_is_that_of_the_published_layers() -> None:
    layer = UpConv2d(3, 5).double()
    images = torch.randn(2, 3, 8, 4, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, padding=1)
    made = layer(images)
    torch.testing.assert_close(made, plain)
    weights = torch.randn_like(made)
    inputs = (images, layer.weight)
    gradients = torch.autograd.grad((made * weights).sum(), inputs, retain_graph=True)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    torch.testing.assert_close(gradients, expected)


def test_the_benchmarks_published_layers_draw_the_same() -> None:
    cgn = make_tiny_cgn().eval()
    plain = use_published_layers(copy.deepcopy(cgn))
    assert any(type(part) is not UpConv2d for part in plain.modules() if isinstance(part, UpConv2d))
    require_close(draw(plain), draw(cgn))
