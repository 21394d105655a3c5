"""Images taken apart into shards: the same bytes whoever writes them, and nothing left unsaid."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from part_helpers import config_for, make_photos, start_ranks, write
from PIL import Image
from shard_helpers import NUM_KILLS, contents, kill_until_complete
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, DataError, FileError
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.making import Making
from cgn_augment.parts.photos import read_keys
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import draw_parts, summarize_parts
from cgn_augment.parts.verify import verify_parts
from cgn_augment.parts.writing import write_parts


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted set of one process: eight images in three shards."""
    out = tmp_path_factory.mktemp("whole") / "set"
    write(photos, out)
    return out


# The same set whoever writes it


def test_a_set_has_the_documented_files(whole: Path) -> None:
    names = [f"parts-{shard:06d}" for shard in range(3)]
    expected = [f"_records/{name}.{suffix}" for name in names for suffix in ("json", "jsonl")]
    expected += [f"{name}.tar" for name in names]
    expected += ["_info.json", "_settings.json", "index.jsonl", "left_out.jsonl", "manifest.json"]
    assert sorted(contents(whole)) == sorted(expected)
    settings = json.loads((whole / "_settings.json").read_text())["settings"]
    assert (settings["classes"], settings["fill"], settings["num"]) == (["cat", "dog"], "none", 8)


def test_ranks_and_workers_do_not_change_the_bytes(
    whole: Path, photos: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    write(photos, tmp_path / "set", rank=1, world_size=2, num_workers=2)
    assert "manifest.json" not in contents(tmp_path / "set")
    assert len(PartSet.open(tmp_path / "set", complete=False)) == 3
    write(photos, tmp_path / "set", rank=0, world_size=2)
    assert contents(tmp_path / "set") == contents(whole)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no memory")])
def test_what_is_complete_stays_and_resume_gives_the_same_bytes(
    error: BaseException,
    whole: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    make = Making.__call__

    def stop(self: Making, photo: Any) -> Any:
        made.append(photo.key)
        if len(made) == 5:
            raise error
        return make(self, photo)

    with monkeypatch.context() as stopping:
        stopping.setattr(Making, "__call__", stop)
        with pytest.raises(type(error)):
            write(photos, tmp_path / "set")
    left = contents(tmp_path / "set")
    assert [name for name in left if name.endswith(".tar")] == ["parts-000000.tar"]
    assert left.items() <= contents(whole).items()
    with pytest.raises(DataError, match=r"already holds 1 of the 3 shards .* pass --resume"):
        write(photos, tmp_path / "set")
    with pytest.raises(DataError, match=r"another set \(size: 512 there, 32 asked for\)"):
        write(photos, tmp_path / "set", resume=True, size=32)
    write(photos, tmp_path / "set", resume=True)
    assert contents(tmp_path / "set") == contents(whole)


def test_a_folder_that_has_changed_is_another_set(tmp_path: Path) -> None:
    make_photos(tmp_path, 2)
    write(tmp_path, tmp_path / "set")
    (tmp_path / "photos" / "cat" / "001.png").rename(tmp_path / "photos" / "cat" / "002.png")
    with pytest.raises(DataError, match=r"another set \(photos: "):
        write(tmp_path, tmp_path / "set", resume=True)


@pytest.mark.parametrize(
    ("num_kills", "num_workers"), [(1, 0), pytest.param(NUM_KILLS, 1, marks=pytest.mark.slow)]
)
def test_sets_of_killed_ranks_equal_an_uninterrupted_one(
    num_kills: int, num_workers: int, tmp_path: Path
) -> None:
    make_photos(tmp_path, 30)
    write(tmp_path, tmp_path / "whole")
    chance, kills = random.Random(0), 0
    while kills < num_kills:
        out = tmp_path / f"set{kills}"
        kills += kill_until_complete(
            out, num_kills - kills, chance, 5, lambda at: start_ranks(tmp_path, at, num_workers)
        )
        write(tmp_path, out, resume=True)
        assert contents(out) == contents(tmp_path / "whole")
        assert verify_parts(out) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "set", Path("/proc/set")):
        with pytest.raises(FileError, match=r"cannot be written \(.*\): complete shards stay"):
            write(photos, place)


# What is left out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    with Image.open(path) as mask:
        smaller = mask.resize((40, 40))
    smaller.save(path)


def paint(value: int) -> Callable[[Path], None]:
    return lambda path: Image.new("L", (48, 36), value).save(path)


@pytest.mark.parametrize(
    ("name", "change", "verdict", "why"),
    [
        ("photos/cat/001.png", truncate, "unreadable", "the image: "),
        ("masks/cat/001.png", truncate, "unreadable", "the mask: "),
        ("masks/cat/001.png", Path.unlink, "no mask", "masks/cat/001.png"),
        ("masks/cat/001.png", resize, "mask size", "the mask is 40x40 and the image 36x48"),
        ("masks/cat/001.png", paint(0), "empty", "its mask covers 0.000 of it"),
        ("masks/cat/001.png", paint(255), "full", "its mask covers 1.000 of it"),
        ("masks/cat/001.png", paint(150), "full", "its mask covers 1.000 of it"),
    ],
)
def test_an_image_that_cannot_be_used_is_counted_and_listed(
    name: str, change: Callable[[Path], object], verdict: str, why: str, tmp_path: Path
) -> None:
    make_photos(tmp_path, 2)
    change(tmp_path / name)
    write(tmp_path, tmp_path / "set")
    parts = PartSet.open(tmp_path / "set")
    assert parts.class_counts["cat"][verdict] == 1
    assert parts.counts["usable"] == 3
    (line,) = (tmp_path / "set" / "left_out.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["key"], told["verdict"]) == ("cat/001", verdict)
    assert told["lacks"] == ["object", "background"]
    assert why in told["why"]
    assert verify_parts(tmp_path / "set") == []
    assert parts.read(1).object is None


@pytest.mark.parametrize("place", ["photos", "photos/set", "masks/set", "photos/../masks"])
def test_a_set_among_its_images_or_masks_is_refused(place: str, tmp_path: Path) -> None:
    make_photos(tmp_path, 2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArgumentError, match=r"lies in .*(photos|masks), the folder of"):
        write(tmp_path, tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_background_whose_hole_is_too_large_is_listed(photos: Path, tmp_path: Path) -> None:
    write(photos, tmp_path / "set", max_hole=0.1)
    listed = (tmp_path / "set" / "left_out.jsonl").read_text()
    lines = [json.loads(line) for line in listed.splitlines()]
    assert len(lines) == 8
    assert {line["verdict"] for line in lines} == {"usable"}
    assert all(line["lacks"] == ["background"] for line in lines)
    assert "the hole would be above 0.1" in lines[0]["why"]
    parts = PartSet.open(tmp_path / "set")
    told = summarize_parts(parts)["backgrounds"]
    assert told == "0, and 8 left out (hole above 0.1 of the image)"
    captions = [cell.get_xlabel() for cell in draw_parts(parts, 1).axes]
    assert "hole too large\ncat/000" in captions


def test_excluded_keys_are_left_out_and_unknown_ones_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text('cat/001\n\n{"key": "dog/000", "verdict": "usable"}\n')
    write(photos, tmp_path / "set", exclude=read_keys(tmp_path / "keys"))
    assert PartSet.open(tmp_path / "set").counts == {"usable": 6, "excluded": 2}
    with pytest.raises(DataError, match="another set"):
        write(photos, tmp_path / "set", resume=True)
    with pytest.raises(ArgumentError, match=r"1 keys to exclude .* \(cat/1\): a key is like"):
        write(photos, tmp_path / "other", exclude=["cat/1"])
    (tmp_path / "keys").write_text("{}\n")
    with pytest.raises(DataError, match="cannot be read as a list of keys"):
        read_keys(tmp_path / "keys")


# Pixels


def test_images_are_bounded_turned_and_keep_their_aspect(tmp_path: Path) -> None:
    make_photos(tmp_path, 1)
    turned, seen = Image.Exif(), np.zeros((200, 100), np.uint8)
    turned[0x0112] = 6
    seen[20:100, 10:50] = 255  # as it is seen
    image = np.stack([seen, 255 - seen, seen], axis=-1)
    photo = tmp_path / "photos" / "cat" / "000.png"
    Image.fromarray(np.rot90(image)).save(photo, exif=turned)
    Image.fromarray(seen).save(tmp_path / "masks" / "cat" / "000.png")
    write(tmp_path, tmp_path / "set", size=100)
    part = PartSet.open(tmp_path / "set").read(0)
    assert part.size == (100, 50)
    assert part.background.shape == (3, 100, 50)
    assert np.allclose(part.box, (10, 5, 40, 20), atol=1)
    colour = part.object[:, part.box[2] // 2, part.box[3] // 2].tolist()
    assert colour == [255, 0, 255, 255]


def test_the_alpha_channel_is_the_mask_where_asked(tmp_path: Path) -> None:
    make_photos(tmp_path, 2)
    for path in (tmp_path / "photos").rglob("*.png"):
        image = Image.open(path).convert("RGB")
        if path.stem == "000":
            image.putalpha(Image.open(tmp_path / "masks" / path.parent.name / path.name))
        image.save(path)
    write(tmp_path, tmp_path / "set", masks="alpha")
    parts = PartSet.open(tmp_path / "set")
    assert parts.counts == {"usable": 2, "unreadable": 2}
    assert "has no alpha channel" in (tmp_path / "set" / "left_out.jsonl").read_text()
    write(tmp_path, tmp_path / "masked", exclude=["cat/001", "dog/001"])
    assert torch.equal(parts.read(0).object, PartSet.open(tmp_path / "masked").read(0).object)


def black(image: Tensor, hole: Tensor) -> Tensor:
    return torch.where(hole, 0, image)


def test_any_function_fills(photos: Path, tmp_path: Path) -> None:
    write(photos, tmp_path / "set", filler=black, num_workers=1)
    parts = PartSet.open(tmp_path / "set")
    assert parts.manifest.settings["fill"].endswith("test_writing.black")
    assert int((parts.read(0).background.sum(0) < 30).sum()) > 200


def test_sheets_of_textures_are_made_where_asked(photos: Path, tmp_path: Path) -> None:
    write(photos, tmp_path / "set", textures=True, exclude=["cat/000"])
    parts = PartSet.open(tmp_path / "set")
    part = parts.read(1, foreground=True)
    assert part.foreground.shape == (3, 36, 48)
    middle = part.object[:3, part.object.shape[1] // 2, part.object.shape[2] // 2]
    assert (part.foreground.float().mean((1, 2)) - middle).abs().max() < 20
    assert parts.read(1).foreground is None
    assert parts.of_class("cat", "foreground").tolist() == [1, 2, 3]
    assert verify_parts(tmp_path / "set") == []
    assert len(draw_parts(parts, 3).axes) == 3 * 7


# Settings


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"size": 0}, ArgumentError, "size must be 1 or more"),
        ({"quality": 101}, ArgumentError, "quality must be 1 to 100"),
        ({"fill": "lama"}, ArgumentError, "fill must be one of copy, telea, none"),
        ({"max_hole": 0}, ArgumentError, "max_hole must be above 0"),
        ({"min_area": 0.9}, ArgumentError, "min_area <= max_area"),
        ({"columns": "group"}, ArgumentTypeError, "columns must be a list of names"),
        ({"classes": 0}, ArgumentError, "classes must be 1 or more"),
        ({"classes": ("a", "a")}, ArgumentError, "classes has a name twice"),
    ],
)
def test_settings_that_cannot_be_used(
    given: dict[str, Any], error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        PartConfig(masks="alpha", **given)


def test_a_wrong_argument_is_known_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="rank must be 0 to 1 of 2"):
        write(photos, tmp_path / "set", rank=2, world_size=2)
    with pytest.raises(ArgumentError, match="num_workers must be 0 or more"):
        write(photos, tmp_path / "set", num_workers=-1)
    with pytest.raises(ArgumentTypeError, match="a filler is one of"):
        write_parts(photos / "photos", tmp_path / "set", config_for(photos), filler=3)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("changed", [{"usable": [1]}, {"usable": [9, 9]}, {"other": [3, 0]}])
def test_a_record_that_counts_other_images_is_named(
    changed: dict[str, list[int]], photos: Path, tmp_path: Path
) -> None:
    write(photos, tmp_path / "set")
    record = tmp_path / "set" / "_records" / "parts-000000.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"class_counts": changed}))
    with pytest.raises(DataError, match=r"parts-000000\.json does not describe .*delete it"):
        write(photos, tmp_path / "set", resume=True)
    record.unlink()
    write(photos, tmp_path / "set", resume=True)
    assert verify_parts(tmp_path / "set") == []
