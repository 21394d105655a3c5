"""Images that are drawn by class."""

from __future__ import annotations

import pytest
import torch

from cgn_augment.errors import ArgumentError
from cgn_augment.parts.fill import ClassPool


def test_images_of_a_pool_are_of_the_class_and_all_of_them_come() -> None:
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    masks = torch.zeros(6, 1, 2, 4)
    for number in range(6):  # a mask is its number, in binary
        masks[number, 0, 0] = torch.tensor([float(number >> bit & 1) for bit in range(4)])
    y = torch.arange(3).repeat(200)
    drawn = ClassPool(masks, labels).draw(y, torch.Generator().manual_seed(0))
    assert drawn.shape == (600, 1, 2, 4)
    assert drawn.dtype == torch.float32
    numbers = (drawn[:, 0, 0] * torch.tensor([1, 2, 4, 8])).sum(dim=1).long()
    assert torch.equal(labels[numbers], y)
    counts = numbers.bincount(minlength=6)
    # 200 of each class: deviations of 7 for halves and for thirds.
    expected = torch.tensor([200 / 3, 100, 200 / 3, 200, 100, 200 / 3])
    assert (counts - expected).abs().max() < 30
    assert torch.equal(ClassPool(masks, labels).draw(y, torch.Generator().manual_seed(0)), drawn)


def test_images_that_cannot_be_drawn_are_an_error() -> None:
    masks, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 2])
    with pytest.raises(ArgumentError, match="no image of one of the classes: use more images"):
        ClassPool(masks, labels).draw(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    for wrong in (labels[:2], labels[:0]):
        with pytest.raises(ArgumentError, match=f"must be as many, got 3 and {len(wrong)}"):
            ClassPool(masks, wrong)
