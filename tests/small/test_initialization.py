"""How networks are initialised: what is drawn, from which numbers, messages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from train_generator.losses.discriminators import ConvDiscriminator, LinearDiscriminator
from train_generator.small.initialization import initialize


def make(kind: type[nn.Module], seed: int = 0, **arguments: int) -> nn.Module:
    with isolated_rng(seed, torch.device("cpu")):
        return kind(**arguments)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normal_weights_have_the_gain_as_deviation() -> None:
    discriminator = make(LinearDiscriminator)
    initialize(discriminator, "normal", 0.03, generator=seeded())
    for part in discriminator.modules():
        if isinstance(part, nn.Linear) and part.out_features > 1:
            # 262 144 numbers or more: the relative error of the deviation is 0.0014.
            assert part.weight.std().item() == pytest.approx(0.03, rel=0.01)
            assert part.weight.mean().item() == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("gain", [0.1, 0.2])
def test_orthogonal_weights_are_orthogonal_times_the_gain(gain: float) -> None:
    cgn = SmallCGN(width=4)
    initialize(cgn, "orthogonal", gain, generator=seeded())
    num_checked = 0
    for part in cgn.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            matrix = part.weight.detach().flatten(1).double()
            if matrix.shape[0] > matrix.shape[1]:
                matrix = matrix.T
            expected = gain**2 * torch.eye(len(matrix), dtype=torch.float64)
            torch.testing.assert_close(matrix @ matrix.T, expected, rtol=0, atol=1e-6)
            num_checked += 1
    assert num_checked == 3 + 2 + 3 + 3  # linear layers, then convolutions of each mechanism


@pytest.mark.parametrize("name", ["orthogonal", "normal"])
def test_batch_norm_is_about_one_and_biases_are_zero(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(20_000), nn.Linear(4, 6))
    for bias in (part.bias for part in module):
        nn.init.ones_(bias)
    initialize(module, name, 0.2, generator=seeded())
    scale = module[1].weight
    # 20 000 numbers: standard errors of 0.0014 and 0.001.
    assert scale.mean().item() == pytest.approx(1, abs=0.008)
    assert scale.std().item() == pytest.approx(0.2, abs=0.006)
    for part in module:
        assert torch.equal(part.bias, torch.zeros_like(part.bias))


def test_embeddings_are_standard_normal_whatever_the_gain() -> None:
    embedding = nn.Embedding(100, 200)
    nn.init.zeros_(embedding.weight)
    initialize(embedding, "orthogonal", 0.1, generator=seeded())
    assert embedding.weight.mean().item() == pytest.approx(0, abs=0.04)
    assert embedding.weight.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", [LinearDiscriminator, ConvDiscriminator, SmallCGN])
@pytest.mark.parametrize("name", ["orthogonal", "normal"])
def test_a_network_is_a_function_of_the_generator_alone(kind: type[nn.Module], name: str) -> None:
    modules = [make(kind, seed, width=4) for seed in (0, 1, 1)]
    before = torch.get_rng_state()
    for module, seed in zip(modules, (5, 5, 6), strict=True):
        initialize(module, name, 0.1, generator=seeded(seed))
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (module.state_dict() for module in modules)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if key.endswith("weight")]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    numbers = [first[key].flatten()[:4].tolist() for key in drawn]
    assert all(numbers.count(each) == 1 for each in numbers)  # each layer has its own


def test_weights_of_another_dtype_get_the_same_numbers() -> None:
    single, double = nn.Linear(4, 4), nn.Linear(4, 4).double()
    for module in (single, double):
        initialize(module, "orthogonal", 0.1, generator=seeded())
    assert double.weight.dtype == torch.float64
    assert torch.equal(double.weight, single.weight.double())


def test_parts_without_weights_and_running_statistics_stay_as_they_are() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3)
    )
    module[1].running_mean.fill_(7)
    initialize(module, "normal", 0.1, generator=seeded())
    assert module[1].running_mean.tolist() == [7, 7, 7]


@pytest.mark.gpu
def test_a_network_on_a_gpu_gets_the_weights_it_gets_on_a_cpu() -> None:
    cpu, gpu = make(ConvDiscriminator, width=4), make(ConvDiscriminator, width=4).cuda()
    for module in (cpu, gpu):
        initialize(module, "orthogonal", 0.1, generator=seeded())
    for key, value in gpu.state_dict().items():
        assert torch.equal(value.cpu(), cpu.state_dict()[key])
