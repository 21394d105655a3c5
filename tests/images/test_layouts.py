"""The layouts of the benchmarks and tables: every count, group and path as known by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import layout_helpers as layouts
import pytest
import torch
from PIL import Image

from cgn_augment.errors import ArgumentError, CGNError, DataError
from cgn_augment.images.datasets import evaluation_transform, open_images
from cgn_augment.images.finding import read_image
from cgn_augment.images.image_table import ImageTable
from cgn_augment.images.imagenet9 import CLASSES as NINE
from cgn_augment.images.imagenet9 import find_variants
from cgn_augment.images.places import find_files, find_splits, read_place
from cgn_augment.images.spawrious import BENCHMARKS, BROKEN
from cgn_augment.images.waterbirds import GROUPS

HALF = (0.5, 0.5, 0.5)
WHOLE = evaluation_transform(HALF, HALF, layouts.SIDE, crop=1.0)
TOOL = Path(__file__).resolve().parents[2].parent / "shared" / "tools" / "make-photos"


def counts(table: ImageTable) -> tuple[int, ...]:
    assert table.groups is not None
    counted = Counter(table.groups.numbers)
    return tuple(counted[number] for number in range(len(table.groups.names)))


def paths_exist(table: ImageTable) -> bool:
    masks = [mask for mask in table.mask_paths or () if mask is not None]
    return all(Path(path).is_file() for path in (*table.paths, *masks))


# Waterbirds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "images"])
def test_waterbirds_have_the_groups_of_their_table(inside: str, tmp_path: Path) -> None:
    place = f"waterbirds:{layouts.make_waterbirds(tmp_path, inside=inside, masks=True)}"
    assert find_splits(place) == ("train", "val", "test")
    for split, expected in layouts.WATERBIRDS.items():
        table = read_place(place, split=split)
        assert counts(table) == expected
        assert table.groups is not None
        assert table.groups.names == GROUPS
        assert table.groups.train_counts == layouts.WATERBIRDS["train"]
        assert [group // 2 for group in table.groups.numbers] == list(table.labels)
        assert paths_exist(table)
        assert len(table.mask_paths or ()) == len(table)
    assert read_place(place).classes == ("landbird", "waterbird")
    assert counts(read_place(place)) == layouts.WATERBIRDS["train"]
    assert counts(read_place(place, split="all")) == (10, 6, 4, 7)


def test_the_fully_correlated_variant_lacks_two_groups_in_training_alone(tmp_path: Path) -> None:
    place = f"waterbirds:{layouts.make_waterbirds(tmp_path)}@100"
    assert counts(read_place(place)) == (5, 0, 0, 4)
    test = read_place(place, split="test")
    assert counts(test) == layouts.WATERBIRDS["test"]
    assert test.groups is not None
    assert test.groups.train_counts == (5, 0, 0, 4)
    assert test.masks is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "metadata.csv").unlink(), "there is no .*metadata.csv"),
        (
            lambda at: layouts.write_rows(at / "metadata.csv", [["img_filename", "y"], ["a", 1]]),
            "the table of Waterbirds, has the columns .* and none 'split'",
        ),
        (
            lambda at: layouts.write_rows(
                at / "metadata.csv",
                [["img_filename", "y", "split", "place"], ["a/1.jpg", "bird", 0, 1]],
            ),
            "the row of 'a/1.jpg' has 'bird' for y, expected 0 to 1",
        ),
        (
            lambda at: next(at.glob("*/train*.jpg")).unlink(),
            "1 of the 11 images of waterbirds:.* are missing: there is no file .*train_",
        ),
    ],
)
def test_a_folder_that_is_not_waterbirds_is_one_error(
    change: object, message: str, tmp_path: Path
) -> None:
    layouts.make_waterbirds(tmp_path)
    assert callable(change)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        read_place(f"waterbirds:{tmp_path}")


def test_waterbirds_have_one_variant(tmp_path: Path) -> None:
    layouts.make_waterbirds(tmp_path)
    with pytest.raises(ArgumentError, match=r"has the variant @100 alone, got @95"):
        read_place(f"waterbirds:{tmp_path}@95")
    with pytest.raises(DataError, match="has the splits train, val, test, and none 'tset'"):
        read_place(f"waterbirds:{tmp_path}", split="tset")


@pytest.mark.skipif("WATERBIRDS" not in os.environ, reason="WATERBIRDS names no folder")
def test_published_waterbirds_have_their_published_counts() -> None:
    published = {
        "train": (3498, 184, 56, 1057),
        "val": (467, 466, 133, 133),
        "test": (2255, 2255, 642, 642),
    }
    place = f"waterbirds:{os.environ['WATERBIRDS']}"
    assert {split: counts(read_place(place, split=split)) for split in published} == published
    assert counts(read_place(f"{place}@100")) == (3498, 0, 0, 1057)


@pytest.mark.skipif(not TOOL.is_file(), reason="the tool is not there")
def test_photographs_in_the_layout_of_waterbirds(tmp_path: Path) -> None:
    out = tmp_path / "photos"
    size = ["--size", "32", "--per-class", "8", "--test-per-class", "4", "--correlation", "0.75"]
    subprocess.run([sys.executable, TOOL, out, "--layout", "waterbirds", *size], check=True)
    rows = [line.split(",") for line in (out / "metadata.csv").read_text().splitlines()[1:]]
    for number, split in enumerate(("train", "val", "test")):
        of_split = [(int(row[2]), int(row[4])) for row in rows if row[3] == str(number)]
        table = read_place(f"waterbirds:{out}", split=split)
        hand = tuple(of_split.count(pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1)))
        assert counts(table) == hand
        assert sum(hand) == len(table) == (16 if split == "train" else 8)
        assert paths_exist(table)
        assert None not in (table.masks or (None,))


# Spawrious ------------------------------------------------------------------------------------

# By hand, of 100 images in a folder: a breed's location has 97 and 87, and the filler 3 and 13;
# test images are 100 in each of both environments. Of many to many, environment 0 alone is read.
SPAWRIOUS = {
    "o2o_easy": {
        "train": {"bulldog on desert": 184, "corgi on snow": 184, "labrador on beach": 16},
        "test": {"bulldog on dirt": 200, "corgi on jungle": 200, "labrador on desert": 200},
    },
    "o2o_medium": {
        "train": {"dachshund on beach": 184, "dachshund on desert": 16, "labrador on dirt": 184},
        "test": {"bulldog on jungle": 200, "dachshund on dirt": 200, "corgi on snow": 200},
    },
    "o2o_hard": {
        "train": {"bulldog on jungle": 184, "corgi on desert": 184, "corgi on beach": 16},
        "test": {"bulldog on mountain": 200, "labrador on desert": 200},
    },
    "m2m_easy": {
        "train": {"bulldog on desert": 100, "bulldog on mountain": 100, "corgi on jungle": 100},
        "test": {"bulldog on dirt": 100, "dachshund on jungle": 100, "corgi on desert": 100},
    },
    "m2m_medium": {
        "train": {"dachshund on snow": 100, "labrador on mountain": 100, "corgi on desert": 100},
        "test": {"bulldog on mountain": 100, "labrador on snow": 100, "corgi on beach": 100},
    },
    "m2m_hard": {
        "train": {"bulldog on dirt": 100, "dachshund on jungle": 100, "corgi on beach": 100},
        "test": {"bulldog on snow": 100, "dachshund on beach": 100, "corgi on jungle": 100},
    },
}


@pytest.fixture(scope="module")
def spawrious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.make_spawrious(tmp_path_factory.mktemp("dogs"))


@pytest.mark.parametrize("benchmark_name", SPAWRIOUS)
def test_spawrious_takes_the_shares_of_the_authors(benchmark_name: str, spawrious: Path) -> None:
    place = f"spawrious:{spawrious}@{benchmark_name}"
    assert find_splits(place) == ("train", "test")
    for split, some in SPAWRIOUS[benchmark_name].items():
        table = read_place(place, split=split)
        assert table.groups is not None
        found = dict(zip(table.groups.names, counts(table), strict=True))
        assert {name: found[name] for name in some} == some
        assert len(table) == sum(counts(table)) == 800
        assert Counter(table.labels) == dict.fromkeys(range(4), 200)
    train = read_place(place)
    assert train.groups is not None
    assert train.groups.train_counts == counts(train)
    trained = {n for n, num in enumerate(counts(train)) if num}
    tested = {n for n, num in enumerate(counts(read_place(place, split="test"))) if num}
    assert not trained & tested


def test_spawrious_takes_the_first_images_by_name(spawrious: Path) -> None:
    table = read_place(f"spawrious:{spawrious / 'spawrious224'}@o2o_easy")
    names = sorted(f"desert_bulldog_{n}.png" for n in range(100))
    assert [Path(file).name for file in table.files[:97]] == names[:97]
    assert table.files[0] == "0/desert/bulldog/desert_bulldog_0.png"
    assert read_image(table.paths[0]).getpixel((0, 0)) == (0, 255, 0)
    assert tuple(SPAWRIOUS) == BENCHMARKS


@pytest.mark.parametrize(("name", "num"), [("o2o_easy", 800), ("o2o_medium", 799)])
def test_the_broken_image_of_spawrious_is_left_out_by_name(
    name: str, num: int, tmp_path: Path
) -> None:
    """In the training images another takes its place; of the test images it is one less."""
    root = layouts.make_spawrious(tmp_path)
    labradors = root / "spawrious224/1/beach/labrador"
    (labradors / "beach_labrador_99.png").rename(root / "spawrious224" / BROKEN)
    split = "train" if num == 800 else "test"
    with pytest.warns(UserWarning, match="beach_labrador_450.png is broken in the published set"):
        table = read_place(f"spawrious:{root}@{name}", split=split)
    assert len(table) == num
    assert not any(file.endswith("450.png") for file in table.files)


def test_what_is_missing_of_spawrious_is_said(tmp_path: Path) -> None:
    root = layouts.make_spawrious(tmp_path, num=2, locations=layouts.LOCATIONS[:5])
    with pytest.raises(DataError, match="has no images in spawrious224/0/snow/corgi"):
        read_place(f"spawrious:{root}@o2o_easy")
    with pytest.raises(ArgumentError, match=r"one of o2o_easy, .*m2m_hard; got 'easy'"):
        read_place(f"spawrious:{root}@easy")
    with pytest.raises(ArgumentError, match="say which benchmark"):
        read_place(f"spawrious:{root}")
    layouts.make_spawrious(tmp_path / "other", num=20)
    for n in range(5, 20):
        (tmp_path / f"other/spawrious224/0/desert/bulldog/desert_bulldog_{n}.png").unlink()
    with pytest.warns(UserWarning, match="has 5 images, and o2o_easy of Spawrious takes 19"):
        read_place(f"spawrious:{tmp_path / 'other'}@o2o_easy")


# UrbanCars ------------------------------------------------------------------------------------


def test_urbancars_have_eight_groups_and_masks_are_no_images(tmp_path: Path) -> None:
    place = f"urbancars:{layouts.make_urbancars(tmp_path, masks=True)}"
    assert find_splits(place) == ("train", "val", "test")
    for split, expected in layouts.URBANCARS.items():
        table = read_place(place, split=split)
        assert counts(table) == expected
        assert table.groups is not None
        assert table.groups.names[1] == "urban car, urban background, country object"
        assert table.groups.train_counts == layouts.URBANCARS["train"]
        assert Counter(table.labels) == {0: len(table) // 2, 1: len(table) // 2}
        assert all(mask and mask.endswith("0_mask.png") for mask in table.masks[:1] or ())
        assert paths_exist(table)


def test_urbancars_need_all_folders_of_a_split(tmp_path: Path) -> None:
    layouts.make_urbancars(tmp_path)
    folder = next(tmp_path.glob("bg-0.5*/val/obj-urban_bg-country_co_occur_obj-urban"))
    for path in folder.iterdir():
        path.unlink()
    assert counts(read_place(f"urbancars:{tmp_path}", split="val")) == (1, 1, 0, 1, 1, 1, 1, 1)
    folder.rmdir()
    with pytest.raises(DataError, match=r"lacks the folder .*obj-urban_bg-country_co_occur"):
        read_place(f"urbancars:{tmp_path}")
    with pytest.raises(ArgumentError, match="has no variants"):
        read_place(f"urbancars:{tmp_path}@100")
    with pytest.raises(DataError, match="has no images of UrbanCars"):
        read_place(f"urbancars:{tmp_path / 'none'}")


# ImageNet-9 -----------------------------------------------------------------------------------


def test_imagenet9_has_its_variants(tmp_path: Path) -> None:
    root = layouts.make_imagenet9(tmp_path, num=2)
    assert find_variants(root) == ("original", "mixed_same", "mixed_rand", "only_fg", "no_fg")
    place = f"in9:{root}"
    assert find_splits(place) == ("val",)
    table = read_place(place)
    assert table.files[0] == "val/00_dog/0.JPEG"
    assert (len(table), table.classes) == (18, NINE)
    assert "only_fg/val" in read_place(f"{place}@only_fg").paths[0]
    with pytest.raises(ArgumentError, match=r"has the variants original, .* and none 'mixed'"):
        read_place(f"{place}@mixed")
    with pytest.raises(DataError, match="has the splits val, and none 'train'"):
        read_place(place, split="train")
    (root / "original/val/00_dog").rename(root / "original/val/00_wolf")
    with pytest.raises(DataError, match=r"has the classes 00_wolf, .* and ImageNet-9 has 00_dog"):
        read_place(place)
    with pytest.raises(DataError, match="has no variant of ImageNet-9"):
        read_place(f"in9:{tmp_path / 'none'}")


# Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["table:", ""])
def test_a_table_says_what_is_known(prefix: str, tmp_path: Path) -> None:
    place = f"{prefix}{layouts.make_table(tmp_path / 'photos.csv')}"
    assert find_splits(place) == ("train", "val", "test")
    table = read_place(place, split="validation")
    assert (table.classes, Counter(table.labels)) == (("cat", "dog"), {0: 4, 1: 4})
    assert table.groups is not None
    assert (table.groups.names, table.groups.train_counts) == (("day", "night"), (4, 4))
    assert counts(table) == (4, 4)
    assert paths_exist(table)
    assert find_files(place, "test") == (tmp_path, list(read_place(place, split="test").files))


def test_columns_of_a_table_may_have_any_name(tmp_path: Path) -> None:
    columns = ("file", "y", "part", "place", "seg")
    path = layouts.make_table(tmp_path / "photos.csv", columns=columns)
    plain = read_place(f"table:{path}?path=file&label=y")
    assert (len(plain), plain.groups, plain.masks, plain.splits) == (24, None, None, None)
    full = read_place(f"{path}?path=file&label=y&split=part&group=place&mask=seg", split="test")
    assert (len(full), counts(full), len(full.masks or ())) == (8, (4, 4), 8)
    assert len(read_place(f"{path}?path=file&label=y&split=", split="train")) == 24
    with pytest.raises(DataError, match="and none 'path': say which of them holds what"):
        read_place(f"table:{path}")
    with pytest.raises(ArgumentError, match="a column of a table must be one of path, label"):
        read_place(f"table:{path}?file=path")


def test_labels_and_groups_are_the_same_in_every_split(tmp_path: Path) -> None:
    """A class or group that a split lacks keeps its number, and numbers are sorted as numbers."""
    rows = [["path", "label", "split", "group"], ["1.png", "10", "train", "2"]]
    rows += [["2.png", "9", "val", "10"], ["3.png", "010", "val", "2"]]
    for row in rows[1:]:
        layouts.save_image(tmp_path / row[0])
    path = layouts.write_rows(tmp_path / "photos.csv", rows)
    train, val = (read_place(str(path), split=split) for split in ("train", "val"))
    assert train.classes == val.classes == ("9", "010", "10")
    assert (train.labels, val.labels) == ((2,), (0, 1))
    assert val.groups is not None
    assert (val.groups.names, val.groups.numbers, val.groups.train_counts) == (
        ("2", "10"), (1, 0), (1, 0),
    )  # fmt: skip


# All of them ----------------------------------------------------------------------------------


def test_images_are_opened_with_their_groups(tmp_path: Path) -> None:
    root = layouts.make_waterbirds(tmp_path, suffix=".png", masks=True)
    images = open_images(f"waterbirds:{root}", WHOLE, split="val")
    assert images.groups is not None
    assert images.masks is not None
    grouped = images.with_groups()
    assert len(grouped) == len(images.dataset) == len(images.groups.numbers) == 6
    for index, number in enumerate((12, 13, 14, 15, 16, 17)):
        image, label, group = grouped[index]
        pair = images.dataset[index]
        assert torch.equal(image, pair[0])
        assert (label, group) == (pair[1], images.groups.numbers[index])
        assert round(float((image[0, 0, 0] + 1) * 127.5)) == number
        assert Path(images.masks[index]).stem in {f"val_{group}_{i}" for i in range(2)}
    layouts.save_image(tmp_path / "plain" / "cat" / "1.png")
    plain = open_images(str(tmp_path / "plain"), WHOLE)
    with pytest.raises(ArgumentError, match="these images have no groups: take a layout"):
        plain.with_groups()


def test_a_folder_with_splits_is_read_by_split(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/dog/1", "validation/cat/2", "validation/dog/2"):
        layouts.save_image(tmp_path / f"{name}.png")
    assert find_splits(str(tmp_path)) == ("train", "val")
    assert read_place(str(tmp_path)).files == ("train/cat/1.png", "train/dog/1.png")
    assert len(open_images(str(tmp_path), WHOLE, split="val").dataset) == 2
    assert find_files(str(tmp_path))[1] == ["train/cat/1.png", "train/dog/1.png"]
    assert len(find_files(str(tmp_path), "all")[1]) == 4
    layouts.save_image(tmp_path / "validation/fish/1.png")
    with pytest.raises(DataError, match="has other classes than the other splits"):
        read_place(str(tmp_path), split="all")


@pytest.mark.parametrize(
    ("place", "split", "message"),
    [
        ("{0}/cat", "val", "has no splits: leave the split 'val' out"),
        ("hf:cifar10@train", "val", "says itself which split"),
        ("{0}/real.tar", "val", "says itself which split"),
    ],
)
def test_a_split_of_what_has_none_is_refused(
    place: str, split: str, message: str, tmp_path: Path
) -> None:
    layouts.save_image(tmp_path / "cat" / "a" / "1.png")
    with pytest.raises(CGNError, match=message):
        open_images(place.format(tmp_path), WHOLE, split=split, classes=2)


def test_an_at_in_a_folder_above_is_no_variant(tmp_path: Path) -> None:
    root = layouts.make_waterbirds(tmp_path / "me@home" / "birds")
    assert len(read_place(f"waterbirds:{root}")) == 11


def test_a_table_may_name_urls(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (7, 8, 9)).save(tmp_path / "1.png")
    url = f"file://{tmp_path / '1.png'}"
    path = layouts.write_rows(tmp_path / "photos.csv", [["path", "label"], [url, "cat"]])
    image, _ = open_images(str(path), WHOLE).dataset[0]
    assert round(float((image[0, 0, 0] + 1) * 127.5)) == 7


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "photographs.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "waterbirds:" in block]
    layouts.make_waterbirds(tmp_path / "birds")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"my_transform": WHOLE}
    exec(block, names)
    assert (names["label"], names["group"], len(names["table"])) == (0, 0, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "told"), [("9" * 5000, "of the 2 classes, by name or by number"), ("1", "no file")]
)
def test_cells_of_any_length_are_one_error(label: str, told: str, tmp_path: Path) -> None:
    rows: list[list[object]] = [["path", "label"], ["1.png", "0"], ["a" * 5000 + ".png", label]]
    path = layouts.write_rows(tmp_path / "a.csv", rows)
    with pytest.raises(CGNError, match=told):
        read_place(str(path), classes=("cat", "dog"))
    head = ["img_id", "img_filename", "y", "split", "place"]
    for name, y in (("a" * 5000, "1"), ("a/1.jpg", "9" * 5000)):
        layouts.write_rows(tmp_path / "birds" / "metadata.csv", [head, [1, name, y, 0, 0]])
        with pytest.raises(DataError, match=r"expected 0 to 1|are missing") as error:
            read_place(f"waterbirds:{tmp_path / 'birds'}")
        assert len(str(error.value)) < 6000
