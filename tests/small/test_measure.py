"""Metrics of a generator of images whose true factors nobody knows."""

from __future__ import annotations

import torch
from conftest import make_tiny_cgn
from small_helpers import make_images

from train_generator.metrics.tables import NOTHING
from train_generator.small.measure import HEADER, halve, measure_drawn


def test_real_images_measure_as_themselves_and_noise_does_not() -> None:
    data, found = make_images(90)
    cgn = make_tiny_cgn(num_classes=3).freeze()
    header, drawn, real = measure_drawn(cgn, data.images, data.labels, found, num_textures=8)
    assert header == HEADER
    cells = dict(zip(header[1:], map(float, real[1:]), strict=True))
    assert cells["mask entropy"] == 0
    assert abs(cells["mask area"] - float(found.float().mean())) < 0.001
    assert abs(cells["diversity"] - 1) < 0.3
    assert cells["coverage"] == 1
    assert all(0.4 < cells[f"{name} diversity"] < 2.5 for name in ("texture", "background"))
    assert float(drawn[header.index("coverage")]) == 0
    assert float(drawn[header.index("mask entropy")]) > 0.1


def test_what_cannot_be_compared_has_no_number() -> None:
    data, found = make_images(9)
    cgn = make_tiny_cgn(num_classes=3).freeze()
    for masks in (found, None):  # three images of a class are too few; then no masker was trained
        _, row, *_ = measure_drawn(cgn, data.images, data.labels, masks, num_textures=2)
        assert float(row[1]) > 0
        assert row[HEADER.index("coverage")] == row[HEADER.index("texture diversity")] == NOTHING


def test_halves_share_no_image_and_have_each_class() -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    first, second = halve(labels)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(6))
    assert labels[first].unique().tolist() == [0, 1, 2]
    assert labels[second].tolist() == [0, 1]
