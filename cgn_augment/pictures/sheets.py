"""Labelled sheets of images, and the writing of figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")

_INCHES_PER_IMAGE = 0.9
_LETTERS_PER_IMAGE = 17  # of a caption, with space to the next one
_CAPTION_POINTS, _LEAST_POINTS = 6.0, 3.5


def draw_sheet(
    rows: Mapping[str, Tensor],
    captions: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
) -> Figure:
    """Draws rows of images, each with its name on the left.

    Args:
        rows: name to images: (N, 3, H, W) float in [-1, 1], or masks (N, 1, H, W) float in [0, 1],
            where 1 is white. Rows may differ in N.
        captions: for a row, a short text under each image; longer texts get smaller letters.
        title: title above the sheet.

    Returns:
        A matplotlib figure; `save_figure` writes it.

    Raises:
        ArgumentError: there are no rows, or images or captions do not fit.

    Examples:
        >>> import torch
        >>> from cgn_augment.pictures.sheets import draw_sheet
        >>> figure = draw_sheet({"grey": torch.zeros(3, 3, 8, 8), "mask": torch.ones(3, 1, 8, 8)})
        >>> len(figure.axes)
        6
    """
    # Imported here: matplotlib takes longer to import than torch.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    captions = captions or {}
    _check_rows(rows, captions)
    num_columns = max(len(images) for images in rows.values())
    height = sum(
        _INCHES_PER_IMAGE * (1.05 + _caption_height(captions.get(name, ()))) for name in rows
    )
    figure = Figure(
        figsize=(_INCHES_PER_IMAGE * (num_columns + 1.6), height + (0.4 if title else 0.1)),
        dpi=160,
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.01, wspace=0.0, hspace=0.0),
    )
    grid = figure.subplots(len(rows), num_columns, squeeze=False)
    for cells, (name, images) in zip(grid, rows.items(), strict=True):
        pixels = _to_pixels(images)
        texts = captions.get(name, [""] * len(pixels))
        points = _caption_points(texts)
        for column, cell in enumerate(cells):
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_frame_on(False)
            cell.set_anchor("S")  # else the layout leaves too little room below
            if column < len(pixels):
                cell.imshow(pixels[column], interpolation="nearest")
                cell.set_xlabel(_plain(texts[column]), fontsize=points, parse_math=False)
        cells[0].set_ylabel(
            _plain(name),
            rotation=0,
            ha="right",
            va="center",
            fontsize=8,
            labelpad=6,
            parse_math=False,
        )
    if title:
        figure.suptitle(_plain(title), fontsize=9, parse_math=False)
    return figure


def check_picture(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Returns the path of a picture if one can be written there, or raises."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ArgumentError(
            f"a picture is saved as one of {', '.join(suffixes)}, got {path.name!r}"
        )
    if not path.parent.is_dir():
        raise ArgumentError(f"the folder {path.parent} is missing: make it first")
    return path


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure, whole or not at all, and returns its path.

    Args:
        figure: a matplotlib figure.
        path: ends in .png, .jpg, .webp, .pdf or .svg.

    Raises:
        ArgumentError: the suffix is unknown, or the folder is missing.
        OSError: the folder cannot be written.
    """
    path = check_picture(path)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path


def _plain(text: str) -> str:
    """Returns a text that can be drawn: names of files hold whatever the file system allows."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "?")


def _caption_height(texts: Sequence[str]) -> float:
    """Returns the height of a row's captions, in image heights."""
    num_lines = max((len(text.splitlines()) for text in texts), default=0)
    return 0.14 + 0.11 * max(1, num_lines) if texts else 0.0


def _caption_points(texts: Sequence[str]) -> float:
    """Returns the size of a row's captions in points: smaller if they would overlap.

    A caption without neighbour may be wider than its image.
    """
    if sum(map(bool, texts)) < 2:
        return _CAPTION_POINTS
    longest = max(1, *(len(line) for text in texts for line in text.splitlines()))
    return max(_LEAST_POINTS, _CAPTION_POINTS * min(1.0, _LETTERS_PER_IMAGE / longest))


def _check_rows(rows: Mapping[str, Tensor], captions: Mapping[str, Sequence[str]]) -> None:
    if not rows:
        raise ArgumentError("a sheet needs one row of images or more")
    for name, images in rows.items():
        if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise ArgumentError(
                f"row {name!r} must be images (N, 3, H, W) or masks (N, 1, H, W), got "
                f"{tuple(images.shape)}"
            )
    for name, texts in captions.items():
        if name not in rows or len(texts) != len(rows[name]):
            raise ArgumentError(f"captions of {name!r} must be one for each image of that row")


def _to_pixels(images: Tensor) -> npt.NDArray[np.float32]:
    """Returns (N, H, W, 3) in [0, 1]."""
    images = images.detach().float().cpu()
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else (images + 1) / 2
    pixels: npt.NDArray[np.float32] = images.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return pixels
