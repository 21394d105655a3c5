"""Which images there are, of every kind of input, and what is wrong with them."""

from __future__ import annotations

import io
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from layout_helpers import URBANCARS, WATERBIRDS, make_table, make_urbancars, make_waterbirds
from part_helpers import CLASSES, make_photo, make_photos

from cgn_augment.errors import ArgumentError, CGNError, DataError
from cgn_augment.images.waterbirds import GROUPS
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import NONE, Photo
from cgn_augment.parts.making import LeftOutError, read_photo
from cgn_augment.parts.photos import find_photos, read_keys
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.writing import write_parts

datasets = pytest.importorskip("datasets")


def found(images: Path | str, **config: Any) -> list[Photo]:
    photos = find_photos(str(images), PartConfig(**config))
    listed = [photo for shard in range(photos.num_shards) for photo in photos.of_shard(shard)]
    assert photos.count(range(photos.num_shards)) in (None, len(listed))
    return listed


def keys(photos: list[Photo]) -> list[str]:
    return [photo.key for photo in photos]


def assert_readable(photos: list[Photo]) -> None:
    """Every photo is the one that was made, with its mask."""
    for number, photo in enumerate(photos):
        image, mask = read_photo(photo, 512)
        expected, expected_mask = make_photo(number)
        assert image.tobytes() == expected.tobytes()
        assert mask.mean() == pytest.approx(np.asarray(expected_mask).mean())


# Folders


def test_a_folder_of_class_folders(photos: Path) -> None:
    listed = found(photos / "photos", masks=str(photos / "masks"))
    assert keys(listed) == [f"{name}/{n:03d}" for name in CLASSES for n in range(4)]
    assert [photo.label for photo in listed] == ["cat"] * 4 + ["dog"] * 4
    assert listed[0].source == "cat/000.png"
    assert_readable(listed)


@pytest.mark.parametrize("mirror", ["whole", "split"])
def test_of_a_folder_with_splits_the_training_split_is_taken(mirror: str, tmp_path: Path) -> None:
    for split, num in (("train", 2), ("test", 1)):
        make_photos(tmp_path / split, num)
        shutil.copytree(tmp_path / split / "photos", tmp_path / "data" / split)
        shutil.copytree(tmp_path / split / "masks", tmp_path / "masks" / split)
    masks = str(tmp_path / "masks") if mirror == "whole" else str(tmp_path / "masks" / "train")
    listed = found(tmp_path / "data", masks=masks)
    assert keys(listed) == [f"train/{name}/{n:03d}" for name in CLASSES for n in (0, 1)]
    assert_readable(listed)
    whole = str(tmp_path / "masks")
    assert len(found(tmp_path / "data", masks=whole, split="test")) == 2
    assert len(found(tmp_path / "data", masks=whole, split="all")) == 6
    with pytest.raises(DataError, match="has the splits train, test, and none 'val'"):
        found(tmp_path / "data", masks=whole, split="val")
    shutil.copytree(tmp_path / "masks", tmp_path / "data" / "train_masks")
    with pytest.raises(DataError, match=r"give the folder of a split, such as .*data/train"):
        found(tmp_path / "data", masks=whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "photos" / "fish").mkdir(), "has no image in fish"),
        (lambda at: shutil.rmtree(at / "photos"), "there is no folder"),
        (lambda at: shutil.rmtree(at / "masks"), "there is no folder .* of masks"),
        (lambda at: shutil.rmtree(at / "masks" / "cat"), None),
        (
            lambda at: [shutil.rmtree(at / "masks" / name) for name in CLASSES],
            "none of 4 images has a mask: cat/000.png would have .*masks/cat/000.png",
        ),
        (
            lambda at: shutil.copy(at / "photos/cat/000.png", at / "photos/cat/000.jpg"),
            "two images have the key 'cat/000'",
        ),
        (lambda at: [shutil.rmtree(at / "photos" / name) for name in CLASSES], "no folders"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_error(
    change: Any, message: str | None, tmp_path: Path
) -> None:
    make_photos(tmp_path, 2)
    change(tmp_path)
    if message is None:
        assert len(found(tmp_path / "photos", masks=str(tmp_path / "masks"))) == 4
        return
    with pytest.raises(DataError, match=message):
        found(tmp_path / "photos", masks=str(tmp_path / "masks"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"masks": "column:mask"}, "masks of .*photos are a folder that mirrors it, or alpha"),
        ({"masks": "alpha", "split": "val"}, "has no splits: leave the split 'val' out"),
        ({"masks": "alpha", "classes": ("a", "b")}, "leave --classes out"),
        ({"masks": "alpha", "columns": ("group",)}, "leave --columns out"),
    ],
)
def test_settings_that_a_folder_cannot_have_are_refused(
    given: dict[str, Any], message: str, photos: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        found(photos / "photos", **given)


# Tables


def write_table(folder: Path, name: str = "photos.csv", **changes: Any) -> Path:
    lines = ["img,y,place,split,seg"]
    for label, kind in enumerate(CLASSES):
        for n in range(4):
            row = [f"photos/{kind}/{n:03d}.png", str(label), "sea", "0" if n < 3 else "2"]
            lines.append(",".join([*row, f"masks/{kind}/{n:03d}.png"]))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


COLUMNS = "?path=img&label=y"


def test_a_table_names_paths_labels_masks_and_groups(tmp_path: Path) -> None:
    table = write_table(make_photos(tmp_path))
    place, first = f"{table}{COLUMNS}", {"masks": "column:seg", "split": "0"}
    listed = found(place, columns=("place",), classes=CLASSES, **first)
    assert keys(listed) == [f"photos/{name}/{n:03d}" for name in CLASSES for n in range(3)]
    assert (listed[0].label, listed[5].label, listed[0].columns) == ("cat", "dog", {"place": "sea"})
    assert_readable(listed[:3])
    assert found(f"table:{place}", **first)[0].label == "0"
    everything = found(place, masks="column:seg", split="all")
    assert_readable(everything)
    # Masks in a folder mirror the column of paths.
    shutil.copytree(tmp_path / "masks", tmp_path / "mirror" / "photos")
    assert_readable(found(place, masks=str(tmp_path / "mirror"), split="0")[:3])


def test_a_dot_in_the_name_of_a_folder_begins_no_suffix(tmp_path: Path) -> None:
    make_photos(tmp_path)
    (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / "cat.v2")
    (tmp_path / "masks" / "cat").rename(tmp_path / "masks" / "cat.v2")
    for path in sorted((tmp_path / "photos" / "cat.v2").iterdir()):
        path.rename(path.with_suffix(""))
    rows = [f"cat.v2/{n:03d},cat" for n in range(3)]
    (tmp_path / "photos" / "table.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    listed = found(f"{tmp_path / 'photos' / 'table.csv'}", masks=str(tmp_path / "masks"))
    assert keys(listed) == [f"cat.v2/{n:03d}" for n in range(3)]
    assert_readable(listed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"place": "?path=img&label=kind"}, "and none 'kind': say which of them holds what"),
        ({"split": "train"}, "has the splits 0, 2, and none 'train'"),
        ({"classes": ("cat",)}, "has the labels 1, which are none of the 1 classes"),
        ({"masks": "member:mask.png"}, "masks of .*csv.* are column:NAME, a folder, or alpha"),
        ({"masks": "column:img2"}, "and none 'img2'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"masks": "column:seg", "split": "0", "place": COLUMNS, **given}
    table = f"{write_table(make_photos(tmp_path))}{given.pop('place')}"
    with pytest.raises(CGNError, match=message):
        found(table, **given)


def test_a_table_brings_its_masks_and_groups(tmp_path: Path) -> None:
    table = make_table(tmp_path / "photos.csv")
    listed = found(table)
    assert keys(listed) == [f"train/{name}_{t}_{i}" for name, t, i in product(*TABLE)]
    assert [photo.columns["group"] for photo in listed[:3]] == ["day", "day", "night"]
    assert listed[0].mask == str(tmp_path / "masks/train/cat_day_0.png")
    assert found(f"{table}?group=")[0].columns == {}
    text = table.read_text()
    table.write_text(text.replace(",masks/train/cat_day_0.png", ","))
    without = found(table)[0]
    assert without.mask == NONE
    with pytest.raises(LeftOutError, match="none is named") as left:
        read_photo(without, 512)
    assert left.value.verdict == "no mask"
    table.write_text(text.replace("train/cat_day_0.png", f"{tmp_path}/train/cat_day_0.png", 1))
    with pytest.raises(DataError, match=r"no folder of masks can mirror /.*cat_day_0\.png"):
        found(table, masks=str(tmp_path / "masks"))


TABLE = (CLASSES, ("day", "night"), (0, 1))


# Layouts of benchmarks


@pytest.mark.parametrize("inside", ["", "images/"])
def test_of_waterbirds_the_training_split_is_taken_with_its_groups(
    inside: str, tmp_path: Path
) -> None:
    root = make_waterbirds(tmp_path / "birds", inside=inside, masks=True)
    listed = found(f"waterbirds:{root}", columns=("place",))
    assert len(listed) == sum(WATERBIRDS["train"])
    assert listed[0].key == f"{inside}001.Landbird/train_0_0"
    assert listed[0].label == "landbird"
    assert listed[-1].columns == {"place": "water", "group": "waterbird on water"}
    for photo in listed:
        assert read_photo(photo, 512)[1].mean() == pytest.approx(0.25)
    assert len(found(f"waterbirds:{root}@100")) == 9
    assert len(found(f"waterbirds:{root}", split="val")) == sum(WATERBIRDS["val"])
    # A folder mirrors all of the images, or what is in their folder.
    masks = root / "segmentations"
    assert found(f"waterbirds:{root}", masks=str(masks))[0].mask == listed[0].mask
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / (inside or "other")).symlink_to(masks)
    if inside:
        whole = found(f"waterbirds:{root}", masks=str(tmp_path / "whole"))
        assert whole[0].mask == str(tmp_path / "whole/images/001.Landbird/train_0_0.png")


def test_masks_of_layouts_are_found_or_said_to_be_missing(tmp_path: Path) -> None:
    cars = found(f"urbancars:{make_urbancars(tmp_path / 'cars', masks=True)}")
    assert len(cars) == sum(URBANCARS["train"])
    assert all(str(photo.mask) == f"{str(photo.image)[:-4]}_mask.png" for photo in cars)
    assert cars[-1].columns == {"group": "country car, country background, country object"}
    make_waterbirds(tmp_path / "birds")
    with pytest.raises(ArgumentError, match="comes without masks: say where the masks are: --mas"):
        found(f"waterbirds:{tmp_path / 'birds'}")
    with pytest.raises(ArgumentError, match="has the columns place, group: leave --columns out"):
        found(f"waterbirds:{tmp_path / 'birds'}", masks="alpha", columns=("sea",))
    for place in ("hf:cifar10@train", "real.tar"):
        with pytest.raises(ArgumentError, match="say where the masks are: --masks FOLDER"):
            found(place, classes=2)


def test_parts_keep_the_groups_of_their_images(tmp_path: Path) -> None:
    root = make_waterbirds(tmp_path / "birds", masks=True)
    write_parts(f"waterbirds:{root}", tmp_path / "parts", PartConfig(fill="none"), num_workers=0)
    parts = PartSet.open(tmp_path / "parts")
    groups = [parts.read(number).columns["group"] for number in range(len(parts))]
    counts = [groups.count(name) for name in GROUPS]
    assert tuple(counts) == WATERBIRDS["train"]
    assert parts.classes == ("landbird", "waterbird")


# Shards


def write_shard(path: Path, numbers: range, mask: bool = True, **changes: bytes) -> None:
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for n in numbers:
            files = {"png": io.BytesIO(), "mask.png": io.BytesIO()}
            for file, image in zip(files.values(), make_photo(n), strict=True):
                image.save(file, "PNG")
            sample = {name: file.getvalue() for name, file in files.items()}
            facts = json.dumps({"place": "sea"}).encode()
            tar.write({"__key__": f"{n:04d}", "cls": b"1", "json": facts, **sample, **changes})


def test_samples_of_shards(tmp_path: Path) -> None:
    for shard in (0, 1):
        write_shard(tmp_path / f"train-{shard}.tar", range(2 * shard, 2 * shard + 2))
    urls = f"{tmp_path}/train-{{0..1}}.tar"
    given: Any = {"masks": "member:mask.png", "classes": CLASSES}
    listed = found(urls, columns=("place",), **given)
    assert keys(listed) == ["train-0/0000", "train-0/0001", "train-1/0002", "train-1/0003"]
    assert (listed[0].label, listed[0].columns) == ("dog", {"place": "sea"})
    assert_readable(listed)
    assert find_photos(urls, PartConfig(**given)).num_shards == 2
    assert found(urls, masks="member:mask.png", classes=2)[0].label == "1"
    assert PartConfig(masks="alpha", classes=1000).class_names[207] == "golden retriever"
    with pytest.raises(ArgumentError, match=r"pass --classes '\[cat, …\]'"):
        found(urls, masks="alpha")
    with pytest.raises(ArgumentError, match=r"masks of .* are member:NAME, a folder, or alpha"):
        found(urls, masks="column:mask", classes=CLASSES)
    with pytest.raises(ArgumentError, match="which have no splits"):
        found(urls, split="val", **given)
    with pytest.raises(DataError, match=r"there is no shard .*train-2\.tar"):
        found(f"{tmp_path}/train-{{0..2}}.tar", **given)
    with pytest.raises(DataError, match="has no 'group' in its json"):
        found(urls, columns=("group",), **given)
    (tmp_path / "train-1.tar").write_bytes((tmp_path / "train-0.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be read"):
        found(urls, **given)
    write_shard(tmp_path / "train-1.tar", range(0))
    with pytest.raises(DataError, match="has no sample"):
        found(urls, **given)
    write_shard(tmp_path / "train-1.tar", range(1), cls=b"2")
    with pytest.raises(DataError, match="has the label '2', and there are 2 classes"):
        found(urls, **given)


@pytest.mark.parametrize(
    ("changed", "config", "told"),
    [
        ({"json": b"{"}, {"columns": ("place",)}, "has a json that cannot be read"),
        ({"json": b"7"}, {"columns": ("place",)}, "has a json that cannot be read"),
        ({"json": b"[" * 100_000}, {"columns": ("place",)}, "nested too deep"),
        ({"cls": b"9" * 5000}, {}, "and there are 2 classes"),
        ({"__key__": "../../a"}, {}, r"a sample of the key '\.\./\.\./a'"),
    ],
)
def test_a_sample_of_something_else_is_one_error(
    changed: dict[str, Any], config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        tar.write({"__key__": "a", "cls": b"0", "png": b"", **changed})
    with pytest.raises(DataError, match=told) as error:
        found(path, masks="alpha", classes=CLASSES, **config)
    assert len(str(error.value).splitlines()) == 1


def test_a_mask_that_is_missing_is_not_taken_from_the_alpha_channel(tmp_path: Path) -> None:
    image, mask = make_photo(0)
    image.putalpha(mask.convert("L"))
    file = io.BytesIO()
    image.save(file, "PNG")
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as tar:
        tar.write({"__key__": "a", "cls": b"0", "png": file.getvalue()})
    features = datasets.Features(
        {"image": datasets.Image(), "seg": datasets.Image(), "label": datasets.ClassLabel(2)}
    )
    rows = {"image": [image], "seg": [None], "label": [0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    listed = [
        *found(tmp_path / "a.tar", masks="member:mask.png", classes=CLASSES),
        *found(f"hf:{tmp_path / 'set'}@train", masks="column:seg"),
    ]
    for photo in listed:
        with pytest.raises(LeftOutError, match="none is named") as reason:
            read_photo(photo, 64)
        assert reason.value.verdict == "no mask"


@pytest.mark.parametrize("text", ['{"key": [1]}', '{"key": 5}', '{"key": ' + "[" * 100_000])
def test_keys_that_are_no_text_are_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(text)
    with pytest.raises(DataError, match="cannot be read as a list of keys"):
        read_keys(tmp_path / "keys.txt")


# Hugging Face


def test_rows_of_a_hugging_face_dataset(tmp_path: Path) -> None:
    pairs = [make_photo(n) for n in range(4)]
    columns = {
        "image": [image for image, _ in pairs],
        "seg": [mask for _, mask in pairs],
        "label": [0, 1, 1, 0],
        "place": ["sea"] * 4,
    }
    kinds = {"image": datasets.Image(), "seg": datasets.Image(), "place": datasets.Value("string")}
    features = datasets.Features({**kinds, "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = datasets.Dataset.from_dict(columns, features=features)
    other = rows.select(range(1))
    datasets.DatasetDict({"train": rows, "val": other}).save_to_disk(str(tmp_path / "set"))
    place = f"hf:{tmp_path / 'set'}"
    listed = found(place, masks="column:seg", columns=("place",))
    assert [photo.label for photo in listed] == ["cat", "dog", "dog", "cat"]
    assert listed[0].columns == {"place": "sea"}
    assert keys(listed)[1] == "000000001"
    assert_readable(listed)
    assert len(found(f"{place}@val", masks="column:seg")) == 1
    with pytest.raises(DataError, match="and no 'other'"):
        found(place, masks="column:other")
    for given, message in (
        ({"masks": "member:mask.png"}, "are column:NAME, a folder, or alpha"),
        ({"masks": "column:seg", "classes": ("a", "b")}, "leave --classes out"),
        ({"masks": "column:seg", "columns": ("group",)}, "has no column 'group'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            found(place, **given)
    with pytest.raises(ArgumentError, match="says itself which split"):
        found(f"{place}@val", masks="column:seg", split="test")
    photos = find_photos(place, PartConfig(masks="column:seg"))
    with pytest.raises(ArgumentError, match="2 keys to exclude are of no row"):
        photos.require_keys(["7", "000000004"])
