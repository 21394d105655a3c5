"""U2-Net: its names, its outputs, and what folding leaves of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from imagenet_helpers import fill_by_rule, named_randn, read_shapes, require_golden, weights_by_rule
from torch import nn

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import U2Net
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.u2net import ConvNormReLU, enlarge_to


def make_reduced(width: int = 4) -> U2Net:
    network = U2Net(width)
    fill_by_rule(network)
    return network.eval()


def fold(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, ConvNormReLU):
            part.fold()


@torch.no_grad()
def test_u2net_makes_what_the_published_one_makes_of_the_same_weights() -> None:
    keys, outputs = require_golden("u2net_keys.json", "u2net.npz")
    shapes = read_shapes(keys)
    with without_memory():
        network = U2Net().eval()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes
    assert sum(p.numel() for p in network.parameters()) == 44_009_869
    network.load_state_dict(weights_by_rule(shapes), assign=True)
    images = torch.from_numpy(named_randn("input.u2net", (2, 3, 64, 64))).tanh()
    with np.load(outputs) as golden:
        expected = torch.from_numpy(golden["output"])
    for _ in range(2):
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-4)
        fold(network)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_masks_have_the_size_of_the_images_and_folding_changes_rounding_alone(
    size: tuple[int, int],
) -> None:
    network, images = make_reduced(), torch.rand(2, 3, *size) * 2 - 1
    masks = network(images)
    assert masks.shape == (2, 1, *size)
    assert masks.dtype == torch.float32
    assert 0 <= masks.min() < masks.max() <= 1
    torch.testing.assert_close(masks[1:], network(images[1:]))  # whatever else is in the batch
    at = network.stage1.rebnconvin.conv_s1.weight.data_ptr()
    for _ in range(2):  # the second time changes nothing
        fold(network)
        torch.testing.assert_close(network(images), masks, rtol=1e-5, atol=1e-6)
    assert network.stage1.rebnconvin.conv_s1.weight.data_ptr() == at
    assert not [name for name in network.state_dict() if "running" in name]


def test_enlarging_aligns_the_corners() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    enlarged = enlarge_to(image, torch.zeros(1, 1, 3, 3))
    expected = torch.tensor([[[[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.5, 3.0]]]])
    torch.testing.assert_close(enlarged, expected)
    assert enlarge_to(image, image) is image


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 31, 32)])
def test_images_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\(B, 3, H, W\), H and W 32 or more, got \("):
        make_reduced()(torch.zeros(shape))


@pytest.mark.parametrize("width", [0, 6])
def test_another_width_is_an_error(width: int) -> None:
    with pytest.raises(ArgumentError, match=f"width must be a multiple of 4, got {width}"):
        U2Net(width)
