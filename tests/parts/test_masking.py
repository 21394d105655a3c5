"""The masks of images that lie in shards, tables and Hugging Face datasets, found by a masker."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from mask_helpers import find_dark
from part_helpers import CLASSES, make_photo
from PIL import Image

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.making import read_photo
from cgn_augment.parts.masking import mask_photos
from cgn_augment.parts.photos import find_photos

datasets = pytest.importorskip("datasets")

NUM = 4


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    make_photo(number)[0].save(file, "PNG")
    return file.getvalue()


def make_shards(folder: Path) -> tuple[str, dict[str, Any]]:
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"train-{shard}.tar")) as tar:
            for number in (2 * shard, 2 * shard + 1):
                sample = {"__key__": f"{number:03d}", "png": encoded(number), "cls": str(shard)}
                tar.write(sample)
    return f"{folder}/train-{{0..1}}.tar", {"classes": CLASSES}


def make_table(folder: Path) -> tuple[str, dict[str, Any]]:
    with (folder / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number in range(NUM):
            path = folder / "a" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(number))
            writer.writerow([f"a/{number}.png", CLASSES[number // 2]])
    return str(folder / "photos.csv"), {}


def make_rows(folder: Path) -> tuple[str, dict[str, Any]]:
    columns = {
        "image": [{"bytes": encoded(number), "path": None} for number in range(NUM)],
        "label": [number // 2 for number in range(NUM)],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(folder / "set"))
    return f"hf:{folder / 'set'}", {}


@pytest.mark.parametrize("make", [make_shards, make_table, make_rows])
def test_masks_go_to_a_folder_by_key_and_are_read_from_it(make: Any, tmp_path: Path) -> None:
    images, more = make(tmp_path)
    config = PartConfig(masks=str(tmp_path / "masks"), shard_size=3, **more)
    settings = MaskSettings(size=48)
    with pytest.raises(DataError, match=r"there is no folder .*masks of masks"):
        find_photos(images, config)
    ranks = [{"rank": rank, "world_size": 2} for rank in (0, 1)]
    counts = [mask_photos(images, config, find_red, settings, **rank) for rank in ranks]  # type: ignore[arg-type]
    assert sum(each.written for each in counts) == NUM
    assert all(each.written for each in counts)
    again = mask_photos(images, config, find_red, settings)  # type: ignore[arg-type]
    assert (again.written, again.kept) == (0, NUM)
    photos = find_photos(images, config)
    listed = [photo for shard in range(photos.num_shards) for photo in photos.of_shard(shard)]
    assert len(listed) == NUM
    for number, photo in enumerate(listed):
        assert photo.mask == str(tmp_path / "masks" / f"{photo.key}.png")
        _, mask = read_photo(photo, 512)
        true = np.asarray(make_photo(number)[1])
        assert ((mask > 0.5) == true).mean() > 0.97


def find_red(images: Any) -> Any:
    return ((images[:, :1] > 0.6) & (images[:, 1:2] < 0)).float()


def test_an_image_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    images, more = make_shards(tmp_path)
    with webdataset.TarWriter(str(tmp_path / "train-1.tar")) as tar:
        tar.write({"__key__": "x", "png": b"no image", "cls": "0"})
    config = PartConfig(masks=str(tmp_path / "masks"), **more)
    counts = mask_photos(images, config, find_dark, MaskSettings(size=32))  # type: ignore[arg-type]
    assert counts.written == 2
    [why] = counts.unreadable
    assert why.startswith("train-1/x cannot be read as an image")


@pytest.mark.parametrize("path", ["a/../a/0.png", "{folder}/a/0.png"])
def test_a_table_whose_masks_would_lie_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    images, _ = make_table(tmp_path)
    text = Path(images).read_text()
    Path(images).write_text(text.replace("a/0.png", path.format(folder=tmp_path)))
    config = PartConfig(masks=str(tmp_path / "masks"))
    with pytest.raises(DataError, match="would not lie in"):
        mask_photos(images, config, find_dark, MaskSettings(size=32))  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("masks/**/*.png"))


@pytest.mark.parametrize("masks", ["alpha", "column:mask", "member:mask.png"])
def test_masks_go_to_a_folder_and_nowhere_else(masks: str, tmp_path: Path) -> None:
    images, _ = make_table(tmp_path)
    with pytest.raises(ArgumentError, match="the folder that a masker's masks are"):
        mask_photos(images, PartConfig(masks=masks), "grabcut")


def test_masks_among_the_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(ArgumentError, match="must be folders beside each other"):
        mask_photos(str(tmp_path), PartConfig(masks=str(tmp_path / "masks")), "grabcut")
