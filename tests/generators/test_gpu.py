"""The ImageNet CGN on a GPU: as on the CPU, with graphs as without, in half the precision."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from imagenet_helpers import make_reduced_cgn
from published_layers import PublishedCGN
from torch import Tensor

from cgn_augment.functional import compose, isolated_rng
from cgn_augment.generators import BigGANConfig, ImageNetCGN
from cgn_augment.types import FACTORS

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
REDUCED = BigGANConfig(
    num_classes=10,
    noise_dim=32,
    channel_width=32,
    layers=(
        (False, 16, 16),
        (True, 16, 8),
        (False, 8, 8),
        (True, 8, 4),
        (True, 4, 2),
        (True, 2, 1),
    ),
    attention_at=4,
)  # 64 pixels
SIZES = {"reduced": (REDUCED, 16), "full": (BigGANConfig(), 64)}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Without TF32, which rounds to ten bits; and the memory of a test is given back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    gc.collect()
    torch.cuda.empty_cache()


def make_pair(size: str) -> tuple[PublishedCGN, ImageNetCGN]:
    """The published networks and ours, of the same weights, on the GPU."""
    published, cgn = _make_pair(size)
    return published, copy.deepcopy(cgn)


@cache
def _make_pair(size: str) -> tuple[PublishedCGN, ImageNetCGN]:
    sizes, width = SIZES[size]
    with isolated_rng(0, CUDA), CUDA:  # first weights are drawn faster there
        published, cgn = PublishedCGN(sizes, width), ImageNetCGN(sizes, unet_width=width)
    state = published.state_dict()
    cgn.load_state_dict({k: v for k, v in state.items() if not k.startswith("biggan_GT.")})
    return published.to("cuda"), cgn.to("cuda").freeze()


def make_reduced() -> ImageNetCGN:
    return make_reduced_cgn(REDUCED).freeze().to("cuda")


def make_inputs(cgn: ImageNetCGN, num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    noise = cgn.draw_noise(num, torch.Generator().manual_seed(seed))
    return noise, torch.arange(num, device="cuda") % cgn.num_classes


def draw(cgn: ImageNetCGN, noise: Tensor, y: Tensor) -> list[Tensor]:
    return [getattr(cgn, factor)(noise, y) for factor in FACTORS]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_images_are_those_of_the_published_way(size: str) -> None:
    published, cgn = make_pair(size)
    noise, y = make_inputs(cgn, 2)
    expected = published(noise, y)
    assert expected.std() > 0.01
    drawn = compose(*draw(cgn, noise, y))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)
    cgn.use_graphs()
    for _ in range(3):
        drawn = compose(*draw(cgn, noise, y))
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    cgn = make_reduced()
    noise, y = make_inputs(cgn, 3)
    elsewhere = copy.deepcopy(cgn).to("cpu")
    expected = draw(elsewhere, noise.cpu(), y.cpu())
    for drawn, other in zip(draw(cgn, noise, y), expected, strict=True):
        torch.testing.assert_close(drawn.cpu(), other, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=["bf16", "fp16"]
)
@pytest.mark.parametrize("size", SIZES)
def test_half_the_precision_is_near(size: str, dtype: torch.dtype, bound: float) -> None:
    _, cgn = make_pair(size)
    noise, y = make_inputs(cgn, 2)
    expected, half = draw(cgn, noise, y), draw(cgn.to(dtype), noise, y)
    for drawn, other in zip(half, expected, strict=True):
        assert drawn.dtype == torch.float32
        assert 0 < (drawn - other).pow(2).mean().sqrt() < bound


@torch.no_grad()
@pytest.mark.parametrize("graphs", [False, True])
def test_the_same_noise_draws_the_same_bits(graphs: bool) -> None:
    cgn = make_reduced().use_graphs(graphs)
    inputs = make_inputs(cgn, 4)
    first, *others = [draw(cgn, *inputs) for _ in range(4)]
    for images in others[graphs:]:  # which kernels a recording has may differ from the first call's
        for one, other in zip(images, (others[0] if graphs else first), strict=True):
            assert torch.equal(one, other)


# Graphs


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_graphs_draw_the_same_images_of_other_noise_and_truncations(dtype: torch.dtype) -> None:
    cgn = make_reduced().to(dtype)
    plain = copy.deepcopy(cgn)
    cgn.use_graphs()
    drawn = []
    for seed in range(6):
        num, truncation = (2, 3)[seed % 2], (0.5, 1.0)[seed // 4]
        for each in (cgn, plain):
            each.set_truncation(truncation)
        inputs = make_inputs(cgn, num, seed)
        drawn.append((draw(cgn, *inputs), draw(plain, *inputs)))
    assert cgn._graphs is not None
    assert len(cgn._graphs) == 6  # at truncation 1 each size came once
    for ours, expected in drawn:  # all of them once more: none was overwritten
        for one, other in zip(ours, expected, strict=True):
            atol = 1e-4 if dtype == torch.float32 else 0.05
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


@torch.no_grad()
def test_changed_moved_and_copied_weights_are_drawn_with() -> None:
    cgn = make_reduced().use_graphs()
    inputs = make_inputs(cgn, 2)
    for _ in range(3):
        before = draw(cgn, *inputs)
    copies = [copy.deepcopy(cgn), pickle.loads(pickle.dumps(cgn))]
    for each in copies:
        assert each._graphs is not None
        assert len(each._graphs) == 0
    cgn.f_text.generator.conv_to_rgb.bias.add_(0.1)
    cgn.u2net.outconv.bias.add_(1.0)
    after = draw(cgn, *inputs)
    pairs = zip(before, after, strict=True)
    changed = [(one - other).abs().max().item() > 1e-3 for one, other in pairs]
    assert changed == [True, True, False]
    for each in [*copies, cgn.to("cpu").to("cuda")]:
        for _ in range(3):
            drawn = draw(each, *inputs)
        expected = after if each is cgn else before
        for one, other in zip(drawn, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def read_reserved() -> int:
    """Bytes that the process holds of the GPU, less what libraries work in."""
    torch.cuda.synchronize()
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


@torch.no_grad()
def test_memory_stays_level_and_comes_back() -> None:
    cgn = make_reduced()
    inputs = make_inputs(cgn, 32)
    draw(cgn, *inputs)
    without = read_reserved()
    cgn.use_graphs()
    held = []
    for step in range(200):
        draw(cgn, *inputs)
        if step in (20, 199):
            torch.cuda.synchronize()
            held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert held[0] == held[1]
    assert read_reserved() > without + 2**25  # 32 MiB
    cgn.use_graphs(False)
    assert read_reserved() <= without + 2**25


@pytest.mark.parametrize("graphs", [False, True])
def test_threads_and_streams_get_their_own_images(graphs: bool) -> None:
    cgn = make_reduced().use_graphs(graphs)
    inputs = [make_inputs(cgn, 2, seed) for seed in range(4)]
    with torch.no_grad():
        expected = [[each.clone() for each in draw(cgn, *each)] for each in inputs]
    torch.cuda.synchronize()
    found: list[list[list[Tensor]]] = [[] for _ in inputs]

    def work(number: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(8):
                found[number].append(draw(cgn, *inputs[number]))
            stream.synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for drawn, wanted in zip(found, expected, strict=True):
        assert len(drawn) == 8
        for images in drawn:
            for one, other in zip(images, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@torch.no_grad()
def test_compiled_kernels_draw_the_same() -> None:
    pytest.importorskip("triton")
    cgn = make_reduced()
    for num in (1, 4):
        inputs = make_inputs(cgn, num)
        expected = draw(cgn.use_graphs(False), *inputs)
        cgn.use_graphs(compiled=True)
        for _ in range(3):
            for one, other in zip(draw(cgn, *inputs), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
