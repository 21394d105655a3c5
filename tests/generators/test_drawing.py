"""Running mechanisms: what is shared, what a chunk bounds, what is shuffled."""

from __future__ import annotations

import pytest
import torch
from source_helpers import ReadableCGN, seeded

from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import draw_factors, run_mechanisms

Y = torch.arange(30).view(3, 10) % 10


def test_shared_shapes_cost_one_run_for_the_group() -> None:
    cgn = ReadableCGN()
    draw_factors(cgn, Y, seeded(), 4, 64)
    assert cgn.made == {"shape": 3, "texture": 10, "background": 10}
    assert cgn.calls == {"shape": 1, "texture": 1, "background": 1}


def test_a_chunk_bounds_what_a_mechanism_makes_at_once(tiny_cgn: SmallCGN) -> None:
    cgn = ReadableCGN()
    draw_factors(cgn, Y, seeded(), 1, 4)
    assert [len(noise) for noise in cgn.noises["texture"]] == [4, 4, 2]
    for mechanisms in (cgn, tiny_cgn):
        pair = (run_mechanisms(mechanisms, Y, seeded(), 1, chunk) for chunk in (3, 64))
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("shared", [True, False])
def test_one_noise_goes_to_all_mechanisms_where_the_cgn_says_so(shared: bool) -> None:
    cgn = ReadableCGN(shared_noise=shared)
    draw_factors(cgn, Y[:, :5], seeded(), 2, 64)
    shape, texture, background = (torch.cat(cgn.noises[factor]) for factor in cgn.noises)
    assert len(shape) == 3
    assert torch.equal(texture, background) == shared
    assert torch.equal(texture, shape.repeat_interleave(2, 0)[:5]) == shared


def test_textures_are_shuffled_and_masks_are_not(tiny_cgn: SmallCGN) -> None:
    y = torch.zeros(3, 6, dtype=torch.int64)
    factors, generator = draw_factors(tiny_cgn, y, seeded(2), 1, 64), seeded(2)
    noise = [tiny_cgn.draw_noise(6, generator) for _ in range(3)]
    assert torch.equal(factors.mask, tiny_cgn.shape(noise[0], y[0]))
    for shuffled, plain in (
        (factors.foreground, tiny_cgn.texture(noise[1], y[1])),
        (factors.background, tiny_cgn.background(noise[2], y[2])),
    ):
        assert not torch.equal(shuffled, plain)
        assert torch.equal(shuffled.flatten(2).sort().values, plain.flatten(2).sort().values)
