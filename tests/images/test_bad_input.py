"""Odd and spoilt data: one clear error or the right reading, the same for all that read images.

The four readers are those of the classifier's training, of `evaluate`, of `parts`, and of the FID.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from layout_helpers import make_table, make_waterbirds, save_image, save_mask, write_rows
from PIL import Image

from cgn_augment.cli import program
from cgn_augment.errors import CGNError
from cgn_augment.images.datasets import evaluation_transform, open_images
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.making import read_photo
from cgn_augment.parts.photos import find_photos
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.writing import write_parts
from train_generator.imagenet.metrics import find_real_paths
from train_generator.metrics.folders import read_batches
from train_generator.robustness.folders import find_real_images, label_images
from train_generator.robustness.measure import OpenedImages
from train_generator.robustness.predictors import Cropping

SIDE = 16
Seen = list[tuple[str, int]]
"""Of each image the name of its class, and how red its first pixel is."""

NO_CLASS = "?"


def by_classifier(place: str) -> Seen:
    transform = evaluation_transform((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SIDE, crop=1.0)
    images = open_images(place, transform)
    pairs = [images.dataset[i] for i in range(len(images.dataset))]
    return [(images.classes[y], round(float(x[0, 0, 0]) * 255)) for x, y in pairs]


def by_evaluation(place: str) -> Seen:
    found = find_real_images(place)
    files = label_images(Path(place), found, found.classes, len(found.classes))
    opened = OpenedImages(files, Cropping(SIDE, SIDE))
    labels = [found.classes[label] for label in files.labels[:, 0].tolist()]
    return [(y, round(float(opened[i][0, 0, 0]) * 255)) for i, y in enumerate(labels)]


def by_parts(place: str) -> Seen:
    photos = find_photos(place, PartConfig(masks="alpha")).of_shard(0)
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(mask).save(file, "PNG")
        whole = file.getvalue()
    pairs = [(photo, read_photo(photo._replace(mask=whole), SIDE)[0]) for photo in photos]
    return [(photo.label, np.asarray(image)[0, 0, 0]) for photo, image in pairs]


def by_fid(place: str) -> Seen:
    batches = read_batches(find_real_paths(place), SIDE, 4)
    return [(NO_CLASS, int(image[0, 0, 0])) for batch in batches for image in batch]


READERS = {
    "classifier": by_classifier,
    "evaluate": by_evaluation,
    "parts": by_parts,
    "fid": by_fid,
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Callable[[str], Seen]:
    reader: Callable[[str], Seen] = READERS[request.param]
    return reader


def grey(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (SIDE, SIDE), level).save(path)


def require_same(found: Seen, expected: Seen) -> None:
    if all(name == NO_CLASS for name, _ in found):
        expected = [(NO_CLASS, level) for _, level in expected]
    assert found == expected


# The right reading ----------------------------------------------------------------------------


def odd_names(root: Path) -> tuple[str, Seen]:
    """Folders whose names YAML 1.1 would take for numbers in octal and for truth values."""
    names = ("000", "010", "08", "1e3", "no", "yes")
    for level, name in enumerate(names):
        grey(root / "data" / name / "1.png", level)
    return str(root / "data"), [(name, level) for level, name in enumerate(names)]


def deep_grey(root: Path) -> tuple[str, Seen]:
    """16-bit grey is scaled, not cut off at 255."""
    for level, name in ((40, "cat"), (200, "dog")):
        path = root / "data" / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((SIDE, SIDE), 257 * level, np.uint16)).save(path)
    return str(root / "data"), [("cat", 40), ("dog", 200)]


def hidden_and_linked(root: Path) -> tuple[str, Seen]:
    """Hidden folders and files are none of the images; folders that are links are."""
    grey(root / "elsewhere" / "2.png", 9)
    for name in ("cat/1.png", "cat/.2.png", ".cache/3.png", "cat/.thumbnails/4.png", "fox/1.png"):
        grey(root / "data" / name, 5)
    (root / "data" / "dog").symlink_to(root / "elsewhere")
    return str(root / "data"), [("cat", 5), ("dog", 9), ("fox", 5)]


def labels_as_text(root: Path) -> tuple[str, Seen]:
    """The classes of a table are named by its labels, in their order."""
    for level, name in ((7, "b"), (8, "a")):
        grey(root / "data" / f"{name}.png", level)
    rows = [["path", "label"], ["b.png", "yes"], ["a.png", "no"]]
    return f"table:{write_rows(root / 'data' / 'photos.csv', rows)}", [("yes", 7), ("no", 8)]


def labels_as_numbers(root: Path) -> tuple[str, Seen]:
    for level in (7, 8):
        grey(root / "data" / f"{level}.png", level)
    rows = [["path", "label"], ["7.png", "010"], ["8.png", "9"]]
    return str(write_rows(root / "data" / "photos.csv", rows)), [("010", 7), ("9", 8)]


GOOD = (odd_names, deep_grey, hidden_and_linked, labels_as_text, labels_as_numbers)


@pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
def test_every_reader_sees_the_same(
    make: Callable[[Path], tuple[str, Seen]], read: Callable[[str], Seen], tmp_path: Path
) -> None:
    place, expected = make(tmp_path)
    require_same(read(place), expected)


# One clear error ------------------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def without_a_column(root: Path) -> str:
    return f"table:{edit(make_table(root / 'data/photos.csv'), 'label', 'kind')}"


def without_the_split_of_a_bird(root: Path) -> str:
    make_waterbirds(root / "data")
    return f"waterbirds:{edit(root / 'data/metadata.csv', 'split', 'fold').parent}"


def of_unknown_splits(root: Path) -> str:
    path = make_table(root / "data/photos.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    folds = {"train": "fit", "val": "check", "test": "check"}
    write_rows(path, [[folds.get(cell, cell) for cell in row] for row in rows])
    return str(path)


def without_an_image(root: Path) -> str:
    path = make_table(root / "data/photos.csv")
    for split in ("train", "test"):
        (path.parent / split / "dog_day_1.png").unlink()
    return str(path)


def with_a_hole_among_the_groups(root: Path) -> str:
    return str(edit(make_table(root / "data/photos.csv"), "val,night", "val,"))


def with_a_label_missing(root: Path) -> str:
    return str(edit(make_table(root / "data/photos.csv"), ",dog,test,day", ",,test,day"))


def with_groups_of_some_lines(root: Path) -> str:
    path = root / "data/photos.jsonl"
    for level in (1, 2):
        grey(path.parent / f"{level}.png", level)
    lines = [{"path": "1.png", "label": 0}, {"path": "2.png", "label": 1, "group": "day"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def of_a_layout_that_there_is_not(root: Path) -> str:
    return f"waterbird:{root}"


def with_a_row_cut_off(root: Path) -> str:
    path = make_table(root / "data/photos.csv")
    path.write_text(path.read_text() + "dog.png,dog\n")
    return str(path)


def of_an_empty_class(root: Path) -> str:
    grey(root / "data/cat/1.png", 1)
    (root / "data/dog").mkdir()
    return str(root / "data")


def of_splits_beside_classes(root: Path) -> str:
    for name in ("train/cat", "train/dog", "cat"):
        grey(root / "data" / name / "1.png", 1)
    return str(root / "data")


def of_a_table_that_is_not_there(root: Path) -> str:
    (root / "data").mkdir()
    return f"table:{root / 'data/none.csv'}"


BAD = {
    without_a_column: r"has the columns \['path', 'kind', .*\], and none 'label': say which",
    without_the_split_of_a_bird: r"metadata\.csv, the table of Waterbirds, has .* none 'split'",
    of_unknown_splits: "has the splits check, fit",
    without_an_image: r"1 of the 8 images of .* are missing: there is no file .*/dog_day_1\.png",
    with_a_hole_among_the_groups: r"row 11 \(val/cat_night_0\.png\) has no group, like 3 more",
    with_a_label_missing: r"row 21 \(test/dog_day_0\.png\) has no label, like 1 more",
    with_groups_of_some_lines: r"photos\.jsonl has the columns \['path', 'label'\], and none 'gro",
    of_a_layout_that_there_is_not: r"there is no folder waterbird:.* nor a layout 'waterbird'",
    with_a_row_cut_off: r"photos\.csv cannot be read as a table \(line 26 has more or fewer",
    of_splits_beside_classes: r"has the folder train, which has folders itself, beside cat, train",
    of_a_table_that_is_not_there: r"there is no table .*none\.csv",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_every_reader_says_the_same(
    make: Callable[[Path], str], read: Callable[[str], Seen], tmp_path: Path
) -> None:
    place = make(tmp_path)
    with pytest.raises(CGNError, match=BAD[make]) as raised:
        read(place)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in READERS if name != "fid"])
def test_an_empty_class_is_an_error_for_all_that_read_classes(name: str, tmp_path: Path) -> None:
    with pytest.raises(CGNError, match="has no image in dog"):
        READERS[name](of_an_empty_class(tmp_path))


def truncated(root: Path) -> tuple[str, Path]:
    """Two good photographs and one that is cut off."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    for name in ("cat/1", "cat/2", "dog/1"):
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "data" / f"{name}.jpg", quality=95)
    path = root / "data" / "cat" / "2.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(root / "data"), path


@pytest.mark.parametrize("name", [name for name in READERS if name != "parts"])
def test_a_photograph_that_is_cut_off_is_named(name: str, tmp_path: Path) -> None:
    place, path = truncated(tmp_path)
    with pytest.raises(CGNError, match=rf"{path} cannot be read as an image: replace or remove it"):
        READERS[name](place)


def test_parts_leave_a_photograph_out_that_is_cut_off_and_name_it(tmp_path: Path) -> None:
    place, _ = truncated(tmp_path)
    for name in ("cat/1", "cat/2", "dog/1"):
        save_mask(tmp_path / "masks" / f"{name}.png", SIDE)
    config = PartConfig(masks=str(tmp_path / "masks"), fill="none")
    write_parts(place, tmp_path / "parts", config, num_workers=0)
    [line] = (tmp_path / "parts" / "left_out.jsonl").read_text().splitlines()
    left = json.loads(line)
    assert (left["key"], left["verdict"]) == ("cat/2", "unreadable")


# Names on the command line --------------------------------------------------------------------


def test_names_of_classes_are_read_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in range(3):
        save_image(tmp_path / f"{label}.png", label)
        save_mask(tmp_path / "masks" / f"{label}.png")
    table = write_rows(
        tmp_path / "photos.csv", [["path", "label"], *([f"{y}.png", y] for y in range(3))]
    )
    words = ["parts", table, tmp_path / "parts", "--masks", tmp_path / "masks", "--fill=none"]
    words.append("--num-workers=0")
    (tmp_path / "settings.yaml").write_text("classes: [010, no, 2024-01-01]\n")
    given = {"one": "--classes=[010, no, 2024-01-01]", "two": f"--config={tmp_path}/settings.yaml"}
    for name, option in given.items():
        words[2] = out = tmp_path / name
        assert run_command(program.main, monkeypatch, *words, option) == 0
        assert PartSet.open(out).classes == ("010", "no", "2024-01-01")
