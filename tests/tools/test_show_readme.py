"""README.md as a visitor sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import find_chromium
from conftest import load_tool
from PIL import Image


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_the_readme_fits_a_laptop_and_a_phone(tmp_path: Path) -> None:
    tool = load_tool("show_readme")
    shown = dict(tool.show(tmp_path))
    assert [path.stem for path in shown] == ["readme-laptop", "readme-phone"]
    assert all(shown.values())
    for path, width in zip(shown, tool.WIDTHS.values(), strict=True):
        with Image.open(path) as picture:
            assert width - 20 < picture.width <= width  # less the bar for scrolling
            assert picture.height > 1500  # the whole page
