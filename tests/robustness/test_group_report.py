"""The picture of accuracies by group: all of it can be seen and is explained."""

from __future__ import annotations

import itertools

import pytest

from train_generator.metrics.groups import GroupAccuracies
from train_generator.robustness.group_report import draw_groups

NAMES = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")


def test_a_bar_to_the_top_ends_below_the_frame_and_lines_are_explained() -> None:
    found = GroupAccuracies(NAMES, (10, 10, 10, 0), (10, 9, 5, 0))
    [axes] = draw_groups({"mine": found.as_row()}).axes
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 100
    title = axes.get_legend().get_title().get_text()
    assert title.splitlines() == ["dashed: average over images", "lines on bars: standard error"]
    assert "(no image)" in axes.get_xticklabels()[-1].get_text().replace("\n", " ")


@pytest.mark.parametrize("num", [2, 4, 8, 24])
def test_names_of_groups_do_not_run_into_each_other(num: int) -> None:
    names = tuple(f"{number} {NAMES[number % 4]}" for number in range(num))
    found = GroupAccuracies(names, (10,) * num, (5,) * num)
    figure = draw_groups({"mine": found.as_row(), "yours": found.as_row()})
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
