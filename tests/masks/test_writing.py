"""Masks of a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from layout_helpers import WATERBIRDS, make_table, make_waterbirds
from mask_helpers import SIZES, box, find_dark, make_images, read_mask
from PIL import Image
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError
from cgn_augment.masks import writing
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import SETTINGS, write_masks
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.photos import find_photos

SETTING = MaskSettings(size=64, batch_size=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_images(tmp_path / "photos")


def masks_in(folder: Path) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.uint8]]]:
    paths = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): read_mask(path) for path in paths}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_masks_mirror_the_images_at_their_own_sizes(photos: Path, batch_size: int) -> None:
    out = photos.parent / "masks"
    counts = write_masks(photos, out, find_dark, MaskSettings(size=64, batch_size=batch_size))
    assert counts == (3, 0, ())
    found = masks_in(out)
    assert list(found) == ["cat/1.png", "cat/2.png", "dog/a/3.png"]
    for mask, size in zip(found.values(), SIZES.values(), strict=True):
        assert mask.shape == size
        expected = np.zeros(size, bool)
        expected[box(*size)] = True
        inside = mask > 127
        assert (inside & expected).sum() / (inside | expected).sum() > 0.8


def test_images_are_seen_upright(photos: Path) -> None:
    pixels = np.full((30, 60, 3), 220, np.uint8)
    pixels[:, :20] = 10  # the top, when it is turned
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(photos / "cat" / "4.png", exif=turned)
    write_masks(photos, photos.parent / "masks", find_dark, SETTING)
    mask = read_mask(photos.parent / "masks" / "cat" / "4.png")
    assert mask.shape == (60, 30)
    assert mask[:15].min() == 255
    assert mask[25:].max() == 0


def test_soft_masks_keep_their_levels_and_are_not_stretched(photos: Path) -> None:
    write_masks(photos, photos.parent / "masks", lambda given: given[:, :1] * 0 + 0.3, SETTING)
    assert {
        int(level) for mask in masks_in(photos.parent / "masks").values() for level in mask.flat
    }
    assert all((mask == 76).all() for mask in masks_in(photos.parent / "masks").values())


def test_what_is_there_stays_and_the_rest_is_made(photos: Path) -> None:
    out = photos.parent / "masks"

    def find(given: Tensor) -> Tensor:
        if len(given) < 2 and interrupted:
            raise KeyboardInterrupt
        return find_dark(given)

    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        write_masks(photos, out, find, SETTING)
    interrupted = False
    begun = masks_in(out)
    assert 0 < len(begun) < 3
    assert not list(out.rglob(".*"))
    mended = out / next(iter(begun))
    Image.new("L", (5, 5), 255).save(mended)
    assert write_masks(photos, out, find, SETTING)[:2] == (3 - len(begun), len(begun))
    assert read_mask(mended).shape == (5, 5)
    assert write_masks(photos, out, find, SETTING)[:2] == (0, 3)


def test_masks_of_another_making_are_not_mixed_in(photos: Path) -> None:
    out = photos.parent / "masks"
    write_masks(photos, out, find_dark, SETTING)
    write_masks(photos, out, find_dark, MaskSettings(size=64, batch_size=1))
    with pytest.raises(DataError, match="were made with another close, size"):
        write_masks(photos, out, find_dark, MaskSettings(size=32, close=True))
    with pytest.raises(DataError, match="were made with another masker"):
        write_masks(photos, out, "wildlife-mnist", MaskSettings(size=64))
    assert json.loads((out / SETTINGS).read_text())["size"] == 64
    for text in ("nothing", "[]", "[" * 100_000):
        (out / SETTINGS).write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read: remove it"):
            write_masks(photos, out, find_dark, SETTING)
    (out / SETTINGS).unlink()
    with pytest.raises(
        DataError, match=r"has masks that this command did not write, such as .*\.png"
    ):
        write_masks(photos, out, find_dark, SETTING)


def test_settings_without_a_mask_hold_nobody(photos: Path) -> None:
    out = photos.parent / "masks"
    with pytest.raises(ArgumentTypeError, match="gave a int"):
        write_masks(photos, out, lambda given: 0, SETTING)
    assert write_masks(photos, out, find_dark, MaskSettings(size=32)).written == 3
    with pytest.raises(DataError, match="with another masker"):
        write_masks(photos, out, lambda given: given[:, :1] > 0, MaskSettings(size=32))
    with pytest.raises(DataError, match="with another size"):
        write_masks(photos, out, find_dark, SETTING)


def test_a_bundled_masker_is_not_for_photographs(photos: Path) -> None:
    out = photos.parent / "masks"
    Image.new("RGB", (200, 100)).save(photos / "cat" / "0.png")
    with pytest.raises(ArgumentError, match=r"0.png has 200x100 pixels: .* take u2net.onnx or"):
        write_masks(photos, out, "wildlife-mnist")
    assert not out.exists()
    Image.new("RGB", (200, 96)).save(photos / "cat" / "0.png")
    assert write_masks(photos, out, "wildlife-mnist").written == 4


def test_an_image_that_cannot_be_read_has_no_mask_and_is_said(photos: Path) -> None:
    (photos / "cat" / "2.jpg").write_bytes(b"nothing")
    counts = write_masks(photos, photos.parent / "masks", find_dark, SETTING)
    assert counts.written == 2
    assert len(counts.unreadable) == 1
    assert "2.jpg cannot be read as an image" in counts.unreadable[0]
    assert "cat/2.png" not in masks_in(photos.parent / "masks")


def test_folders_that_cannot_be_used_are_an_error(photos: Path) -> None:
    for out in (photos, photos / "masks", photos.parent):
        with pytest.raises(ArgumentError, match="must be folders beside each other"):
            write_masks(photos, out, find_dark)
    with pytest.raises(DataError, match="there is no folder"):
        write_masks(photos / "no", photos.parent / "masks", find_dark)
    Image.new("RGB", (4, 4)).save(photos / "cat" / "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg and .*1\.png would have one mask: rename"):
        write_masks(photos, photos.parent / "masks", find_dark)
    assert not (photos.parent / "masks").exists()


def test_memory_holds_no_more_than_a_few_batches(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        Image.new("RGB", (20, 20), (250, 250, 250)).save(photos / "cat" / f"{number + 10}.png")
    started, ended, most = list[int](), list[int](), 0
    read, write = writing._read, writing._write

    def count_read(*given: object) -> object:
        nonlocal most
        started.append(1)
        most = max(most, len(started) - len(ended))
        return read(*given)  # type: ignore[arg-type]

    def count_write(*given: object) -> None:
        write(*given)  # type: ignore[arg-type]
        ended.append(1)

    monkeypatch.setattr(writing, "_read", count_read)
    monkeypatch.setattr(writing, "_write", count_write)
    write_masks(photos, photos.parent / "masks", find_dark, MaskSettings(size=32, batch_size=4))
    assert len(ended) == 43
    assert most <= 4 * 4  # one batch is read, one masked and one written


def test_masks_of_a_layout_mirror_its_images_split_by_split(tmp_path: Path) -> None:
    root = make_waterbirds(tmp_path / "birds", inside="images", suffix=".png")
    place, out = f"waterbirds:{root}", tmp_path / "masks"
    counts = write_masks(place, out, find_dark, SETTING)
    assert counts == (sum(WATERBIRDS["train"]), 0, ())
    assert next(iter(masks_in(out))) == "images/001.Landbird/train_0_0.png"
    photos = find_photos(place, PartConfig(masks=str(out)))
    assert all(Path(str(photo.mask)).is_file() for photo in photos.of_shard(0))
    assert write_masks(place, out, find_dark, SETTING, split="test").written == 10
    assert write_masks(place, out, find_dark, SETTING, split="all") == (6, 21, ())
    # Beside the images, where the published masks are: what is in a layout is named by its table.
    assert write_masks(place, root / "segmentations", find_dark, SETTING).written == 11
    with pytest.raises(DataError, match="has the splits train, val, test, and none 'tset'"):
        write_masks(place, out, find_dark, SETTING, split="tset")


def test_masks_of_a_table_lie_below_the_folder_of_masks(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data" / "photos.csv")
    assert write_masks(f"table:{table}", tmp_path / "masks", find_dark, SETTING).written == 8
    assert (tmp_path / "masks" / "train" / "cat_day_0.png").is_file()
    table.write_text(
        table.read_text().replace("train/cat_day_0.png", "../data/train/cat_day_0.png")
    )
    with pytest.raises(DataError, match=r"the mask of \.\./data/.* would not lie in"):
        write_masks(table, tmp_path / "other", find_dark, SETTING)
