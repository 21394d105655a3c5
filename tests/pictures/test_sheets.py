"""Labelled sheets, and how a figure is written."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import matplotlib.image
import pytest
import torch
from source_helpers import shown

from cgn_augment.errors import ArgumentError
from cgn_augment.pictures.sheets import draw_sheet, save_figure


def test_a_sheet_shows_images_masks_names_and_captions() -> None:
    images = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)])
    masks = torch.full((1, 1, 4, 4), 0.25)
    figure = draw_sheet({"real": images, "mask": masks}, {"real": ["class 3", "class 5"]}, "title")
    black, white, mask, nothing = figure.axes
    assert (shown(black) == 0).all()
    assert (shown(white) == 1).all()
    assert shown(mask).shape == (4, 4, 3)
    assert (shown(mask) == 0.25).all()
    assert not nothing.get_images()
    assert [axes.get_ylabel() for axes in figure.axes] == ["real", "", "mask", ""]
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["class 3", "class 5"]
    assert figure.get_suptitle() == "title"


@pytest.mark.parametrize(
    ("rows", "captions", "message"),
    [
        ({}, {}, "needs one row of images or more"),
        ({"a": torch.zeros(3, 8, 8)}, {}, r"row 'a' must be images .* got \(3, 8, 8\)"),
        ({"a": torch.zeros(0, 3, 8, 8)}, {}, "row 'a' must be images"),
        ({"a": torch.zeros(2, 3, 8, 8)}, {"a": ["one"]}, "captions of 'a' must be one for each"),
        ({"a": torch.zeros(2, 3, 8, 8)}, {"b": ["one"]}, "captions of 'b' must be one for each"),
    ],
)
def test_a_sheet_of_something_else_is_an_error(
    rows: dict[str, torch.Tensor], captions: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        draw_sheet(rows, captions)


@pytest.mark.parametrize(
    "word", ["dog", "carnivore", "golden_retriever", "black-and-tan_coonhound"]
)
def test_captions_do_not_run_into_each_other(word: str) -> None:
    images = torch.zeros(4, 3, 8, 8)
    figure = draw_sheet({"made": images}, {"made": [f"label a\nbackground {word}"] * 4})
    figure.savefig(io.BytesIO())
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
    assert word in figure.axes[0].get_xlabel()


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    figure = draw_sheet({"grey": torch.rand(2, 3, 8, 8)})
    path = save_figure(figure, tmp_path / "sheet.png")
    pixels = matplotlib.image.imread(path)
    assert pixels.std() > 0.1  # not blank
    with pytest.raises(ArgumentError, match=r"saved as one of \.png.* got 'sheet\.gif'"):
        save_figure(figure, tmp_path / "sheet.gif")
    with pytest.raises(ArgumentError, match="missing is missing: make it first"):
        save_figure(figure, tmp_path / "missing" / "sheet.png")
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_names_that_are_no_text_of_a_figure_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ["cost$\\frac$", "c\udcff/a\udcfe", "a\x00b"]
    figure = draw_sheet({names[0]: torch.zeros(3, 3, 8, 8)}, {names[0]: names}, names[0])
    save_figure(figure, tmp_path / "a.png")
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions == ["cost$\\frac$", "c?/a?", "a?b"]
