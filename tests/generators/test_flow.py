"""The flow of the deep shape mechanism: an invertible map with a known determinant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import isolated_rng
from cgn_augment.generators.flow import MAX_LOG_SCALE, CodeFlow


def make_flow(noise_dim: int = 6, embedding_dim: int = 3, **sizes: int) -> CodeFlow:
    """A float64 flow that does something: its last layers are random too."""
    with isolated_rng(0, torch.device("cpu")):
        flow = CodeFlow(noise_dim, embedding_dim, **{"hidden_dim": 16, **sizes}).double()
        for layer in flow.layers:
            torch.nn.init.normal_(layer[-1].weight, std=0.3)
            torch.nn.init.normal_(layer[-1].bias, std=0.3)
    return flow.requires_grad_(False)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_layers", [1, 8])
def test_invert_is_the_inverse(num_layers: int, generator: torch.Generator) -> None:
    flow, inputs = make_flow(num_layers=num_layers), draw(generator, 50, 9)
    codes = flow(inputs)
    assert codes.shape == inputs.shape
    assert (codes - inputs).abs().max() > 0.1
    torch.testing.assert_close(flow.invert(codes)[0], inputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(flow.invert(inputs)[0]), inputs, rtol=0, atol=1e-10)


def test_the_determinant_is_that_of_the_jacobian(generator: torch.Generator) -> None:
    flow, codes = make_flow(), draw(generator, 5, 9)
    log_determinants = flow.invert(codes)[1]
    assert log_determinants.shape == (5,)
    for code, ours in zip(codes, log_determinants, strict=True):
        rest = code[6:]

        def to_noise(numbers: Tensor, rest: Tensor = rest) -> Tensor:
            return flow.invert(torch.cat([numbers, rest])[None])[0][0, :6]

        jacobian = torch.autograd.functional.jacobian(to_noise, code[:6])
        assert ours.item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-10)
    assert log_determinants.std() > 0.01


def test_a_new_flow_changes_nothing(generator: torch.Generator) -> None:
    flow, inputs = CodeFlow(8, 3), torch.randn(4, 11, generator=generator)
    assert torch.equal(flow(inputs), inputs)
    noise, log_determinant = flow.invert(inputs)
    assert torch.equal(noise, inputs)
    assert torch.equal(log_determinant, torch.zeros(4))


def test_the_embedding_passes_through_and_matters(generator: torch.Generator) -> None:
    flow, inputs = make_flow(), draw(generator, 4, 9)
    kept, other = inputs.clone(), inputs.clone()
    other[:, 6:] += 1
    for run in (flow, lambda numbers: flow.invert(numbers)[0]):
        output, changed = run(inputs), run(other)
        assert torch.equal(output[:, 6:], inputs[:, 6:])
        assert torch.equal(changed[:, 6:], other[:, 6:])
        assert ((output - changed)[:, :6].abs() > 1e-6).any(dim=1).all()
    assert torch.equal(inputs, kept)


def test_every_number_of_a_code_depends_on_every_number_of_the_noise(
    generator: torch.Generator,
) -> None:
    flow, inputs = make_flow(), draw(generator, 1, 9)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0, :6], inputs)[:, 0, :6]
    assert (jacobian != 0).all()


def test_a_layer_stretches_by_a_bounded_factor(generator: torch.Generator) -> None:
    flow, codes = make_flow(num_layers=1), draw(generator, 50, 9)
    torch.nn.init.constant_(flow.layers[0][-1].bias, -1e6)
    assert flow.invert(codes)[1].tolist() == pytest.approx([3 * MAX_LOG_SCALE] * 50)


@pytest.mark.parametrize("name", ["noise_dim", "embedding_dim", "num_layers", "hidden_dim"])
def test_a_flow_of_no_size_or_of_odd_noise_is_an_error(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be 1 or more, got 0"):
        CodeFlow(**{"noise_dim": 4, "embedding_dim": 3, name: 0})
    with pytest.raises(ArgumentError, match=r"noise_dim must be even, .*; got 7"):
        CodeFlow(7, 3)
