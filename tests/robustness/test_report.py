"""Tables and pictures of an evaluation."""

from __future__ import annotations

import pytest
from robustness_helpers import CATEGORIES

from cgn_augment.errors import ArgumentError
from train_generator.robustness import draw_pictures, draw_shape_bias, draw_shares, make_tables


def test_a_bias_that_does_not_exist_is_a_dash() -> None:
    row = {"shape_bias": None, "shape_accuracy": 0.0, "texture_accuracy": 0.0}
    row |= {"num_cue_decisions": 0, "num_images": 5}
    row["categories"] = {name: {"shape_bias": None} for name in CATEGORIES}
    ((title, table),) = make_tables("cue_conflict", {"mine": {"logits": row}}).items()
    assert title == "Cue-conflict images"
    assert table[1] == ["mine", "logits", "-", "0.0 %", "0.0 %", "0", "5"]
    figure = draw_shape_bias({"mine": {"logits": row}})
    assert len(figure.axes[0].lines) == 1  # points of categories, and no line of all


def test_a_row_is_named_as_shortly_as_it_can_be() -> None:
    def rows(*outputs: str) -> dict[str, dict[str, object]]:
        shares = dict.fromkeys(("shape", "texture", "background"), 0.5)
        row = {"accuracy": shares, "sensitivity": shares, "num_images": 4}
        return dict.fromkeys(outputs, row)

    def names(measured: dict[str, dict[str, dict[str, object]]]) -> list[str]:
        axes = draw_pictures("factors", measured)["sensitivity"].axes[0]
        return [label.get_text() for label in axes.get_yticklabels()]

    assert names({"a": rows("logits"), "b": rows("logits")}) == ["a", "b"]
    assert names({"a": rows("shape", "texture")}) == ["shape", "texture"]
    assert names({"a": rows("x", "y"), "b": rows("logits")}) == ["a: x", "a: y", "b"]


def test_a_grid_needs_rows_of_the_same_columns() -> None:
    with pytest.raises(ArgumentError, match="rows of the same columns"):
        draw_shares({})
    with pytest.raises(ArgumentError, match="rows of the same columns"):
        draw_shares({"a": {"x": 0.5}, "b": {"y": 0.5}})
