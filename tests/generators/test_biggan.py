"""BigGAN-deep: the right statistics, the published images, and folding."""

from __future__ import annotations

import dataclasses

import pytest
import pytorch_pretrained_biggan
import torch
from imagenet_helpers import REDUCED, make_reduced_biggan
from torch import nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import isolated_rng
from cgn_augment.generators import BigGAN, BigGANConfig
from cgn_augment.generators.biggan import EPSILON, _make_published
from cgn_augment.generators.truncation import StatisticsRows, find_rows

CPU = torch.device("cpu")
OFF_BY_ONE = (0.14, 0.28, 0.56, 0.58, 0.94)


def draw_published(biggan: BigGAN, noise: torch.Tensor, y: torch.Tensor, truncation: float):
    """What the package itself draws with the weights of `biggan`."""
    network = _make_published(biggan.config)
    network.load_state_dict(biggan.state_dict())
    one_hot = torch.nn.functional.one_hot(y, biggan.config.num_classes).float()
    return network.eval()(noise, one_hot, truncation)


def make_inputs(num: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(num, 8, generator=torch.Generator().manual_seed(0))
    return noise, torch.arange(num) % REDUCED.num_classes


@torch.no_grad()
@pytest.mark.parametrize("truncation", [*OFF_BY_ONE, 0.01, 0.333, 0.5, 0.71, 0.995, 1.0])
def test_the_published_lookup_draws_what_the_package_draws(truncation: float) -> None:
    biggan, (noise, y) = make_reduced_biggan(), make_inputs()
    expected = draw_published(biggan, noise, y, truncation)
    drawn = biggan(noise, y, truncation, "published")
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)
    exact = biggan(noise, y, truncation)
    same = truncation in (0.01, 0.5, 0.71, 1.0)  # on a row, or in the middle of two
    assert torch.allclose(exact, expected, rtol=1e-5, atol=1e-5) == same


def test_every_truncation_has_its_row_and_the_published_lookup_is_off_by_one() -> None:
    off = []
    for row in range(1, 51):
        for truncation in (row / 50, float(f"{row / 50:.2f}"), min(row * 0.02, 1.0)):
            assert find_rows(truncation) == StatisticsRows(row, row, 0.0)
        rows = find_rows(row / 50, lookup="published")
        if round(rows.lower + rows.fraction * (rows.upper - rows.lower)) != row:
            off.append(row / 50)
    assert off == list(OFF_BY_ONE)


def test_between_two_rows_the_nearer_one_counts_more() -> None:
    rows = find_rows(0.505)
    assert (rows.lower, rows.upper) == (25, 26)
    assert rows.fraction == pytest.approx(0.25)
    assert find_rows(0.505, lookup="published").fraction == pytest.approx(0.75)
    assert find_rows(0.005) == (0, 1, pytest.approx(0.25))
    assert find_rows(0.75, num_rows=3) == (1, 2, pytest.approx(0.5))


@pytest.mark.parametrize("truncation", [0, -0.5, 1.01, float("nan")])
def test_a_truncation_out_of_range_is_an_error(truncation: float) -> None:
    with pytest.raises(ArgumentError, match=f"above 0 and at most 1, got {truncation!r}"):
        find_rows(truncation)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_the_published_sizes_are_those_of_the_packages_layers(size: int) -> None:
    config = BigGANConfig.published(size)
    assert config.image_size == size
    # Self-attention is at 64x64 pixels in all three.
    assert 4 * 2 ** sum(up for up, _, _ in config.layers[: config.attention_at]) == 64
    reduced = dataclasses.replace(config, channel_width=4, num_classes=3, noise_dim=4)
    with torch.no_grad():
        images = make_reduced_biggan(reduced)(torch.zeros(1, 4), torch.tensor([2]), 0.5)
    assert images.shape == (1, 3, size, size)


def test_the_128_pixel_layers_are_the_packages_default() -> None:
    default = pytorch_pretrained_biggan.BigGANConfig()
    ours = BigGANConfig.published(128)
    assert list(ours.layers) == default.layers
    assert ours.attention_at == default.attention_layer_position
    assert (EPSILON, ours.num_statistics) == (default.eps, default.n_stats)


@torch.no_grad()
def test_folding_changes_rounding_alone_and_works_once() -> None:
    biggan, (noise, y) = make_reduced_biggan(), make_inputs()
    expected = biggan(noise, y, 0.4)
    for _ in range(2):
        biggan.fold()
        torch.testing.assert_close(biggan(noise, y, 0.4), expected, rtol=1e-5, atol=1e-5)
    assert not [name for name in biggan.state_dict() if name.endswith(("_orig", "_u", "_v"))]


def test_a_training_loop_leaves_it_in_eval_and_its_norms_as_they_are() -> None:
    biggan, (noise, y) = make_reduced_biggan(), make_inputs()
    nn.ModuleDict({"all of it": biggan}).train()
    assert not any(part.training for part in biggan.modules())
    before = {name: value.clone() for name, value in biggan.state_dict().items()}
    biggan(noise, y).mean().backward()
    assert all(torch.equal(value, before[name]) for name, value in biggan.state_dict().items())
    without = [name for name, p in biggan.named_parameters() if p.grad is None]
    assert without == []


def test_a_new_network_has_true_spectral_norms_and_finite_weights() -> None:
    with isolated_rng(0, CPU), torch.no_grad():
        biggan = BigGAN(REDUCED)
        assert biggan(*make_inputs()).isfinite().all()
        biggan.fold()
    for name, weight in biggan.named_parameters():
        if weight.dim() > 1 and "embeddings" not in name:
            norm = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
            assert norm == pytest.approx(1, abs=0.2), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 or more, got 0"),
        ({"channel_width": 6}, "channel_width must be a multiple of 4, got 6"),
        ({"layers": ((False, 8, 4),)}, "block 0 goes from 8 .* must begin at 16"),
        ({"layers": ()}, "from 16 channel widths to 1"),
        ({"layers": ((False, 16, 4), (True, 4, 1))}, "block 0 goes from 16 to 4 channel widths"),
        (
            {"layers": ((False, 16, 8), (True, 4, 4), (True, 4, 2), (True, 2, 1))},
            "block 1 goes from 4 to 4 channel widths: it must begin at 8",
        ),
        ({"attention_at": 6}, "one of the blocks 0 to 5 that takes .*, got 6"),
        (
            {"layers": (*REDUCED.layers, (False, 1, 1)), "attention_at": 6},
            "that takes a multiple of 8 channels, got 6",
        ),
    ],
)
def test_sizes_that_fit_no_generator_are_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        dataclasses.replace(REDUCED, **changes)


def test_a_size_that_was_not_published_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="published at 128, 256, 512 pixels, not at 64"):
        BigGANConfig.published(64)
