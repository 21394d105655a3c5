"""Settings, records and manifests that nobody should believe: one error each, before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn_augment import ShardSource
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards, verify_shards

Edit = Callable[[Any], Any]


def edit(path: Path, change: Edit) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(change(facts)))


def put(*keys: Any, value: Any) -> Edit:
    """Sets one value deep in the JSON."""

    def change(facts: Any) -> Any:
        place = facts
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return facts

    return change


NAMES = ("../secret/counterfactuals-000001.tar", "/dev/zero", "counterfactuals-000002.tar", 7, None)
NAMES += ("zip://a::https://example.com/b.tar", "counterfactuals-000001.tar/x", "a{1,2}.tar")

MANIFESTS = {
    **{f"the name {name}": put("shards", 1, "name", value=name) for name in NAMES},
    "no images": put("shards", 1, "num_samples", value=0),
    "-1 images": put("shards", 1, "num_samples", value=-1),
    "many images": put("shards", 1, "num_samples", value=10**15),
    "2.5 images": put("shards", 1, "num_samples", value=2.5),
    "counts that do not add up": put("shards", 1, "class_counts", "shape", 0, value=99),
    "negative counts": put("shards", 1, "class_counts", "shape", 0, value=-1),
    "no counts": put("shards", 1, "class_counts", value={}),
    "counts that are none": put("shards", 1, "class_counts", value=[3]),
    "another hash": put("shards", 1, "sha256", value="0" * 63),
    "a record that is none": put("shards", 1, value=[]),
    "an empty record": put("shards", 1, value={}),
    "shards that are none": put("shards", value={}),
    "too few shards": lambda facts: facts | {"shards": facts["shards"][1:]},
    "no settings": lambda facts: {"format": facts["format"]},
    "settings that are none": put("settings", value=[]),
    "another kind": put("settings", "kind", value="cats"),
    "a kind that is a list": put("settings", "kind", value=[]),
    "no versions": put("versions", value=None),
    "many shards": put("settings", "num", value=10**15),
    "shards of no size": put("settings", "shard_size", value=0),
    "image size 1e9": put("settings", "image_size", value=10**9),
    "image size that is text": put("settings", "image_size", value="32"),
    "1e15 classes": put("settings", "num_classes", value=10**15),
    "no format": put("settings", "format", value="exe"),
    "no rules": put("settings", "interventions", value=None),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_a_set_cannot_have_is_one_error(case: str, copied: Path) -> None:
    edit(copied / "manifest.json", MANIFESTS[case])
    with pytest.raises(DataError, match=r"manifest\.json") as refused:
        ShardSource(copied)
    assert len(str(refused.value).splitlines()) == 1
    assert any(problem.name == "manifest.json" for problem in verify_shards(copied))
    told = "\n".join(map(str, [refused.value, *verify_shards(copied)]))
    assert re.search(r"(\d+) shards where \1 belong", told) is None


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 200_000, "9" * 5000, "\x00", '"\\ud800"'])
@pytest.mark.parametrize("name", ["manifest.json", "_settings.json"])
def test_json_that_is_none_or_of_something_else_is_one_error(
    name: str, text: str, copied: Path
) -> None:
    (copied / name).write_text(text)
    with pytest.raises(DataError, match=name) as refused:
        ShardSource(copied) if name == "manifest.json" else verify_shards(copied)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("num", [10**8, 10**15])
def test_settings_of_more_shards_than_a_set_can_have_are_refused_before_any_is_looked_for(
    num: int, copied: Path
) -> None:
    edit(copied / "_settings.json", put("settings", "num", value=num * 10))
    with pytest.raises(DataError, match="num_shards must be 1000000 or less"):
        verify_shards(copied)
    with pytest.raises(ArgumentError, match="raise shard_size"):
        ShardConfig(num=num * 10, shard_size=10)


@pytest.mark.parametrize("text", ["{}", "[]", "null", "[" * 200_000])
def test_a_record_that_is_none_is_one_error(text: str, copied: Path, tiny_cgn: SmallCGN) -> None:
    (copied / "_records" / "counterfactuals-000002.json").write_text(text)
    with pytest.raises(DataError, match=r"counterfactuals-000002\.json") as refused:
        verify_shards(copied)
    assert len(str(refused.value).splitlines()) == 1
    config = ShardConfig(num=40, shard_size=10, members=("mask",))
    with pytest.raises(
        DataError, match=r"counterfactuals-000002\.json .*is damaged|--resume writes it again"
    ):
        render_shards(tiny_cgn, copied, config, resume=True)
