"""What a folded BigGAN draws with: it draws what its modules draw, of the weights as they are."""

from __future__ import annotations

import copy
import pickle

import imagenet_speed
import pytest
import torch
from generator_helpers import CLOSE, draw, require_close
from imagenet_helpers import REDUCED, make_reduced_biggan, make_reduced_cgn
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import BigGAN, BigGANConfig, ImageNetCGN
from cgn_augment.generators.biggan import EPSILON
from cgn_augment.generators.lean import Block, LeanBigGAN
from cgn_augment.generators.truncation import find_rows

CPU = torch.device("cpu")
NOISE, CLASSES = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3)
WIDE = BigGANConfig(6, 8, 8, ((True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)), 2)


def draw_by_modules(biggan: BigGAN, truncation: float) -> Tensor:
    rows = find_rows(truncation, biggan.config.num_statistics)
    images: Tensor = biggan.generator(biggan.condition(NOISE, CLASSES), rows)
    return images


@torch.no_grad()
@pytest.mark.parametrize("config", [REDUCED, WIDE], ids=["reduced", "wide"])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("truncation", [0.57, 1.0])
def test_it_draws_what_the_modules_draw(
    config: BigGANConfig, joined: bool, truncation: float
) -> None:
    biggan = make_reduced_biggan(config)
    expected = draw_by_modules(biggan, truncation)
    biggan.fold()
    rows = find_rows(truncation, config.num_statistics)
    lean = LeanBigGAN(biggan.generator, rows, EPSILON, joined=joined)
    drawn = lean.draw(biggan.condition(NOISE, CLASSES))
    torch.testing.assert_close(drawn, expected, **CLOSE)
    torch.testing.assert_close(biggan(NOISE, CLASSES, truncation), expected, **CLOSE)
    doubling = {part.merged for part in lean.parts if isinstance(part, Block) and part.doubles}
    assert doubling == ({True} if config is REDUCED else {True, False})


@torch.no_grad()
def test_changed_weights_are_drawn_with() -> None:
    biggan = make_reduced_biggan()
    biggan.fold()
    before = biggan(NOISE, CLASSES)
    lean = biggan._lean
    assert torch.equal(biggan(NOISE, CLASSES), before)
    assert biggan._lean is lean  # kept while nothing changes
    assert not torch.equal(biggan(NOISE, CLASSES, 0.5), before)
    state = {k: v.clone() for k, v in biggan.state_dict().items()}
    state["generator.layers.0.conv_1.weight"] *= 1.5
    replaced = copy.deepcopy(biggan)
    replaced.load_state_dict(state, assign=True)
    biggan.generator.layers[0].conv_1.weight.mul_(1.5)
    drawn = [each(NOISE, CLASSES) for each in (biggan, replaced)]
    assert torch.equal(*drawn)
    assert not torch.allclose(drawn[0], before)
    torch.testing.assert_close(drawn[0], draw_by_modules(biggan, 1.0), **CLOSE)


@torch.no_grad()
def test_copies_and_pickles_are_no_larger_for_having_drawn() -> None:
    biggan = make_reduced_biggan()
    biggan.fold()
    size = len(pickle.dumps(biggan))
    expected = biggan(NOISE, CLASSES)
    assert len(pickle.dumps(biggan)) == size
    for each in (copy.deepcopy(biggan), pickle.loads(pickle.dumps(biggan))):
        assert each._lean is None
        assert torch.equal(each(NOISE, CLASSES), expected)


def test_gradients_reach_the_noise_of_a_folded_network() -> None:
    gradients = []
    for fold in (False, True):
        cgn = make_reduced_cgn().freeze(fold=fold)
        noise = NOISE.clone().requires_grad_()
        cgn.texture(noise, CLASSES).square().sum().backward()
        gradients.append(noise.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)], ids=["bf16", "fp16"]
)
def test_half_the_precision_is_near(dtype: torch.dtype, bound: float) -> None:
    cgn = make_reduced_cgn().freeze()
    expected, half = draw(cgn), draw(copy.deepcopy(cgn).to(dtype))
    for factor, values in half.items():
        assert 0 < (values - expected[factor]).square().mean().sqrt() < bound


@torch.no_grad()
def test_graphs_change_nothing_on_a_cpu_and_are_for_folded_networks() -> None:
    cgn = make_reduced_cgn().freeze(fold=False)
    with pytest.raises(ArgumentError, match=r"for a folded network: call freeze\(\) first"):
        cgn.use_graphs()
    cgn.freeze()
    expected = draw(cgn)
    assert cgn.use_graphs() is cgn
    require_close(draw(copy.deepcopy(cgn)), expected)
    require_close(draw(cgn), expected)


def test_the_benchmark_draws_one_image_each_way_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_at_two(cgn: ImageNetCGN, noise: Tensor, y: Tensor) -> Tensor:
        if len(noise) == 2:
            raise RuntimeError("no memory")
        return draw_once(cgn, noise, y)

    draw_once = imagenet_speed.draw
    monkeypatch.setattr(imagenet_speed, "draw", fail_at_two)
    rows = imagenet_speed.measure_generator(CPU, [torch.float32], [1, 2], 0.0, small=True)
    published, ours, _, failed = rows
    assert [row["way"] for row in rows] == ["published", "eager"] * 2
    assert (published["difference"], failed["error"]) == (0, "RuntimeError: no memory")
    assert 0 < ours["difference"] < 1e-4
    assert ours["flops_per_image"] < 0.7 * published["flops_per_image"]
    assert ours["images_per_second"] > 0
