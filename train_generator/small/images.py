"""The input of the recipe: labelled images from any place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.images.finding import find_labelled_images
from cgn_augment.images.reading import open_image
from train_generator.metrics.folders import read_square

IMAGE_SIZE = SmallCGN.image_size


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images for a training; a label is the class of shape, texture and background at once.

    Attributes:
        images: (N, 3, 32, 32) float32 in [-1, 1].
        labels: (N,) int64; every class has an image.
        classes: names by label.
        description: what the images are, in words that follow "for".
        facts: plain values to store with the weights, by name.

    Raises:
        ArgumentError: shape, type or range is wrong, or a class has no image.

    Examples:
        >>> import torch
        >>> from train_generator.small.images import LabelledImages
        >>> images, labels = torch.zeros(4, 3, 32, 32), torch.arange(4) % 2
        >>> LabelledImages(images, labels, ("cat", "dog"), "cats and dogs").num_classes
        2
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    description: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.shape != (len(labels), 3, IMAGE_SIZE, IMAGE_SIZE) or len(labels) == 0:
            raise ArgumentError(
                f"images must be ({len(labels)}, 3, {IMAGE_SIZE}, {IMAGE_SIZE}), one or more and "
                f"as many as labels, got {tuple(images.shape)}: the small CGN draws no other size"
            )
        if images.dtype != torch.float32 or not (images.amin() >= -1 and images.amax() <= 1):
            raise ArgumentError(
                f"images must be float32 in [-1, 1], got {images.dtype}: scale them"
            )
        if labels.dim() != 1 or labels.dtype != torch.int64:
            raise ArgumentError(
                f"labels must be (N,) int64, got {tuple(labels.shape)} {labels.dtype}"
            )
        found = set(labels.tolist())
        if found != set(range(self.num_classes)):
            lost = [name for y, name in enumerate(self.classes) if y not in found]
            raise ArgumentError(
                f"each of the {self.num_classes} classes needs an image, and labels count from 0; "
                f"there is none of {lost}, and the largest label is {max(found)}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of images and labels."""
        return hash_tensors({"images": self.images, "labels": self.labels})

    def first_of_each(self) -> Tensor:
        """Returns (num_classes,) int64: the index of the first image of each class."""
        return torch.stack([(self.labels == y).nonzero()[0, 0] for y in range(self.num_classes)])


def read_class_folders(
    folder: Path, image_size: int = IMAGE_SIZE
) -> tuple[LabelledImages, tuple[Path, ...]]:
    """Reads the centre squares of the images in a folder with one folder per class.

    Args:
        folder: labels follow the order of its folders' names.
        image_size: size to resize to; the small CGN draws only 32x32 pixels.

    Returns:
        The images and their files, in the same order.

    Raises:
        ArgumentError: the image size is not 32.
        DataError: the folder is missing or laid out differently, or a file is damaged.

    Examples:
        >>> from PIL import Image
        >>> from train_generator.small.images import read_class_folders
        >>> folder = getfixture("tmp_path")
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (50, 40)).save(folder / name / "1.png")
        >>> data, paths = read_class_folders(folder)
        >>> data.images.shape, data.classes
        (torch.Size([2, 3, 32, 32]), ('cat', 'dog'))
    """
    if image_size != IMAGE_SIZE:
        raise ArgumentError(
            f"image_size must be {IMAGE_SIZE}, got {image_size}: the small CGN draws "
            f"{IMAGE_SIZE}x{IMAGE_SIZE} pixels and no other size; larger images are resized"
        )
    paths, labels, classes = find_labelled_images(folder)
    images = torch.stack([read_square(path, image_size) for path in paths]).float() / 127.5 - 1
    description = f"the images in {folder}"
    return LabelledImages(images, torch.tensor(labels), classes, description), paths


def read_masks(folder: Path, images: Path, paths: Sequence[Path]) -> Tensor:
    """Reads the true masks of images that `read_class_folders` has read.

    Args:
        folder: a tree like that of the images; the mask of cat/1.jpg is cat/1.png, of the same size
            and white (above 127 of 255) on the object.
        images: folder of the images.
        paths: files of the images.

    Returns:
        (N, 1, 32, 32) bool.

    Raises:
        DataError: a mask is missing, damaged, of another size than its image, or has no white.
    """
    files = [folder / path.relative_to(images.expanduser()).with_suffix(".png") for path in paths]
    if len(set(files)) < len(files):
        raise DataError(f"images of {images} share masks: names must differ in more than suffixes")
    masks = []
    for path, file in zip(paths, files, strict=True):
        if not file.is_file():
            raise DataError(
                f"there is no mask {file} of {path}: give one for each image, or leave masks out"
            )
        masks.append(read_square(file, IMAGE_SIZE)[:1] > 127)
        with open_image(str(path)) as image, open_image(str(file)) as mask:
            if image.size != mask.size:
                raise DataError(f"{file} has {mask.size} pixels and {path} {image.size}: fit them")
        if not masks[-1].any():
            raise DataError(
                f"{file} shows no object at {IMAGE_SIZE}x{IMAGE_SIZE} pixels: it must be white, "
                "above 127 of 255"
            )
    return torch.stack(masks)
