"""The stage that trains a masker, and the masks that it finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest import make_tiny_cgn
from torch import Tensor

from cgn_augment.functional import compose, isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import UNetMasker
from train_generator.small.blobs import draw_blobs
from train_generator.small.config import MaskerConfig
from train_generator.small.masker import (
    FactorPools,
    MaskerStage,
    drawn_parts,
    find_masks,
    one_cycle,
)

CPU = torch.device("cpu")


def make_masker(width: int = 4, seed: int = 0) -> UNetMasker:
    with isolated_rng(seed, CPU):
        return UNetMasker(width)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


class Painter(SmallCGN):
    """Draws blobs, red to orange on blue to violet, as a CGN that has learned to would."""

    def __init__(self) -> None:
        with isolated_rng(0, CPU):
            super().__init__(width=4)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        return draw_blobs(noise).clamp(1e-4, 0.9999)

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._paint(y, (0.7, -0.7))

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._paint(y, (-0.7, 0.7))

    def _paint(self, y: Tensor, red_and_blue: tuple[float, float]) -> Tensor:
        color = torch.zeros(len(y), 3, 1, 1)
        color[:, 0], color[:, 2] = red_and_blue
        color[:, 1, 0, 0] = y / 10 - 0.5
        return color.expand(-1, -1, 32, 32)


def make_stage(
    parts: SmallCGN | FactorPools,
    accelerator: Accelerator,
    masker: UNetMasker | None = None,
    start: UNetMasker | None = None,
    **settings: object,
) -> MaskerStage:
    if isinstance(parts, SmallCGN):
        parts = drawn_parts(parts, 40)
    config = MaskerConfig(**{"batch_size": 8, "num_steps": 30, **settings})
    return MaskerStage(config, masker or make_masker(), parts, accelerator, start)


def with_masks(masks: Tensor) -> FactorPools:
    """The Painter's foregrounds and backgrounds with other masks."""
    return replace(drawn_parts(Painter().eval(), 40), masks=masks)


def step(stage: MaskerStage, number: int) -> float:
    generator = torch.Generator().manual_seed(number)
    (loss,) = stage.step(number, generator).values()
    assert loss.shape == ()
    assert not loss.requires_grad
    return loss.item()


def test_the_masker_learns_to_find_what_the_cgn_draws(accelerator: Accelerator) -> None:
    cgn, masker = Painter().eval(), make_masker()
    stage = make_stage(cgn, accelerator, masker=masker, num_steps=60, learning_rate=0.02)
    losses = [step(stage, number) for number in range(60)]
    assert losses[-1] < losses[0] / 3
    noise, y = cgn.draw_noise(100, torch.Generator().manual_seed(9)), torch.arange(100) % 10
    mask = cgn.shape(noise, y)
    images = compose(mask, cgn.texture(noise, y), cgn.background(noise, y.flip(0)))
    found = find_masks(masker, images, accelerator)
    assert found.dtype == torch.bool
    assert (found == (mask > 0.5)).double().mean() > 0.97


def test_masks_are_found_in_any_chunks_and_without_gradients(
    accelerator: Accelerator, generator: torch.Generator
) -> None:
    masker = make_masker()
    images = torch.rand(7, 3, 32, 32, generator=generator) * 2 - 1
    with torch.no_grad():
        masker.eval().head.bias -= masker.logits(images).median()
    masker.train()
    found = find_masks(masker, images, accelerator)
    assert not masker.training
    assert found.shape == (7, 1, 32, 32)
    assert torch.equal(found, find_masks(masker, images, accelerator, chunk=3))
    assert torch.equal(found, masker.logits(images) > 0)
    assert 0.4 < found.double().mean() < 0.6


def test_the_cgn_is_left_as_it_is() -> None:
    cgn = make_tiny_cgn().eval()
    before = {name: value.clone() for name, value in cgn.state_dict().items()}
    drawn_parts(cgn, 40)
    assert all(torch.equal(value, before[name]) for name, value in cgn.state_dict().items())
    assert all(parameter.grad is None for parameter in cgn.parameters())


def test_a_step_is_a_function_of_parts_and_generator(accelerator: Accelerator) -> None:
    cgn = make_tiny_cgn().eval()
    losses = [
        step(make_stage(drawn_parts(cgn, 40, seed), accelerator), number)
        for seed, number in ((0, 5), (0, 5), (0, 6), (1, 5))
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_as_many_parts_of_each_class_are_drawn() -> None:
    parts = drawn_parts(Painter().eval(), 41)
    assert parts.masks.dtype == torch.bool
    assert parts.masks.shape == (50, 1, 32, 32)
    for pool, (red, blue) in ((parts.foregrounds, (0.7, -0.7)), (parts.backgrounds, (-0.7, 0.7))):
        assert pool.counts.tolist() == [5] * 10
        assert pool.images[:, 0].unique().item() == pytest.approx(red)
        assert pool.images[:, 2].unique().item() == pytest.approx(blue)


def test_the_first_step_starts_from_the_weights_of_the_round_before(
    accelerator: Accelerator,
) -> None:
    parts, other, start = with_masks(torch.ones(1, 1, 32, 32) > 0), make_masker(), make_masker()
    with torch.no_grad():
        for weight in other.parameters():
            weight.fill_(0.1)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    first = make_stage(parts, accelerator, make_masker())
    again = make_stage(parts, accelerator, other, start)
    assert [step(first, n) for n in (0, 1)] == [step(again, n) for n in (0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_half_of_a_batch_is_as_the_biased_images_are(accelerator: Accelerator) -> None:
    stage = make_stage(drawn_parts(Painter().eval(), 200), accelerator, batch_size=400, noise=0.0)
    images, mask = stage._draw(torch.Generator().manual_seed(0))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    red = images[:, 0] > 0
    assert torch.equal(red[:, None], mask == 1)
    green = images[:, 1]
    inside = (green * red).sum(dim=(1, 2)) / red.sum(dim=(1, 2))
    outside = (green * ~red).sum(dim=(1, 2)) / (~red).sum(dim=(1, 2))
    same = (inside - outside).abs() < 1e-3
    assert same[:200].all()
    # A tenth of the others: the standard deviation of that share is 0.021.
    assert same[200:].double().mean().item() == pytest.approx(0.1, abs=0.09)


def test_noise_is_as_strong_as_asked(accelerator: Accelerator) -> None:
    cgn = Painter().eval()
    clean, noisy = (
        make_stage(cgn, accelerator, noise=noise)._draw(torch.Generator().manual_seed(0))[0]
        for noise in (0.0, 0.25)
    )
    assert (noisy - clean).std().item() == pytest.approx(0.25, rel=0.03)


def test_masks_move_by_as_many_pixels_as_asked(accelerator: Accelerator) -> None:
    found = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    found[0, 0, 10, 20] = found[1, 0, 25, 5] = True  # both are drawn
    stage = make_stage(with_masks(found), accelerator, shift=2)
    places = {
        tuple(mask.nonzero().tolist()[0])
        for seed in range(200)
        for mask in stage._draw(torch.Generator().manual_seed(seed))[1][:, 0]
    }
    moves = range(-2, 3)
    centres = ((10, 20), (25, 5))
    assert places == {(y + dy, x + dx) for y, x in centres for dy in moves for dx in moves}
    stage = make_stage(with_masks(found[:1]), accelerator, shift=0)
    mask = stage._draw(torch.Generator().manual_seed(0))[1]
    assert torch.equal(mask, found[:1].float().expand(8, -1, -1, -1))


def share(step: int, num_steps: int) -> float:
    """Share of the highest learning rate, in closed form."""
    peak = max(1, num_steps // 3)
    if step < peak:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / peak)) / 2
    return (1 + math.cos(math.pi * (step - peak) / max(1, num_steps - peak))) / 2


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 500])
def test_the_learning_rate_rises_and_falls_once(num_steps: int) -> None:
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    schedule, rates = one_cycle(optimizer, 0.5, num_steps), []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 * share(step, num_steps) for step in range(num_steps)])


def test_the_learning_rate_of_a_step_is_that_of_the_cycle(accelerator: Accelerator) -> None:
    stage = make_stage(make_tiny_cgn().eval(), accelerator, learning_rate=0.01)
    rates = []
    for number in range(3):
        rates.append(stage.optimizers["masker"].param_groups[0]["lr"])
        step(stage, number)
    assert rates == pytest.approx([0.01 * share(number, 30) for number in range(3)])
