"""The files beside the shards: index, settings, records and manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from shard_helpers import FIFTY, contents, render

from cgn_augment.errors import DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards.manifest import Manifest
from cgn_augment.shards.records import Record


def test_a_set_has_the_documented_files(whole: Path) -> None:
    names = [f"counterfactuals-{shard:06d}" for shard in range(5)]
    assert sorted(contents(whole)) == sorted(
        [
            *[f"{name}.tar" for name in names],
            *[f"_records/{name}.json" for name in names],
            "_info.json",
            "_settings.json",
            "manifest.json",
        ]
    )
    info = json.loads((whole / "_info.json").read_text())["splits"]["train"]
    assert info == {
        "name": "train",
        "num_samples": 50,
        "filenames": [f"{name}.tar" for name in names],
        "shard_lengths": [12, 12, 12, 12, 2],
    }


def test_starting_over_is_refused(whole: Path, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    before = contents(out)
    with pytest.raises(DataError, match=r"already holds 5 of the 5 shards .* pass --resume"):
        render(tiny_cgn, out)
    with pytest.raises(DataError, match=r"holds another set \(seed: 0 there, 3 asked for\)"):
        render(tiny_cgn, out, replace(FIFTY, seed=3), resume=True)
    other = SmallCGN(width=4).freeze()
    with pytest.raises(DataError, match=r"holds another set \(cgn: "):
        render(other, out, resume=True)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "photos.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holds tar files and no _settings\.json"):
        render(tiny_cgn, tmp_path / "tars", resume=True)
    assert contents(out) == before


def test_other_versions_are_told_of(
    tiny_cgn: SmallCGN, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    settings = json.loads((out / "_settings.json").read_text())
    settings["versions"]["torch"] = "1.0"
    (out / "_settings.json").write_text(json.dumps(settings))
    render(tiny_cgn, out, resume=True)
    assert "begun with other versions" in caplog.text
    assert "1.0 then" in caplog.text


def test_a_manifest_of_records_adds_them_up() -> None:
    counts = {"shape": [1, 2], "texture": [0, 3], "background": [3, 0]}
    record = Record("a", 0, 3, 10, "", counts)
    manifest = Manifest({}, {}, (record, record))
    assert manifest.num_bytes == 20
    assert manifest.class_counts["shape"] == [2, 4]
    assert Manifest({}, {}, ()).class_counts == {}
