"""What a frozen small CGN draws with: it draws what its layers draw, of the weights as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from conftest import make_tiny_cgn
from generator_helpers import draw, make_deep_cgn, require_close, vary_norms

from cgn_augment.generators import SmallCGN

MAKERS = pytest.mark.parametrize("make", [make_tiny_cgn, make_deep_cgn])


def freeze(cgn: SmallCGN) -> SmallCGN:
    """Freezes a CGN whose normalisations differ from channel to channel."""
    vary_norms(cgn)
    return cgn.freeze()


def thaw(cgn: SmallCGN) -> SmallCGN:
    """Returns a copy that draws with its layers, one by one."""
    copied = copy.deepcopy(cgn)
    copied._hash = None
    return copied


@MAKERS
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("num", [1, 5])
def test_it_draws_what_the_layers_draw(make: Callable[..., SmallCGN], width: int, num: int) -> None:
    cgn = freeze(make(width=width))
    layers = thaw(cgn)
    require_close(draw(cgn, num), draw(layers, num))
    assert len(cgn._forms) == 3
    assert not layers._forms


@MAKERS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_it_draws_in_the_type_of_its_weights(
    make: Callable[..., SmallCGN], dtype: torch.dtype
) -> None:
    exact = freeze(make())
    before = draw(exact)
    cgn = copy.deepcopy(exact).to(dtype)
    tolerance = 1e-5 if dtype is torch.float64 else 0.1
    y, noise = torch.arange(4), exact.draw_noise(4, torch.Generator().manual_seed(1))
    for factor, expected in before.items():
        made = getattr(cgn, factor)(noise.to(dtype), y)
        assert made.dtype is dtype
        torch.testing.assert_close(made.float(), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@MAKERS
def test_changed_weights_are_drawn_with(make: Callable[..., SmallCGN]) -> None:
    cgn, other = freeze(make()), freeze(make(seed=1))
    before = draw(cgn)
    kept = cgn._forms.of(cgn.f_text1)
    assert torch.equal(draw(cgn)["texture"], before["texture"])
    assert cgn._forms.of(cgn.f_text1) is kept  # while nothing changes
    cgn.load_state_dict(other.state_dict())
    require_close(draw(cgn), draw(other))
    cgn.f_text2[-3 if make is make_tiny_cgn else -2].bias.add_(0.5)
    require_close(draw(cgn), draw(thaw(cgn)))


@MAKERS
def test_copies_have_a_fast_form_of_their_own(make: Callable[..., SmallCGN]) -> None:
    cgn = freeze(make())
    before = draw(cgn)
    for copied in (copy.deepcopy(cgn), pickle.loads(pickle.dumps(cgn))):
        assert not copied._forms
        assert torch.equal(draw(copied)["shape"], before["shape"])
        with torch.no_grad():
            copied.f_shape[1 if make is make_deep_cgn else 0].weight.zero_()
            assert not torch.equal(draw(copied)["shape"], before["shape"])
    assert torch.equal(draw(cgn)["shape"], before["shape"])


@MAKERS
def test_gradients_reach_what_a_frozen_mechanism_is_given(make: Callable[..., SmallCGN]) -> None:
    cgn = freeze(make())
    noise = cgn.draw_noise(2, torch.Generator().manual_seed(0)).requires_grad_()
    cgn.texture(noise, torch.tensor([3, 4])).square().sum().backward()
    assert noise.grad is not None
    assert noise.grad.abs().max() > 0
    expected = noise.grad.clone()
    noise.grad = None
    thaw(cgn).texture(noise, torch.tensor([3, 4])).square().sum().backward()
    torch.testing.assert_close(noise.grad, expected, rtol=1e-4, atol=1e-5)
