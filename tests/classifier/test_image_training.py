"""The picture of a training: what it shows, and that all of it can be seen."""

from __future__ import annotations

import math

import pytest

from train_generator.classifier.image_training import plot_epochs
from train_generator.classifier.training import EpochResult, GroupResult

LOSSES = {"loss": ("cross-entropy", "C0")}
ACCURACIES = {"test_accuracy": ("validation", "C0"), "train_accuracy": ("training", "C1")}


def make_results(*losses: float) -> list[EpochResult]:
    return [EpochResult(n, loss, 1.0, 0.5) for n, loss in enumerate(losses, 1)]


def test_no_point_is_cut_off() -> None:
    left, right = plot_epochs(make_results(0.7, 0.69, 0.68), LOSSES, ACCURACIES).axes
    assert left.get_ylim()[0] == 0
    assert left.get_ylim()[1] > 0.7 * 1.02
    assert not any(line.get_clip_on() for axes in (left, right) for line in axes.lines)


def test_axes_say_what_they_show() -> None:
    _, right = plot_epochs(make_results(0.7), LOSSES, ACCURACIES, "accuracy").axes
    assert right.get_ylabel() == "accuracy (%)"
    _, right = plot_epochs(make_results(0.7), LOSSES, ACCURACIES).axes
    assert right.get_ylabel() == "validation accuracy (%)"


@pytest.mark.parametrize("num", [1, 2, 5, 100])
def test_epochs_are_whole_numbers(num: int) -> None:
    for axes in plot_epochs(make_results(*[0.5] * num), LOSSES, ACCURACIES).axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(float(tick).is_integer() for tick in shown)


def test_the_epoch_that_is_kept_is_marked() -> None:
    _, right = plot_epochs(make_results(0.7, 0.6), LOSSES, ACCURACIES, kept=2).axes
    assert list(right.lines[-1].get_xdata()) == [2, 2]
    assert [text.get_text() for text in right.get_legend().get_texts()][-1] == "kept: epoch 2"


def test_what_was_not_measured_is_a_gap() -> None:
    results = [
        GroupResult(n, 0.5, 1.0, 0.5, 0.2, adjusted, {"land": 0.5})
        for n, adjusted in ((1, None), (2, 0.4))
    ]
    _, right = plot_epochs(results, LOSSES, {"adjusted_accuracy": ("adjusted", "C4")}).axes
    gap, point = right.lines[0].get_ydata()
    assert math.isnan(gap)
    assert point == pytest.approx(40)
