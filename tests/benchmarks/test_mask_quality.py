"""The benchmark of accuracy against the quality of masks: its one command, as small as can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

TESTS = ("decorrelated", "correlated")


def test_the_command_runs_each_kind_once_from_masks_that_may_be_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mask_quality import main

    kinds = ("true", "bundled")
    out, references = tmp_path / "out", tmp_path / "references"
    references.mkdir()
    for row in ("plain", "upper"):
        told = {"decorrelated": 0.3}
        (references / f"{row}-0.98-1-0.json").write_text(json.dumps(told))
    words = ["--smoke", "--out", out, "--references", references, "--kinds", *kinds]
    cache = tmp_path / "cache"
    assert run_command(main, monkeypatch, *words, "--cache", cache, "--prepare") == 0
    assert not list(out.rglob("parts-*.json"))
    for name in ("true", "bundled"):  # what cannot be made of the true ones
        assert (cache / f"masks-{name}" / "class0" / "0.png").is_file()
    carried = tmp_path / "carried"
    carried.mkdir()
    for name in ("photos-0.98-2", "masks-true", "masks-bundled"):
        (cache / name).rename(carried / name)
    assert run_command(main, monkeypatch, *words, "--cache", carried) == 0
    table = capsys.readouterr().out
    assert table == (out / "table.md").read_text()
    assert "| true | 1.000 ± 0.000 | 16 |" in table
    assert (out / "mask_quality.png").is_file()
    files = {path: path.stat().st_mtime_ns for path in out.rglob("parts-*.json")}
    assert sorted(path.parent.name for path in files) == sorted(kinds)
    (out / "table.md").unlink()
    (out / "bundled" / "parts-0.98-1-0.json").rename(tmp_path / "aside")
    assert run_command(main, monkeypatch, *words, "--cache", tmp_path / "none", "--draw") == 0
    assert (out / "table.md").read_text() == "".join(table.splitlines(keepends=True)[:3])
    (tmp_path / "aside").rename(out / "bundled" / "parts-0.98-1-0.json")
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_masks_of_the_unet_must_come_from_somewhere(tmp_path: Path) -> None:
    from mask_quality_data import MaskedPhotos, write_kind

    from cgn_augment.errors import ArgumentError

    photos = MaskedPhotos(tmp_path, None, 2, "none", 8)
    photos.prepare(0.98, with_parts=False)
    with pytest.raises(ArgumentError, match="pass its file, --unet FILE"):
        write_kind(MaskedPhotos(tmp_path, None, 2, "none", 8, "unet"))


def test_worse_masks_are_worse_as_they_are_named() -> None:
    from mask_quality_data import KINDS

    mask = np.zeros((30, 30), bool)
    mask[10:20, 10:20] = True
    areas = {name: int(kind.worsen(mask, 0).sum()) for name, kind in KINDS.items() if kind.worsen}
    assert areas["true"] == 100
    assert [areas[f"eroded-{n}"] for n in (1, 2, 4)] == [64, 36, 4]
    assert areas["dilated-1"] == 100 + 4 * 10
    sides = [np.argwhere(KINDS["shifted-4"].worsen(mask, n))[0].tolist() for n in range(4)]
    assert sorted(sides) == [[6, 10], [10, 6], [10, 14], [14, 10]]


def test_refined_masks_are_made_of_found_ones(tmp_path: Path) -> None:
    from mask_quality_data import MaskedPhotos, write_kind

    photos = MaskedPhotos(tmp_path, None, 1, "none", 8)
    photos.prepare(0.98, with_parts=False)
    write_kind(photos)
    worse = photos.of("eroded-2")
    write_kind(worse)
    worse.masks.rename(photos.of("unet").masks)
    (photos.of("unet").masks / "overlap.json").unlink()
    overlaps = []
    for name in ("unet", "unet-edges"):
        write_kind(photos.of(name))
        overlaps.append(json.loads((photos.of(name).masks / "overlap.json").read_text())["iou"])
    assert overlaps[0] < 0.85 < overlaps[1]


def test_a_share_of_the_images_has_another_images_mask(tmp_path: Path) -> None:
    from mask_quality_data import MaskedPhotos, write_kind

    photos = MaskedPhotos(tmp_path, None, 5, "none", 8)
    photos.prepare(0.98, with_parts=False)
    write_kind(photos)
    wrong = MaskedPhotos(tmp_path, None, 5, "none", 8, "wrong-50")
    write_kind(wrong)
    facts = json.loads((wrong.masks / "overlap.json").read_text())
    assert facts["images"] == 40
    assert 0.5 <= facts["iou"] < 0.9  # 20 of them, of which some are of the same bar


def test_the_table_and_the_plot_have_every_kind_that_was_run() -> None:
    from mask_quality import Found, draw_plot, make_table

    found = {
        "true": Found({"iou": 1.0, "std": 0.0, "objects": 9}, {t: [40.0, 42.0] for t in TESTS}),
        "eroded-2": Found({"iou": 0.7, "std": 0.1, "objects": 8}, {t: [30.0] for t in TESTS}),
        "grabcut": Found({"iou": 0.8, "std": 0.2, "objects": 7}, {t: [35.0] for t in TESTS}),
    }
    lines = make_table(found).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| true", "| GrabCut", "| eroded by 2"]
    assert "| 41.0 ± 1.4 |" in lines[2]
    axes = draw_plot(found, {"plain": [20.0], "upper": [45.0, 47.0]}).axes[0]
    assert {text.get_text() for text in axes.texts} == {"2", "upper bound", "photographs alone"}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["true ones, narrower (pixels)", "true", "GrabCut"]
