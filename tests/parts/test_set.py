"""Any part of a set at any time: in processes and threads, on disk and in an object store."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from bar_helpers import watch_bars
from part_helpers import make_photo, write
from PIL import Image
from shard_helpers import contents
from torch.utils.data import DataLoader, Dataset

from cgn_augment.errors import ArgumentError, DataError, FileError
from cgn_augment.parts import verify
from cgn_augment.parts.index import MEMBERS
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import put_together
from cgn_augment.parts.verify import verify_parts


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight images in three shards, one of which is left out."""
    out = tmp_path_factory.mktemp("parts") / "set"
    write(photos, out, exclude=["cat/001"], fill="copy")
    return out


@pytest.fixture
def parts(place: Path) -> PartSet:
    return PartSet.open(place)


def test_a_set_says_what_it_holds(parts: PartSet) -> None:
    assert len(parts) == 8
    assert parts.classes == ("cat", "dog")
    assert parts.counts == {"usable": 7, "excluded": 1}
    assert parts.class_counts["cat"] == {"usable": 3, "excluded": 1}
    assert parts.of_class("cat").tolist() == [0, 1, 2, 3]
    assert parts.of_class("cat", "object").tolist() == [0, 2, 3]
    assert parts.of_class("dog", "foreground").tolist() == []
    entry = parts.entry(1)
    assert (entry.key, entry.label, entry.verdict) == ("cat/001", "cat", "excluded")
    with pytest.raises(ArgumentError, match="has no class 'fish'"):
        parts.of_class("fish")
    with pytest.raises(ArgumentError, match="member must be one of object"):
        parts.of_class("cat", "texture")


def test_a_bar_counts_the_images_of_an_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = watch_bars(monkeypatch, "cgn_augment.parts.set")
    PartSet.open(place)
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("reading the index", 8, 8)]


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_part_is_the_photograph_taken_apart(number: int, parts: PartSet) -> None:
    part = parts.read(number)
    image, mask = make_photo(number)
    found, true = np.asarray(image), np.asarray(mask)
    assert part.size == found.shape[:2]
    assert part.area == pytest.approx(true.mean(), abs=1e-6)
    together = put_together(part).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(together - found)[true].mean() < 20
    far = (part.background.permute(1, 2, 0).numpy().astype(int) - found)[:, 40:]
    assert np.abs(far).max() < 12  # JPEG
    assert part.foreground is None


def test_only_what_is_asked_for_is_read(parts: PartSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    inner = type(parts.store).read_range
    monkeypatch.setattr(
        type(parts.store), "read_range", lambda *args: read.append(args[3]) or inner(*args)
    )
    part = parts.read(0, background=False)
    assert part.object is not None
    assert part.background is None
    assert read == [parts.index.places["object"][0, 1]]


def test_the_index_is_where_the_tars_say(place: Path, parts: PartSet) -> None:
    for number in range(len(parts)):
        shard = int(parts.index.shards[number])
        with tarfile.open(place / f"parts-{shard:06d}.tar") as tar:
            infos = [info for info in tar if info.name[:12] == key(number)]
            files = {info.name.partition(".")[2]: info for info in infos}
        for member, name in MEMBERS.items():
            start, length = parts.index.places[member][number]
            there = files.get(name)
            assert (start, length) == ((there.offset_data, there.size) if there else (0, 0))


def key(number: int) -> str:
    return f"{number // 3:06d}{number % 3:06d}"


class Objects(Dataset[torch.Tensor]):
    """Objects by number, as a user's data set would read them."""

    def __init__(self, parts: PartSet) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> int:
        found = self.parts.read(number).object
        return 0 if found is None else int(found.sum())


def test_workers_and_threads_read_the_same(parts: PartSet) -> None:
    data = Objects(parts)
    expected = [data[number] for number in range(len(data))]
    assert [int(found) for found in read_in_workers(parts)] == expected  # in forks
    copied = pickle.loads(pickle.dumps(data))
    assert [copied[number] for number in range(len(data))] == expected
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(data.__getitem__, [*range(8)] * 5)) == expected * 5
    assert multiprocessing.active_children() == []


# Other libraries leave files open, and warn of what they themselves do.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_a_set_in_an_object_store_is_the_same(
    bucket: str, photos: Path, place: Path, parts: PartSet
) -> None:
    url = f"{bucket}/some/set"
    write(photos, url, exclude=["cat/001"], fill="copy")  # type: ignore[arg-type]
    there = PartSet.open(url)
    assert there.fingerprint == parts.fingerprint
    for number in (0, 1, 7):
        mine, its = parts.read(number), there.read(number)
        assert mine.object is None or torch.equal(mine.object, its.object)
    assert contents(place)["index.jsonl"] == there.store.read("index.jsonl")
    mine, its = (list(map(int, read_in_workers(each))) for each in (parts, there))
    assert mine == its
    assert verify_parts(url) == []


def read_in_workers(parts: PartSet) -> DataLoader[int]:
    return DataLoader(Objects(parts), batch_size=None, num_workers=2)


def test_other_settings_have_another_fingerprint(
    photos: Path, parts: PartSet, tmp_path: Path
) -> None:
    write(photos, tmp_path / "set")
    assert PartSet.open(tmp_path / "set").fingerprint != parts.fingerprint


def test_a_picture_of_another_size_than_its_index_says_is_not_decoded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    lines = [json.loads(line) for line in (copy / "index.jsonl").read_text().splitlines()]
    for line in lines:
        line["size"][0] += 1
    (copy / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loaded = Mock()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", loaded)
    with pytest.raises(FileError, match=r"the background of cat/000 .* pixels where .* belong"):
        PartSet.open(copy).picture(0, "background")
    loaded.assert_not_called()


@pytest.mark.parametrize("line", ["[]", "7", '{"key": 1, "label": []}', "[" * 100_000])
def test_an_index_of_something_else_is_one_error(line: str, place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    (copy / "index.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"index\.jsonl cannot be read") as told:
        PartSet.open(copy)
    assert len(str(told.value).splitlines()) == 1


def test_what_is_no_complete_set_is_an_error(parts: PartSet, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no complete set of parts"):
        PartSet.open(tmp_path)
    write(photos, tmp_path / "set")
    shard = tmp_path / "set" / "parts-000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(FileError, match=r"the object of cat/000 cannot be read .*ends before byte"):
        PartSet.open(tmp_path / "set").read(0)
    index = tmp_path / "set" / "index.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="lists 7 images and the shards hold 8"):
        PartSet.open(tmp_path / "set")
    index.write_text("{}\n")
    with pytest.raises(DataError, match="cannot be read"):
        PartSet.open(tmp_path / "set")


@pytest.mark.parametrize(
    "changed",
    [
        {"box": [10**6, 0, 1, 1]},
        {"size": [10**6, 10**6]},
        {"size": [-5, 7]},
        {"area": float("nan")},
        {"key": 5},
        {"verdict": None},
        {"columns": {"place": 3}},
        {"places": {"object": [-5, 10]}},
    ],
)
def test_facts_that_no_image_can_have_are_one_error(
    changed: dict[str, object], place: Path, tmp_path: Path
) -> None:
    index = Path(shutil.copytree(place, tmp_path / "copy")) / "index.jsonl"
    first, *others = index.read_text().splitlines()
    index.write_text("\n".join([json.dumps(json.loads(first) | changed), *others]) + "\n")
    with pytest.raises(DataError, match=r"index\.jsonl cannot be read") as told:
        PartSet.open(index.parent)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["num", "size", "fill", "images", "masks", "exclude"])
def test_settings_without_what_is_told_of_a_set_are_one_error(
    name: str, place: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(place, tmp_path / "copy")) / "manifest.json"
    manifest = json.loads(path.read_text())
    for value in (None, -3):
        manifest["settings"][name] = value
        if (name, value) == ("num", None):
            del manifest["settings"][name]
        path.write_text(json.dumps(manifest))
        with pytest.raises(DataError, match="does not hold the settings of a set"):
            PartSet.open(path.parent)


def test_a_small_picture_that_is_large_is_not_decoded(place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    file = io.BytesIO()
    Image.new("L", (2000, 129)).save(file, "PNG")
    with tarfile.open(copy / "parts-000000.tar") as tar:
        member = tar.extractfile("000000000001.json")
        assert member is not None
        data = member.read()
    facts = json.loads(data)
    told = verify._check_sample(
        {"__key__": "1", "json": data, "image.jpg": file.getvalue()},
        {**facts, "shard": 0, "places": {"image": [512, len(file.getvalue())]}},
        0,
        0,
    )
    assert told == "has a image.jpg of [129, 2000] pixels where at most 128 a side belong"
    (copy / "parts-000000.tar").write_bytes(file.getvalue())
    lines = [json.loads(line) for line in (copy / "index.jsonl").read_text().splitlines()]
    lines[1]["places"] = {"image": [0, len(file.getvalue())]}
    (copy / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FileError, match=r"the image of cat/001 .* at most 128 a side belong"):
        PartSet.open(copy).picture(1, "image")


def test_an_index_that_is_one_endless_line_takes_no_memory(place: Path, tmp_path: Path) -> None:
    index = Path(shutil.copytree(place, tmp_path / "copy")) / "index.jsonl"
    os.truncate(index, 2**32)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"index\.jsonl cannot be read"):
        PartSet.open(index.parent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
