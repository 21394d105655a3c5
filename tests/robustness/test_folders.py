"""Folders of test images: what is found, and what is refused with the layout that is expected."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import layout_helpers as layouts
import pytest
import torch
from robustness_helpers import (
    CATEGORIES,
    NINE,
    make_cue_conflicts,
    make_imagenet9,
    make_reader,
    save_image,
)

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import find_labelled_images
from train_generator.robustness import (
    EvaluationConfig,
    background_gap,
    cue_conflict_categories,
    find_cue_conflicts,
    find_imagenet9,
    imagenet9_classes,
    label_images,
    make_tables,
    measure_cue_conflict,
    measure_imagenet9,
    measure_real,
)
from train_generator.robustness.folders import find_real_images
from train_generator.robustness.measure import OpenedImages

FIRST = [classes[0] for classes in cue_conflict_categories().classes]
FIRST_OF_NINE = [classes[0] for classes in imagenet9_classes().classes]


def test_images_with_a_conflict_are_found_with_both_labels(tmp_path: Path) -> None:
    folder = make_cue_conflicts(tmp_path)
    images = find_cue_conflicts(folder)
    assert len(images) == 16
    assert images.labels.tolist() == [[i, (i + 1) % 16] for i in range(16)]
    assert images.paths[0] == folder / "airplane" / "airplane3-bear1.png"


def test_shape_bias_of_readers_of_shape_and_of_texture(tmp_path: Path) -> None:
    images = find_cue_conflicts(make_cue_conflicts(tmp_path))
    config = EvaluationConfig(batch_size=5)  # the last batch has one image
    for channel, bias in ((0, 1.0), (1, 0.0)):
        counts = measure_cue_conflict(make_reader(channel, FIRST), images, config)["logits"]
        assert counts.bias == bias
        assert counts.num_cue_decisions == sum(counts.num_images) == 16
    # One that takes the shapes of eight categories for the next one, which is the texture.
    mixed = FIRST[1:9] + FIRST[8:]
    counts = measure_cue_conflict(make_reader(0, mixed), images, config)["logits"]
    assert counts.bias == 0.5
    assert counts.category_biases == (0.0,) * 8 + (1.0,) * 8


def test_a_classifier_of_the_sixteen_needs_no_mapping(tmp_path: Path) -> None:
    images = find_cue_conflicts(make_cue_conflicts(tmp_path))
    names = sorted(CATEGORIES, reverse=True)
    reader = make_reader(0, [names.index(name) for name in CATEGORIES], 16, names)
    assert measure_cue_conflict(reader, images)["logits"].bias == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: shutil.rmtree(x), "there is no folder .* of cue-conflict images"),
        (lambda x: shutil.rmtree(x / "cat"), "lacks the folders cat"),
        (lambda x: [shutil.rmtree(y) for y in list(x.iterdir())[1:]], "lacks .* and 10 more"),
        (
            lambda x: save_image(x / "zebra" / "zebra1-cat1.png", 0),
            "the folders zebra, which are no classes",
        ),
        (lambda x: [y.unlink() for y in (x / "cat").iterdir()], "has no image in cat"),
        (lambda x: save_image(x / "cat" / "7.png", 0), "7.png must say its shape, which is cat"),
        (lambda x: save_image(x / "cat" / "dog1-bear1.png", 0), "must say its shape, which is cat"),
        (lambda x: save_image(x / "cat" / "cat1-zebra1.png", 0), "and its texture"),
    ],
)
def test_another_layout_of_cue_conflicts_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = make_cue_conflicts(tmp_path / "stimuli")
    spoil(folder)
    with pytest.raises(DataError, match=rf"(?s){message}.*Expected:\n.*airplane1-bicycle2.png"):
        find_cue_conflicts(folder)


def test_images_without_any_conflict_are_refused(tmp_path: Path) -> None:
    for name in CATEGORIES:
        save_image(tmp_path / name / f"{name}1-{name}1.png", 0)
    with pytest.raises(DataError, match=r"no image of .* has a shape and a texture of two"):
        find_cue_conflicts(tmp_path)


def test_imagenet9_and_its_gap_with_a_partial_last_batch(tmp_path: Path) -> None:
    variants = find_imagenet9(make_imagenet9(tmp_path, num=2))
    assert [len(images) for images in variants.values()] == [18, 18, 18]
    assert variants["original"].labels.flatten().tolist() == [y for y in range(9) for _ in "ab"]
    # Takes a dog's shape for a toilet tissue, which is none of the nine.
    by_shape = make_reader(0, [999, *FIRST_OF_NINE[1:]])
    by_background = make_reader(1, FIRST_OF_NINE)
    for size in (4, 18, 64):  # 18 images: a last batch of 2, a full one, one that is never full
        config = EvaluationConfig(batch_size=size)
        found = measure_imagenet9(by_shape, variants, config)["logits"]
        assert found == pytest.approx(dict.fromkeys(variants, 16 / 18))
        found = measure_imagenet9(by_background, variants, config)["logits"]
        assert found == pytest.approx({"original": 1, "mixed_same": 1, "mixed_rand": 1 / 9})


def test_every_variant_of_imagenet9_that_is_there_is_reported(tmp_path: Path) -> None:
    folder = make_imagenet9(tmp_path)
    shutil.copytree(folder / "mixed_rand", folder / "only_fg")
    masks = folder / "fg_mask" / "val" / NINE[0]
    masks.mkdir(parents=True)
    (masks / "1.npy").touch()  # of the published set, which are no images
    variants = find_imagenet9(folder)
    assert list(variants) == ["original", "mixed_same", "mixed_rand", "only_fg"]
    accuracies = measure_imagenet9(make_reader(1, FIRST_OF_NINE), variants)["logits"]
    rows = {"logits": {**accuracies, "background_gap": background_gap(accuracies)}}
    header, row = make_tables("imagenet9", {"resnet50": rows})["ImageNet-9"]
    assert header[2:] == ["original", "mixed_same", "mixed_rand", "background gap", "only_fg"]
    assert row[2:] == ["100.0 %", "100.0 %", "11.1 %", "88.9 points", "11.1 %"]


def test_accuracy_is_measured_on_test_images(tmp_path: Path) -> None:
    """Of those for validation where there are no others, and never of those for training."""
    place = f"waterbirds:{layouts.make_waterbirds(tmp_path / 'birds')}"
    assert len(find_real_images(place).paths) == sum(layouts.WATERBIRDS["test"])
    nine = find_real_images(f"in9:{layouts.make_imagenet9(tmp_path / 'nine')}")
    assert nine.classes == NINE
    rows = [["path", "label", "split"], ["1.png", "cat", "train"]]
    layouts.save_image(tmp_path / "1.png")
    table = layouts.write_rows(tmp_path / "photos.csv", rows)
    with pytest.raises(DataError, match="has the splits train, and none of test images"):
        find_real_images(f"table:{table}")
    for name in ("train", "val"):
        save_image(tmp_path / "own" / name / "cat" / f"{name}.png", 1)
    assert [path.name for path in find_real_images(tmp_path / "own").paths] == ["val.png"]


def test_a_classifier_of_the_nine_needs_no_mapping(tmp_path: Path) -> None:
    variants = find_imagenet9(make_imagenet9(tmp_path))
    reader = make_reader(0, list(range(9)), 9, list(NINE))
    assert set(measure_imagenet9(reader, variants)["logits"].values()) == {1.0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: shutil.rmtree(x), "there is no folder .* of ImageNet-9"),
        (lambda x: shutil.rmtree(x / "original"), "lacks original/val of ImageNet-9"),
        (
            lambda x: (x / "mixed_rand/val/00_dog").rename(x / "mixed_rand/val/dog"),
            "mixed_rand/val lacks the folders 00_dog",
        ),
    ],
)
def test_another_layout_of_imagenet9_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = make_imagenet9(tmp_path / "bg")
    spoil(folder)
    with pytest.raises(DataError, match=rf"(?s){message}.*Expected:\n.*mixed_same/val/00_dog"):
        find_imagenet9(folder)


def make_real(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        for copy in range(number + 1):
            save_image(folder / name / f"{copy}.png", number)
    return folder


def test_folders_named_after_classes_get_these_labels(tmp_path: Path) -> None:
    folder = make_real(tmp_path, ["ant", "bee", "cat"])
    images = label_images(folder, find_labelled_images(folder), ["cat", "dog", "ant", "bee"], 4)
    assert images.labels.flatten().tolist() == [2, 3, 3, 0, 0, 0]
    reader = make_reader(0, [2, 3, 1], 4, ["cat", "dog", "ant", "bee"])  # takes cats for dogs
    assert measure_real(reader, images, EvaluationConfig(batch_size=4)) == {"logits": 0.5}


def test_as_many_folders_as_classes_are_taken_in_order(tmp_path: Path) -> None:
    folder = make_real(tmp_path, ["n01", "n02", "n03"])
    found = find_labelled_images(folder)
    for classes in (None, ["cat", "dog", "ant"]):
        images = label_images(folder, found, classes, 3)
        assert images.labels.flatten().tolist() == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("classes", "num", "message"),
    [
        (None, 4, r"3 of the 3 folders of .* \(ant, bee, cat\), .* has no names of classes \(4"),
        (["ant", "bee", "dog"], 3, r"1 of the 3 folders .* \(cat\), and the classifier has .* ant"),
        (["ant", "bee"], 2, r"1 of the 3 folders"),
    ],
)
def test_folders_of_unknown_classes_are_refused(
    tmp_path: Path, classes: list[str] | None, num: int, message: str
) -> None:
    folder = make_real(tmp_path, ["ant", "bee", "cat"])
    with pytest.raises(DataError, match=rf"(?s){message}.*Expected:\n.*FOLDER/CLASS"):
        label_images(folder, find_labelled_images(folder), classes, num)


def test_other_processes_can_read_the_images(tmp_path: Path) -> None:
    folder = make_real(tmp_path, ["ant", "bee"])
    images = label_images(folder, find_labelled_images(folder), ["ant", "bee"], 2)
    reader = make_reader(0, [0, 1], 2, ["ant", "bee"])
    assert measure_real(reader, images, EvaluationConfig(num_workers=1)) == {"logits": 1}
    opened = pickle.loads(
        pickle.dumps(OpenedImages(images, reader.cropping))
    )  # where they are spawned
    assert torch.equal(opened[2], OpenedImages(images, reader.cropping)[2])


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("num_workers", -1)])
def test_a_wrong_way_of_reading_is_refused(name: str, value: int) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be . or more, got {value}"):
        EvaluationConfig(**{name: value})
