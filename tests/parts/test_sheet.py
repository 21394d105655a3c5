"""What a set of parts says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from part_helpers import make_photos, write
from PIL import Image

from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import find_failing, summarize_parts, usable_share


def test_shares_leave_out_what_was_excluded() -> None:
    counts = {"usable": 3, "empty": 1, "no mask": 2, "excluded": 4}
    assert usable_share(counts) == 0.5
    assert usable_share({"excluded": 4}) is None
    assert usable_share({}) is None


@pytest.mark.parametrize(
    ("usable", "warned"),
    [
        ((90, 80, 44), []),
        ((90, 80, 39), ["c"]),
        ((90, 0, 80), ["b"]),
        ((30, 20, 29), []),  # an equally bad masker makes no shortcut
        ((0, 0, 0), []),
    ],
)
def test_a_class_that_fails_where_others_do_not_is_warned_of(
    usable: tuple[int, ...], warned: list[str]
) -> None:
    counts = {
        name: {"usable": num, "several": 100 - num, "full": 0, "excluded": 50}
        for name, num in zip("abc", usable, strict=True)
    }
    warnings = find_failing(counts)
    assert [warning.split()[7] for warning in warnings] == warned
    assert all("several)" in warning and "full" not in warning for warning in warnings)
    assert find_failing({"a": {"excluded": 3}}) == []


def test_masks_that_settings_distrust_are_counted_by_class(tmp_path: Path) -> None:
    folder = make_photos(tmp_path)
    masks = folder / "masks" / "dog"
    with Image.open(masks / "000.png") as file:
        mask = np.array(file.convert("L"))
    mask[26:, 36:] = 255  # a second object
    Image.fromarray(mask).save(masks / "000.png")
    mask[:] = 0
    mask[:8] = 255  # along three sides
    Image.fromarray(mask).save(masks / "001.png")
    write(folder, tmp_path / "any")
    assert PartSet.open(tmp_path / "any").counts == {"usable": 8}
    write(folder, tmp_path / "some", max_sides=2, max_second=0.3)
    parts = PartSet.open(tmp_path / "some")
    assert parts.class_counts["dog"] == {"usable": 2, "several": 1, "border": 1}
    assert parts.class_counts["cat"]["usable"] == 4
    summary = summarize_parts(parts)
    assert str(summary["class dog"]).endswith("of 4 images (50 % usable)")
    assert summary["left out"] == "1 several, 1 border"
