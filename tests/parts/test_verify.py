"""Checking a set of parts: what is wrong with it, whatever checksums say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from part_helpers import write
from shard_helpers import Change, rewrite_tar

from cgn_augment.errors import DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.verify import verify_parts
from cgn_augment.shards import ShardConfig, render_shards, verify_shards
from cgn_augment.shards.checking import advice
from cgn_augment.shards.layout import PARTS


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts") / "set"
    write(photos, out)
    return out


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place, tmp_path / "copy"))


def rewrite(folder: Path, change: Change) -> None:
    """Writes the second shard anew, each file changed, with the checksum of what comes out."""
    path = folder / "parts-000001.tar"
    rewrite_tar(path, change)
    data = path.read_bytes()
    facts = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1] |= facts
    (folder / "manifest.json").write_text(json.dumps(manifest))


def at(name: str, change: Callable[[bytes], bytes | None]) -> Change:
    return lambda found, data: change(data) if found == name else data


def shrink(data: bytes) -> bytes:
    """Damages a picture without changing its length."""
    return data[:40] + bytes(len(data) - 40)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (at("000001000001.object.webp", shrink), "has a object.webp that cannot be decoded"),
        (at("000001000001.background.jpg", shrink), "has a background.jpg that cannot be decoded"),
        (at("000001000001.object.webp", lambda _: None), "has other files than its index"),
        (at("000001000000.object.webp", lambda data: data + bytes(600)), "in other places"),
        (at("000001000002.json", lambda data: data.replace(b"dog", b"cow")), "says other things"),
        (at("000001000002.json", lambda data: bytes(len(data))), "facts that cannot be read"),
        (lambda name, data: None if name.startswith("000001000002") else data, "has 2 samples"),
    ],
)
def test_verify_finds_what_a_checksum_would_hide(change: Change, what: str, copied: Path) -> None:
    rewrite(copied, change)
    told = [str(problem) for problem in verify_parts(copied)]
    assert any(what in line for line in told), told


def test_verify_finds_missing_and_damaged_files(copied: Path, place: Path, photos: Path) -> None:
    (copied / "parts-000000.tar").unlink()
    (copied / "parts-000002.tar").write_bytes(b"half")
    (copied / "index.jsonl").write_text("")
    problems = verify_parts(copied)
    assert {problem.name for problem in problems} == {
        "parts-000000.tar",
        "parts-000002.tar",
        "index.jsonl",
    }
    assert "2 of the shards (0, 2). Delete what is left of them" in advice(problems, PARTS)
    # What it says to do is what helps.
    (copied / "parts-000002.tar").unlink()
    write(photos, copied, resume=True)
    assert verify_parts(copied) == []
    files = [path.relative_to(copied) for path in copied.rglob("*") if path.is_file()]
    assert all((copied / name).read_bytes() == (place / name).read_bytes() for name in files)


def test_sets_of_another_kind_are_told_apart(
    place: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render_shards(tiny_cgn, tmp_path / "set", ShardConfig(num=2))
    with pytest.raises(DataError, match="a set of counterfactuals, which 'cgn-augment shards'"):
        verify_parts(tmp_path / "set")
    with pytest.raises(DataError, match="a set of counterfactuals"):
        PartSet.open(tmp_path / "set")
    with pytest.raises(DataError, match="a set of parts, which 'cgn-augment parts' wrote, and co"):
        verify_shards(place)
    with pytest.raises(DataError, match="a set of parts"):
        render_shards(tiny_cgn, place, ShardConfig(num=2), resume=True)
