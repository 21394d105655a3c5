"""Real images from folders, from WebDataset shards, and from Hugging Face datasets."""

from __future__ import annotations

import importlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from stream_helpers import SIZE, StubSource, collect, same
from torch import Tensor

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError, DataError, MissingPackageError
from cgn_augment.images.datasets import (
    evaluation_transform,
    open_images,
    training_transform,
)
from cgn_augment.images.loading import LoadConfig

HALF = (0.5, 0.5, 0.5)
WHOLE = evaluation_transform(HALF, HALF, SIZE, crop=1.0)
PER_SHARD = 6


def picture(index: int) -> Image.Image:
    """A grey picture that `indices` reads the index from."""
    return Image.new("RGB", (SIZE, SIZE), (index, index, index))


def indices(images: Tensor) -> list[int]:
    return [round(float((image[0, 0, 0] + 1) * 127.5)) for image in images]


def make_folder(folder: Path, names: tuple[str, ...] = ("cat", "dog"), num: int = 3) -> Path:
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(num):
            picture(num * label + i).save(folder / name / f"{i}.png")
    return folder


def make_shards(folder: Path, num_shards: int = 4, **files: bytes | None) -> str:
    """Shards of six samples; the label of image i is i % 3. `files` replace those of the last."""
    for shard in range(num_shards):
        with tarfile.open(folder / f"real-{shard}.tar", "w") as tar:
            for index in range(PER_SHARD * shard, PER_SHARD * (shard + 1)):
                data = io.BytesIO()
                picture(index).save(data, "PNG")
                sample: dict[str, bytes | None] = {
                    "png": data.getvalue(),
                    "cls": str(index % 3).encode(),
                }
                if index == PER_SHARD * num_shards - 1:
                    sample |= files
                for suffix, content in sample.items():
                    if content is not None:
                        info = tarfile.TarInfo(f"{index:04}.{suffix}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return f"{folder}/real-{{0..{num_shards - 1}}}.tar"


# Folders --------------------------------------------------------------------------------------


def test_a_folder_has_a_class_for_each_of_its_folders(tmp_path: Path) -> None:
    images = open_images(str(make_folder(tmp_path)), WHOLE)
    assert images.classes == ("cat", "dog")
    real, options = images.training(LoadConfig(2))
    assert real[4][1] == 1
    assert indices(torch.stack([real[i][0] for i in range(6)])) == list(range(6))
    stream = CounterfactualDataset(real, StubSource(), **options)
    assert (len(stream), stream.proportion.batch_size) == (3, 2)


def test_ranks_share_out_the_test_images(tmp_path: Path) -> None:
    images = open_images(str(make_folder(tmp_path, num=4)), WHOLE)
    loaders = [images.testing(LoadConfig(2, rank=rank, world_size=3)) for rank in range(3)]
    parts = [[index for x, _ in loader for index in indices(x)] for loader in loaders]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_a_folder_says_which_classes_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)there is no folder .*/none.*one folder of images for"
    ):
        open_images(str(tmp_path / "none"), WHOLE)
    make_folder(tmp_path, ("cat",))
    with pytest.raises(ArgumentError, match=r"says itself which 1 classes it has: leave classes"):
        open_images(str(tmp_path), WHOLE, classes=["tiger"])


# Shards ---------------------------------------------------------------------------------------


def open_shards(folder: Path, num_images: int | None = 24, classes: Any = 3, **files: Any) -> Any:
    return open_images(make_shards(folder, **files), WHOLE, classes=classes, num_images=num_images)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_of_shards_is_as_long_as_was_said(tmp_path: Path, num_workers: int) -> None:
    images = open_shards(tmp_path)
    seen = []
    for rank in range(2):
        loader, options = images.training(LoadConfig(4, num_workers, rank, 2))
        assert options == {}
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        seen.append([index for x, _ in batches for index in indices(x)])
        for x, y in batches:
            assert y.tolist() == [index % 3 for index in indices(x)]
    assert not set(seen[0]) & set(seen[1])
    if num_workers == 0:  # of three batches one worker makes two, more than it has images for
        assert sorted(seen[0] + seen[1]) == list(range(24))


def test_an_epoch_may_be_longer_than_the_shards_and_each_has_its_order(tmp_path: Path) -> None:
    loader, _ = open_shards(tmp_path, num_images=36).training(LoadConfig(4))
    first = [index for x, _ in loader for index in indices(x)]
    assert sorted(first[:24]) == list(range(24))
    assert len(first) == 36
    assert first[:24] != list(range(24))
    assert [index for x, _ in loader for index in indices(x)] == first
    loader.dataset.set_epoch(1)
    assert [index for x, _ in loader for index in indices(x)] != first


def test_a_stream_of_shards_goes_on_where_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transform = training_transform(HALF, HALF, SIZE, min_scale=0.3)
    images = open_images(make_shards(tmp_path), transform, classes=10, num_images=24)

    def stream() -> CounterfactualDataset:
        loader, options = images.training(LoadConfig(4))
        return CounterfactualDataset(loader, StubSource(), mix="separate", **options)

    whole = collect(stream(), 2)
    first = stream()
    for _, __ in zip(first, range(2), strict=False):
        state = first.state_dict()
    second = stream()
    second.load_state_dict(state)
    assert same(collect(second, 2), whole[state["step"] :])
    assert "reading and dropping the batches before it" in caplog.text


@pytest.mark.parametrize(("num_workers", "world_size"), [(0, 1), (0, 3), (2, 1), (2, 3)])
def test_each_image_of_shards_is_tested_once(
    tmp_path: Path, num_workers: int, world_size: int
) -> None:
    images = open_shards(tmp_path, num_images=None)
    loaders = [images.testing(LoadConfig(4, num_workers, r, world_size)) for r in range(world_size)]
    assert sorted(i for loader in loaders for x, _ in loader for i in indices(x)) == list(range(24))


@pytest.mark.parametrize(
    ("options", "reading", "message"),
    [
        ({}, LoadConfig(4, 3, 0, 2), "4 shards are too few for 2 processes with 3 workers each"),
        ({"num_images": None}, LoadConfig(4), "do not say how many images there are: pass num_tr"),
        ({"num_images": 7}, LoadConfig(4, 0, 0, 2), "must fill a batch of 4 in each of 2 processe"),
        ({"num_images": 0}, LoadConfig(4), "num_train must be 1 or more, got 0"),
        ({"classes": None}, LoadConfig(4), "shards do not say which classes there are: pass cla"),
    ],
)
def test_shards_that_cannot_be_shared_out_are_an_error(
    tmp_path: Path, options: dict[str, Any], reading: LoadConfig, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        open_shards(tmp_path, **options).training(reading)


def test_a_shard_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    make_shards(tmp_path)
    with pytest.raises(DataError, match=r"no shard .*real-4.tar, and 2 of 6 are missing: expected"):
        open_images(f"{tmp_path}/real-{{0..5}}.tar", WHOLE, classes=3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"png": b"\x89PNG"}, r"real-3.tar, sample 0023 is damaged \(.*\): make it again"),
        ({"cls": b"cat"}, r"sample 0023 is damaged \(invalid literal"),
        ({"cls": b"3"}, r"sample 0023 has the label 3, and there are 3 classes"),
        ({"cls": None}, r"sample 0023 has \['png'\]: expected an image .* and .cls"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(open_shards(tmp_path, **files).testing(LoadConfig(4)))


# Hugging Face ---------------------------------------------------------------------------------


def make_dataset(folder: Path, names: list[str] | None) -> str:
    datasets: Any = importlib.import_module("datasets")
    label = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    rows = {"picture": [picture(i) for i in range(4)], "label": [0, 1, 1, 0]}
    features = datasets.Features({"picture": datasets.Image(), "label": label})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(folder))
    return f"hf:{folder}"


def test_a_dataset_of_hugging_face_is_read_by_index(tmp_path: Path) -> None:
    images = open_images(f"{make_dataset(tmp_path / 'named', ['cat', 'dog'])}@train", WHOLE)
    assert images.classes == ("cat", "dog")
    real, _ = images.training(LoadConfig(2))
    assert [real[i][1] for i in range(len(real))] == [0, 1, 1, 0]
    assert indices(torch.stack([real[i][0] for i in range(4)])) == [0, 1, 2, 3]

    plain = f"{make_dataset(tmp_path / 'plain', None)}@train"
    with pytest.raises(ArgumentError, match="does not name its classes: pass classes"):
        open_images(plain, WHOLE)
    assert open_images(plain, WHOLE, classes=2).classes == ("0", "1")
    with pytest.raises(DataError, match=r"cannot load the split validation of .*save_to_d"):
        open_images(plain.replace("@train", "@validation"), WHOLE)
    with pytest.raises(ArgumentError, match=r"say which split: hf:.*plain@train, or another one"):
        open_images(plain.removesuffix("@train"), WHOLE)


def test_rows_that_cannot_be_used_are_said_by_number(tmp_path: Path) -> None:
    datasets: Any = importlib.import_module("datasets")
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"picture": datasets.Image(), "label": names})
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    file = io.BytesIO()
    picture(0).save(file, "PNG")
    cells = [None, *({"bytes": data, "path": None} for data in (b"half", script))]
    cells += [{"bytes": file.getvalue(), "path": None}] * 3
    rows = {"picture": cells, "label": [0, 0, 0, None, -1, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path))
    images = open_images(f"hf:{tmp_path}@train", WHOLE).dataset
    assert images[5][1] == 1
    for number, told in enumerate(("has no image", *["cannot be"] * 2, "label None", "label -1")):
        with pytest.raises(DataError, match=f"row {number} .*{told}"):
            images[number]


def test_braces_that_do_not_close_are_said() -> None:
    with pytest.raises(ArgumentError, match=r"braces of a\{\.tar cannot be expanded"):
        open_images("a{.tar", WHOLE, classes=2)


def test_datasets_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ImportError

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(MissingPackageError, match=r"pip install 'cgn-augment\[datasets\]'"):
        open_images("hf:cifar10@train", WHOLE)


# Transforms -----------------------------------------------------------------------------------


def test_test_images_are_cropped_in_the_middle_and_normalised() -> None:
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (16, 0, 64, 40))
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    made = evaluation_transform(mean, std, 20, crop=1.0)(image)
    expected = (1 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(made, expected[:, None, None].expand(3, 20, 20))
    assert evaluation_transform(mean, std, 28)(image).shape == (3, 28, 28)


def test_training_images_are_cropped_and_flipped_at_random() -> None:
    image = Image.linear_gradient("L").rotate(90).convert("RGB")
    whole = training_transform(HALF, HALF, 16, min_scale=1.0, flip=False)
    assert torch.equal(whole(image), whole(image))
    for changes in ({"min_scale": 0.1, "flip": False}, {"min_scale": 1.0}):
        transform = training_transform(HALF, HALF, 16, **changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = [transform(image) for _ in range(8)]
        assert {tuple(each.shape) for each in made} == {(3, 16, 16)}
        assert not all(torch.equal(each, made[0]) for each in made)
