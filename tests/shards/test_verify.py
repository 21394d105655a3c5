"""Checking a set: what is wrong with it, whatever checksums say, and what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_helpers import Change, contents, render, rewrite_tar

from cgn_augment.generators import SmallCGN
from cgn_augment.shards import Problem, ShardConfig, verify_shards
from cgn_augment.shards.checking import advice
from cgn_augment.shards.layout import COUNTERFACTUALS


def at(name: str, new: bytes | None) -> Change:
    return lambda found, data: new if found == name else data


def relabel(key: str, change_value: Callable[[int], int]) -> Change:
    def change(name: str, data: bytes) -> bytes:
        if name != "000000012.json":
            return data
        facts = json.loads(data)
        return json.dumps({**facts, key: change_value(facts[key])}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (at("000000012.png", b"no image"), "sample 000000012 has a png that cannot be decoded"),
        (at("000000012.mask.png", b""), "has a mask.png that cannot be decoded"),
        (at("000000012.cls", b"77"), "has the label 77 where its shape is"),
        (at("000000012.cls", b"cat"), "has labels that cannot be read"),
        (at("000000012.json", b"{}"), "has labels that cannot be read"),
        (at("000000012.png", None), "has the files"),
        (relabel("texture", lambda _: 10), "of 10"),
        (relabel("background", lambda y: (y + 1) % 10), "belong"),
        (relabel("index", lambda _: 13), "another index or noise seed"),
        (relabel("noise_seed", lambda _: 1), "another index or noise seed"),
        (lambda name, data: None if "019" in name else data, "has 9 samples where 10 belong"),
        (lambda name, data: None if "012" in name else data, "lies where 000000012 belongs"),
    ],
)
def test_verify_finds_what_a_checksum_of_the_damage_would_hide(
    change: Change, what: str, copied: Path
) -> None:
    rewrite_tar(copied / "counterfactuals-000001.tar", change)
    problems = verify_shards(copied)
    assert {problem.shard for problem in problems} == {1}
    assert any("are not the" in problem.what for problem in problems)
    # With the checksums of the damaged file in the records the contents still tell.
    data = (copied / "counterfactuals-000001.tar").read_bytes()
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][1] |= {
        "num_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = verify_shards(copied)
    assert problem.shard == 1
    assert what in problem.what


def test_verify_finds_damaged_missing_and_foreign_files(
    copied: Path, masked: Path, tiny_cgn: SmallCGN
) -> None:
    first = copied / "counterfactuals-000000.tar"
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    (copied / "counterfactuals-000001.tar").unlink()
    third = copied / "counterfactuals-000003.tar"
    third.write_bytes(third.read_bytes()[:9999])
    (copied / "counterfactuals-000004.tar").write_bytes(b"")
    (copied / ".counterfactuals-000001.tmp-0123abcd.tar").write_bytes(b"half")
    (copied / "_info.json").write_text("{}")
    problems = verify_shards(copied)
    told = "\n".join(map(str, problems))
    for line in (
        "counterfactuals-000001.tar: is missing",
        "counterfactuals-000004.tar: is no shard of this set",
        ".counterfactuals-000001.tmp-0123abcd.tar: was left by a process that was killed",
        "_info.json: is missing or does not list",
    ):
        assert line in told
    assert "3 of the shards (0-1, 3). Delete what is left of them" in advice(
        problems, COUNTERFACTUALS
    )
    # What it says to do is what helps.
    for name in ("0", "3", "4"):
        (copied / f"counterfactuals-00000{name}.tar").unlink()
    render(tiny_cgn, copied, ShardConfig(num=40, shard_size=10, members=("mask",)), resume=True)
    assert verify_shards(copied) == []
    assert contents(copied) == contents(masked)


def test_verify_of_an_incomplete_set_says_so(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    (problem,) = verify_shards(copied)
    assert problem.name == "manifest.json"
    assert "not every shard was written" in problem.what
    assert "no shard needs writing" in advice([problem], COUNTERFACTUALS)
    (copied / "_records" / "counterfactuals-000002.json").unlink()
    assert [problem.shard for problem in verify_shards(copied)] == [None, 2]


def test_advice_joins_neighbours() -> None:
    problems = [Problem("a", "b", shard) for shard in (5, 1, 0, 2, 9, 10)]
    assert "6 of the shards (0-2, 5, 9-10)" in advice(problems, COUNTERFACTUALS)
