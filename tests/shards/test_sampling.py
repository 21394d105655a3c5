"""Numbered images: their classes, and the folders that they are written to."""

from __future__ import annotations

import csv
import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_helpers import FORKS, own
from generator_helpers import MAKERS
from PIL import Image

from cgn_augment.errors import ArgumentError, FileError, UsageError
from cgn_augment.functional import compose
from cgn_augment.generators import CGN, SmallCGN
from cgn_augment.images.imagenet_classes import best_classes
from cgn_augment.shards.sampling import (
    KINDS,
    choose_classes,
    draw_numbered,
    pictures,
    to_bytes,
    to_pixels,
    write_samples,
)
from cgn_augment.types import FACTORS

# Classes


def test_random_classes_are_drawn_for_each_factor_by_itself() -> None:
    classes = choose_classes(10, 300, seed=1)
    assert classes.shape == (3, 300)
    assert classes.dtype == torch.int64
    assert all(row.unique().tolist() == list(range(10)) for row in classes)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (classes[first] == classes[second]).float().mean() < 0.2


def test_the_classes_of_an_image_follow_seed_and_number_alone() -> None:
    many, few, other = (choose_classes(10, n, seed=s) for n, s in ((50, 3), (20, 3), (50, 4)))
    assert torch.equal(many[:, :20], few)
    assert not torch.equal(many, other)


def test_per_class_goes_through_the_shapes() -> None:
    classes = choose_classes(10, 3, "per-class", background=[4])
    assert classes[0].tolist() == [y for y in range(10) for _ in range(3)]
    assert len(classes[1].unique()) > 3
    assert classes[2].unique().tolist() == [4]
    assert choose_classes(10, 1, "per-class", shape=[7, 2])[0].tolist() == [7, 2]


@pytest.mark.parametrize(
    ("num_classes", "mode", "options", "allowed"),
    [
        (10, "random", {"shape": [3, 5], "texture": [1]}, ([3, 5], [1], range(10))),
        (1000, "best", {"texture": [5]}, (best_classes("shape"), [5], best_classes("background"))),
    ],
)
def test_classes_that_are_listed_are_kept_to(
    num_classes: int, mode: Any, options: dict[str, Any], allowed: tuple[Sequence[int], ...]
) -> None:
    drawn = choose_classes(num_classes, 200, mode, **options)
    for classes, listed in zip(drawn, allowed, strict=True):
        assert set(classes.tolist()) <= set(listed)
        assert len(classes.unique()) > 0.3 * len(listed)


@pytest.mark.parametrize("mode", ["random", "per-class"])
def test_same_gives_all_factors_the_class_of_the_shape(mode: Any) -> None:
    classes = choose_classes(10, 4, mode, shape=[2, 8], same=True)
    assert torch.equal(classes, classes[:1].expand(3, -1))
    assert set(classes[0].tolist()) <= {2, 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num must be 1 or more, got 0"),
        ({"mode": "worst"}, "mode must be one of random, per-class, best, got 'worst'"),
        ({"mode": "best"}, "known of ImageNet's 1000 classes, and this CGN has 10"),
        ({"shape": [10]}, "shape lists class 10 but the CGN has only the classes 0 to 9"),
        ({"same": True, "texture": [1]}, "all factors get the class of the shape: give shape"),
    ],
)
def test_classes_that_cannot_be_chosen_are_errors(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        choose_classes(10, **{"num": 3, **arguments})  # type: ignore[arg-type]


# Images


@pytest.mark.parametrize("make", MAKERS.values())
def test_an_image_follows_its_number_and_not_its_batch(make: Callable[[], CGN]) -> None:
    cgn = make().freeze()
    classes = choose_classes(cgn.num_classes, 5)
    together = draw_numbered(cgn, classes, seed=2)
    alone = draw_numbered(cgn, classes[:, 3:4], first=3, seed=2)
    other = draw_numbered(cgn, classes[:, 3:4], first=3, seed=3)
    for kind, images in pictures(alone).items():
        torch.testing.assert_close(pictures(together)[kind][3:4], images, rtol=1e-4, atol=1e-5)
        assert not torch.equal(pictures(other)[kind], images)
    composed = compose(together.mask, together.foreground, together.background)
    assert torch.equal(pictures(together)["composite"], composed)


@pytest.mark.parametrize("make", MAKERS.values())
def test_fixed_noise_makes_images_of_one_class_alike(make: Callable[[], CGN]) -> None:
    cgn, classes = make().freeze(), torch.tensor([[1, 1, 2]]).expand(3, -1)
    fixed, free = (
        pictures(draw_numbered(cgn, classes, first=7, fixed_noise=noise)) for noise in (True, False)
    )
    for kind in KINDS:
        torch.testing.assert_close(fixed[kind][0], fixed[kind][1], rtol=1e-4, atol=1e-5)
        assert (fixed[kind][0] - fixed[kind][2]).abs().max() > 1e-5
        assert (free[kind][0] - free[kind][1]).abs().max() > 1e-5


def test_bytes_are_those_of_the_documented_ranges() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_bytes(images).flatten().tolist() == [0, 128, 255]
    assert to_bytes(torch.tensor([[[[0.5]]]])).flatten().tolist() == [128]


@pytest.mark.parametrize("chunk", [1, 3])
def test_samples_are_written_with_their_labels(
    chunk: int, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    classes, folder = choose_classes(10, 4), tmp_path / "new" / "samples"
    write_samples(tiny_cgn, classes, folder, save=KINDS, seed=5, chunk=chunk)
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert [{name: str(value) for name, value in line.items()} for line in lines] == rows
    assert [row["number"] for row in lines] == [0, 1, 2, 3]
    assert [[row[factor] for row in lines] for factor in FACTORS] == classes.tolist()
    drawn = pictures(draw_numbered(tiny_cgn, classes, seed=5))
    for row in lines:
        for kind in KINDS:
            with Image.open(folder / row[f"{kind}_file"]) as image:
                assert image.mode == ("L" if kind == "mask" else "RGB")
                pixels = np.asarray(image).astype(int)
            expected = to_pixels(drawn[kind])[row["number"]].astype(int)
            assert abs(pixels - expected).max() <= 1
    settings = json.loads((folder / "settings.json").read_text())
    assert settings == {"fingerprint": tiny_cgn.fingerprint, "seed": 5}


def test_names_stand_beside_the_classes_of_imagenet(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgn_augment.shards.sampling.class_names", lambda num: list("abcdefghij"))
    write_samples(tiny_cgn, torch.tensor([[1], [2], [3]]), tmp_path / "out")
    (line,) = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    names = {name: value for name, value in json.loads(line).items() if name.endswith("name")}
    assert names == {"shape_name": "b", "texture_name": "c", "background_name": "d"}


def test_after_an_interruption_the_labels_list_what_is_there(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_second(*arguments: object, **settings: object) -> object:
        if arguments[2] == 2:
            raise KeyboardInterrupt
        return draw_numbered(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("cgn_augment.shards.sampling.draw_numbered", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        write_samples(tiny_cgn, choose_classes(10, 5), tmp_path / "out")
    listed = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    assert len(listed) == 2
    assert len(list((tmp_path / "out" / "composite").iterdir())) == 2


def test_a_full_disk_leaves_no_half_image_and_is_told_of(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(image: Image.Image, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("PIL.Image.Image.save", fill)
    with pytest.raises(FileError, match=r"000000\.png cannot be written .*make room"):
        write_samples(tiny_cgn, choose_classes(10, 1), tmp_path / "out")
    assert list((tmp_path / "out" / "composite").iterdir()) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_folder_that_another_process_writes_to_is_left_to_it(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    owner = FORKS.Process(target=own, args=(tmp_path / "out", False))
    owner.start()
    while not (tmp_path / "out" / "owned").exists():
        time.sleep(0.01)
    (tmp_path / "out" / "owned").unlink()
    try:
        with pytest.raises(UsageError, match="another process is writing to"):
            write_samples(tiny_cgn, choose_classes(10, 1), tmp_path / "out")
    finally:
        owner.kill()
        owner.join()
    write_samples(tiny_cgn, choose_classes(10, 1), tmp_path / "out")


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        (".", {}, "is not an empty folder: name another"),
        ("old", {}, "is not an empty folder: name another"),
        ("new", {"save": ["premask"]}, r"save must be one of mask, .* got 'premask'"),
        ("new", {"save": []}, "save must name one or more of mask"),
        ("new", {"chunk": 0}, "chunk must be 1 or more, got 0"),
    ],
)
def test_a_folder_that_is_not_empty_and_odd_requests_are_errors(
    folder: str, options: dict[str, Any], message: str, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    (tmp_path / "old").write_text("something")
    with pytest.raises(ArgumentError, match=message):
        write_samples(tiny_cgn, choose_classes(10, 1), tmp_path / folder, **options)
    assert not (tmp_path / "new").exists()
