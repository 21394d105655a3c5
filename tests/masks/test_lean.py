"""A frozen masker finds the masks that its layers find, with the weights as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from generator_helpers import vary_norms
from torch import Tensor

from cgn_augment.functional import isolated_rng
from cgn_augment.masks import UNetMasker
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.masks.photo_unet import PhotoMasker

MAKERS = pytest.mark.parametrize(
    "make",
    [lambda: UNetMasker(4), lambda: PhotoMasker(2), lambda: PhotoMasker(2, "resnet18")],
    ids=["unet", "photo", "backbone"],
)


def freeze(make: Callable[[], MaskerNetwork], seed: int = 0) -> MaskerNetwork:
    """Freezes a masker whose normalisations differ from channel to channel."""
    with isolated_rng(seed, torch.device("cpu")):
        masker = make()
    vary_norms(masker, seed)
    return masker.freeze()


def thaw(masker: MaskerNetwork) -> MaskerNetwork:
    """Returns a copy that runs its layers, one by one."""
    copied = copy.deepcopy(masker)
    copied._fingerprint = None
    return copied


def images(num: int = 2) -> Tensor:
    return torch.rand(num, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


@MAKERS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_finds_what_the_layers_find(
    make: Callable[[], MaskerNetwork], layout: torch.memory_format
) -> None:
    masker = freeze(make)
    layers, seen = thaw(masker), images().contiguous(memory_format=layout)
    expected = layers.logits(seen)
    assert expected.std() > 1e-3
    torch.testing.assert_close(masker.logits(seen), expected, rtol=1e-4, atol=1e-5)
    assert len(masker._forms) > 3
    assert not layers._forms


@torch.no_grad()
@MAKERS
def test_changed_weights_and_copies_are_taken_as_they_are(
    make: Callable[[], MaskerNetwork],
) -> None:
    masker, other = freeze(make), freeze(make, seed=1)
    before = masker.logits(images())
    for copied in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert not copied._forms
        torch.testing.assert_close(copied.logits(images()), before)
    masker.load_state_dict(other.state_dict())
    torch.testing.assert_close(masker.logits(images()), other.logits(images()))
    assert not torch.allclose(masker.logits(images()), before)


@MAKERS
def test_gradients_reach_the_images(make: Callable[[], MaskerNetwork]) -> None:
    masker, seen = freeze(make), images().requires_grad_()
    found = [
        torch.autograd.grad(each.logits(seen).sum(), seen)[0] for each in (masker, thaw(masker))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
