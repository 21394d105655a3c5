"""Images of one's own: folders, their masks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_helpers import CLASSES, make_images, write_folders

from cgn_augment.errors import ArgumentError, DataError
from train_generator.small.images import LabelledImages, read_class_folders, read_masks

IMAGES, LABELS = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])


def test_folders_are_read_by_class_with_their_masks(tmp_path: Path) -> None:
    write_folders(tmp_path, 6)
    data, paths = read_class_folders(tmp_path / "images")
    assert data.classes == tuple(sorted(CLASSES))
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.description == f"the images in {tmp_path / 'images'}"
    made, true = make_images(6)
    order = [int(path.stem) for path in paths]
    torch.testing.assert_close(data.images, made.images[order], atol=1 / 127, rtol=0)
    found = read_masks(tmp_path / "masks", tmp_path / "images", paths)
    assert found.dtype == torch.bool
    assert torch.equal(found, true[order])


def test_the_middle_square_of_a_larger_image_is_taken(tmp_path: Path) -> None:
    image, mask = Image.new("RGB", (80, 40), "blue"), Image.new("L", (80, 40))
    image.paste("red", (20, 0, 60, 40))  # the middle square
    mask.paste(255, (20, 0, 60, 20))
    for kind, picture in (("images", image), ("masks", mask)):
        (tmp_path / kind / "cat").mkdir(parents=True)
        picture.save(tmp_path / kind / "cat" / "1.png")
    data, paths = read_class_folders(tmp_path / "images")
    assert (data.images[0, 0] > 0.9).all()
    [found] = read_masks(tmp_path / "masks", tmp_path / "images", paths)
    assert found[:, :16].all()
    assert not found[:, 16:].any()


def test_the_small_generator_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"must be 32, got 64: .* larger images are resized"):
        read_class_folders(tmp_path, 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda file: file.unlink(),
            r"no mask .*00\.png of .*: give one for each image, or leave masks out",
        ),
        # As of a mask of 0 and 1.
        (
            lambda file: Image.new("L", (32, 32), 1).save(file),
            "shows no object at 32x32 pixels: it must be white, above 127",
        ),
        (
            lambda file: Image.new("L", (64, 64), 255).save(file),
            r"has \(64, 64\) pixels and .* \(32, 32\): fit them",
        ),
        (lambda file: file.write_bytes(b"nonsense"), r"00\.png cannot be read"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_folders(tmp_path, 3)
    spoil(tmp_path / "masks" / "box" / "00.png")
    _, paths = read_class_folders(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        read_masks(tmp_path / "masks", tmp_path / "images", paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 3, 28, 28)}, r"must be \(4, 3, 32, 32\).* no other size"),
        ({"images": IMAGES[:2]}, "as many as labels"),
        ({"images": IMAGES + 2}, r"float32 in \[-1, 1\]: scale them|got .*: scale them"),
        ({"images": IMAGES.double()}, "scale them"),
        ({"labels": LABELS.float()}, r"labels must be \(N,\) int64"),
        ({"labels": LABELS * 0}, r"needs an image.* there is none of \['dog'\]"),
        ({"labels": LABELS + 1}, "the largest label is 2"),
    ],
)
def test_images_that_cannot_be_learned_from_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    given = {"images": IMAGES, "labels": LABELS, "classes": ("cat", "dog"), "description": "pets"}
    with pytest.raises(ArgumentError, match=message):
        LabelledImages(**{**given, **changes})
