"""Factor sensitivity, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from cgn_augment.types import FACTORS
from train_generator.robustness import (
    change_factors,
    factor_sensitivity,
    measure_factors,
)


class StubCGN:
    """Images that say exactly how they were made: red the texture, green the background.

    Blue is -1 on the object, which lies in row `class`; the noise moves colours by less than the
    half of a class.
    """

    num_classes, image_size = 4, 8
    fingerprint = "stub"
    device = torch.device("cpu")

    def __init__(self, shared_noise: bool = False) -> None:
        self.shared_noise = shared_noise
        self.calls: dict[str, list[Tensor]] = {factor: [] for factor in FACTORS}

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["shape"].append(noise)
        rows = torch.eye(8)[y].view(-1, 1, 8, 1)
        return rows.expand(-1, 1, 8, 8).clone()

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["texture"].append(noise)
        return self._color(noise, y, channel=0, blue=-1.0)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["background"].append(noise)
        return self._color(noise, y, channel=1, blue=1.0)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        torch.randint(9, (len(images), 2), generator=generator)
        return images

    def _color(self, noise: Tensor, y: Tensor, channel: int, blue: float) -> Tensor:
        images = torch.zeros(len(y), 3, 8, 8)
        images[:, channel] = ((y + 0.8 * noise[:, 0] + 0.1) / 4 * 2 - 1).view(-1, 1, 1)
        images[:, 2] = blue
        return images


def read_factors(images: Tensor) -> dict[str, Tensor]:
    """Three outputs that each read one factor of the stub's images without error."""
    inside = images[:, 2, :, 0] < 0
    row = inside.int().argmax(dim=1)
    places = torch.arange(len(images))
    red, green = images[places, 0, row, 0], images[:, 1, 7, 7]
    found = {"shape": row, "texture": to_class(red), "background": to_class(green)}
    found["half"] = found["background"] // 2
    return {name: torch.eye(4)[y] for name, y in found.items()}


def to_class(color: Tensor) -> Tensor:
    return ((color + 1) * 2).floor().long()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shared_noise", [False, True])
def test_an_output_that_reads_one_factor_is_sensitive_to_it_alone(shared_noise: bool) -> None:
    found = factor_sensitivity(read_factors, StubCGN(shared_noise), 60, seeded(), chunk=16)
    assert found.outputs == ("shape", "texture", "background", "half")
    assert found.shares[:3] == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert found.num == 60
    # Two of four classes look alike to it: it flips for two of the three other classes.
    assert found.shares[3][:2] == (0, 0)
    error = found.standard_errors[3][2]
    assert error == pytest.approx(math.sqrt(found.shares[3][2] * (1 - found.shares[3][2]) / 60))
    assert abs(found.shares[3][2] - 2 / 3) < 4 * error
    (part,) = change_factors(StubCGN(shared_noise), 60, seeded())
    flips = part.classes[2] // 2 != part.new_classes[2] // 2
    assert found.shares[3][2] == flips.sum() / 60


def test_accuracy_is_measured_on_the_label_of_each_factor() -> None:
    measured = measure_factors(read_factors, StubCGN(), 40, seeded(), chunk=7)
    (part,) = change_factors(StubCGN(), 40, seeded())
    for row, factor in enumerate(FACTORS):
        same = [float((part.classes[row] == part.classes[i]).sum() / 40) for i in range(3)]
        assert measured.accuracy.shares[row] == pytest.approx(same), factor
        assert measured.accuracy.shares[row][row] == 1
    assert (
        measured.sensitivity.shares
        == factor_sensitivity(read_factors, StubCGN(), 40, seeded()).shares
    )
    mapped = measure_factors(read_factors, StubCGN(), 40, seeded(), to_label=lambda y: 3 - y)
    assert mapped.accuracy.shares[0][0] == 0


def test_one_factor_changes_and_the_others_stay() -> None:
    (part,) = change_factors(StubCGN(), 30, seeded())
    assert (part.classes != part.new_classes).all()
    shown = {name: scores.argmax(1) for name, scores in read_factors(part.images).items()}
    for row, factor in enumerate(FACTORS):
        assert torch.equal(shown[factor], part.classes[row])
        changed = read_factors(part.changed[factor])
        assert torch.equal(changed[factor].argmax(1), part.new_classes[row])
    # The colours, noise and all, are those of the first images where they do not change.
    assert torch.equal(part.changed["texture"][:, 1, 7], part.images[:, 1, 7])
    assert torch.equal(part.changed["shape"][:, 1, 7], part.images[:, 1, 7])
    assert torch.equal(
        part.changed["background"][:, 0].amin((1, 2)), part.images[:, 0].amin((1, 2))
    )


@pytest.mark.parametrize("shared_noise", [False, True])
def test_a_changed_factor_has_noise_of_its_own(shared_noise: bool) -> None:
    cgn = StubCGN(shared_noise)
    list(change_factors(cgn, 5, seeded()))
    drawn = [noise for factor in FACTORS for noise in cgn.calls[factor]]
    assert len(drawn) == 6
    different = {tuple(noise.flatten().tolist()) for noise in drawn}
    assert len(different) == (4 if shared_noise else 6)


def test_a_changed_class_is_of_another_group() -> None:
    groups = [[0, 1], [3]]
    (part,) = change_factors(StubCGN(), 50, seeded(), choices=groups)
    assert set(part.classes.flatten().tolist()) == {0, 1, 3}
    assert ((part.classes == 3) != (part.new_classes == 3)).all()
    assert set(part.new_classes.flatten().tolist()) == {0, 1, 3}
    share = (part.classes == 3).double().mean()
    assert abs(share - 0.5) < 0.2  # each group is drawn as often, however many classes it has


def test_all_other_classes_come_equally_often() -> None:
    (part,) = change_factors(StubCGN(), 2000, seeded(), chunk=2000)
    steps = ((part.new_classes - part.classes) % 4).flatten()
    counts = torch.bincount(steps, minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 5 * math.sqrt(6000 * 2 / 9)


def test_what_is_drawn_depends_on_the_generator_and_not_on_the_chunk(tiny_cgn: SmallCGN) -> None:
    def draw(seed: int, chunk: int) -> dict[str, Tensor]:
        parts = list(change_factors(tiny_cgn, 5, seeded(seed), chunk=chunk))
        assert [len(part.images) for part in parts] == ([5] if chunk == 5 else [3, 2])
        whole = {factor: torch.cat([x.changed[factor] for x in parts]) for factor in FACTORS}
        return whole | {"image": torch.cat([part.images for part in parts])}

    once, again, other = draw(0, 5), draw(0, 3), draw(1, 5)
    for name, images in once.items():
        torch.testing.assert_close(images, again[name], atol=1e-5, rtol=0)
        assert images.shape == (5, 3, 32, 32)
        assert (images - other[name]).abs().max() > 0.1
        if name != "image":
            assert (images - once["image"]).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(
    ("num", "chunk", "choices", "message"),
    [
        (0, 1, None, "num must be 1 or more, got 0"),
        (1, 0, None, "chunk must be 1 or more, got 0"),
        (1, 1, [[3]], "between two classes or more"),
    ],
)
def test_sensitivity_refuses_what_cannot_be_drawn(
    num: int, chunk: int, choices: Sequence[Sequence[int]] | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        factor_sensitivity(read_factors, StubCGN(), num, seeded(), chunk=chunk, choices=choices)
