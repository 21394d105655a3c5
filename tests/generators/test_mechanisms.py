"""What holds of every architecture: three mechanisms that run alone, frozen for good."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from generator_helpers import MAKERS, draw, require_close
from torch import nn

from cgn_augment import Mechanisms
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators import CGN, ImageNetCGN, SmallCGN
from cgn_augment.generators.biggan import BigGAN
from cgn_augment.generators.layout import without_memory
from cgn_augment.types import FACTORS

LAYERS = {"imagenet": ("f_shape", "u2net", "f_text", "f_bg")}


@lru_cache
def frozen(name: str) -> CGN:
    """A frozen CGN that no test changes."""
    return MAKERS[name]().freeze()


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


def test_factors_have_the_documented_form(name: str) -> None:
    cgn = frozen(name)
    drawn = draw(cgn)
    assert drawn["shape"].shape == (4, 1, 32, 32)
    assert drawn["texture"].shape == drawn["background"].shape == (4, 3, 32, 32)
    for images in drawn.values():
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert images.std() > 0
    assert 1e-4 <= drawn["shape"].min() < drawn["shape"].max() <= 0.9999
    assert max(drawn["texture"].abs().max(), drawn["background"].abs().max()) <= 1
    assert isinstance(cgn, Mechanisms)
    assert (cgn.image_size, cgn.shared_noise) == (32, name == "imagenet")


def test_noise_and_class_decide_a_factor_and_its_batch_does_not(name: str) -> None:
    cgn = frozen(name)
    noise, y = cgn.draw_noise(4, torch.Generator().manual_seed(0)), torch.arange(4)
    for factor in FACTORS:
        mechanism = getattr(cgn, factor)
        one = mechanism(noise[2:3], y[2:3])
        torch.testing.assert_close(mechanism(noise, y)[2:3], one)
        assert not torch.equal(mechanism(noise[1:2], y[2:3]), one)
        assert not torch.equal(mechanism(noise[2:3], y[1:2]), one)
        assert mechanism(noise[:0], y[:0]).shape[2:] == (32, 32)
        for dtype in (torch.uint8, torch.int32):
            assert torch.equal(mechanism(noise[2:3], y[2:3].to(dtype)), one)


def test_each_mechanism_runs_its_own_network_once(name: str) -> None:
    cgn, ran = copy.deepcopy(frozen(name)), []
    layers = LAYERS.get(name, ("f_shape", "f_text1", "f_text2"))
    for layer in layers:
        part = getattr(cgn, layer)
        if isinstance(part, BigGAN):  # which draws, where it is folded, without its modules
            part.draw = lambda *given, draw=part.draw, layer=layer: (  # type: ignore[method-assign]
                ran.append(layer),
                draw(*given),
            )[1]
        elif isinstance(cgn, ImageNetCGN):
            part.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    if isinstance(cgn, SmallCGN):  # which draws, frozen, with the fast form of a network
        names, find = {getattr(cgn, layer): layer for layer in layers}, cgn._forms.of
        cgn._forms.of = lambda network: (  # type: ignore[method-assign]
            ran.append(names[network]),
            find(network),
        )[1]
    draw(cgn, 2)
    assert tuple(ran) == layers


def test_a_frozen_cgn_stays_in_eval_without_gradients(name: str) -> None:
    cgn = MAKERS[name]()
    assert not cgn.frozen
    expected = draw(cgn.eval())
    assert cgn.freeze() is cgn
    assert cgn.frozen
    nn.ModuleDict({"all of it": cgn}).train()
    assert not any(part.training for part in cgn.modules())
    assert not any(p.requires_grad for p in cgn.parameters())
    before = {key: value.clone() for key, value in cgn.state_dict().items()}
    require_close(draw(cgn), expected)
    assert all(torch.equal(value, before[key]) for key, value in cgn.state_dict().items())
    kernels = [p for p in cgn.parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)


def test_the_fingerprint_is_of_the_weights_alone(name: str) -> None:
    cgn = MAKERS[name]()
    fingerprint = cgn.fingerprint
    assert len(fingerprint) == 12
    assert frozen(name).fingerprint == fingerprint
    with torch.no_grad():
        next(iter(cgn.parameters())).view(-1)[0] += 1e-3
    assert cgn.fingerprint != fingerprint


def test_noise_follows_its_generator_and_is_drawn_on_the_cpu_for_every_device(name: str) -> None:
    cgn, generators = frozen(name), [torch.Generator().manual_seed(4) for _ in range(3)]
    with without_memory():
        elsewhere = type(cgn)(**MAKERS[name]().config)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    noise = cgn.draw_noise(5, generators[0])
    assert torch.equal(noise, cgn.draw_noise(5, generators[1]))
    assert elsewhere.draw_noise(5, generators[2]).device.type == "meta"
    assert torch.equal(torch.get_rng_state(), before)
    for other in generators[1:]:
        assert torch.equal(other.get_state(), generators[0].get_state())


@pytest.mark.gpu
def test_factors_are_those_of_the_cpu_on_a_gpu(name: str) -> None:
    drawn = draw(copy.deepcopy(frozen(name)).to("cuda"))
    for factor, values in draw(frozen(name)).items():
        torch.testing.assert_close(drawn[factor].cpu(), values, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_mix_has_the_two_classes_at_its_ends(factor: str, name: str) -> None:
    cgn = frozen(name)
    noise = cgn.draw_noise(1, torch.Generator().manual_seed(0)).expand(3, -1)
    first, second = torch.full((3,), 2), torch.full((3,), 5)
    mixed = cgn.mix(factor, noise, first, second, torch.tensor([0.0, 0.5, 1.0]))
    ends = getattr(cgn, factor)(noise[:2], torch.tensor([2, 5]))
    torch.testing.assert_close(mixed[[0, 2]], ends)
    assert (mixed[1] - mixed[0]).abs().max() > 1e-6
    assert (mixed[1] - mixed[2]).abs().max() > 1e-6
    with pytest.raises(ArgumentError, match=r"factor must be one of shape, .* got 'colour'"):
        cgn.mix("colour", noise, first, second, torch.ones(3))


Y = torch.arange(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda u: (u[:, 1:], Y), ArgumentError, r"noise must have the shape \(N, "),
        (lambda u: (u[0], Y), ArgumentError, r"noise must have the shape \(N, "),
        (lambda u: (u, Y[:2]), ArgumentError, r"each of the 3 noise vectors, .* shape \(2,\)"),
        (lambda u: (u, Y[:, None]), ArgumentError, r"each of the 3 .* shape \(3, 1\)"),
        (lambda u: (u, Y + 99), ArgumentError, r"classes of 0 to \d, got 99 to 101"),
        (lambda u: (u, Y - 1), ArgumentError, r"classes of 0 to \d, got -1 to 1"),
        (lambda u: (u, Y.float()), ArgumentTypeError, "integer classes, got torch.float32"),
        (lambda u: (u, Y.bool()), ArgumentTypeError, "integer classes, got torch.bool"),
    ],
)
def test_noise_and_classes_of_another_form_are_errors(
    change: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    error: type[Exception],
    message: str,
    name: str,
) -> None:
    cgn = frozen(name)
    for factor in (*FACTORS, *(["premask"] if name == "imagenet" else [])):
        with pytest.raises(error, match=message):
            getattr(cgn, factor)(*change(torch.zeros(3, cgn.noise_dim)))
