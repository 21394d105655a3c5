"""Labelled photographs from folders, tables, benchmarks' layouts, shards, or Hugging Face datasets.

Each knows its classes, and provides input for a `CounterfactualDataset` and a loader for testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from cgn_augment.checks import MAX_CLASSES, require_count, require_part, require_side
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import read_image
from cgn_augment.images.hugging_face import HUGGING_FACE, HuggingFaceRows, open_hugging_face
from cgn_augment.images.image_table import Groups
from cgn_augment.images.imagenet_classes import class_names
from cgn_augment.images.loading import LoadConfig, Transform, make_loader
from cgn_augment.images.places import is_listed, read_place
from cgn_augment.images.shards import ShardImages, hash_names
from cgn_augment.images.tar import expand_urls


@dataclass(frozen=True)
class MapImages:
    """Images that can be read by index.

    Attributes:
        dataset: yields pairs (image (3, H, W) float32, label).
        classes: names by label.
        groups: group of each image, by index; None if unknown.
        masks: path or URL of each image's mask, or None for an image without; None if there are no
            masks.
        digest: a hash of the names and labels of the images, which tells other images apart; not of
            their pixels.
    """

    dataset: Dataset[tuple[Tensor, int]]
    classes: tuple[str, ...]
    groups: Groups | None = None
    masks: tuple[str | None, ...] | None = None
    digest: str = ""

    def with_groups(self) -> GroupedImages:
        """Returns a dataset of (image, label, group).

        Raises:
            ArgumentError: the groups are unknown.
        """
        if self.groups is None:
            raise ArgumentError(
                "these images have no groups: take a layout that has, such as waterbirds:PATH, or "
                "a table with a column group"
            )
        return GroupedImages(self.dataset, self.groups.numbers)

    def training(self, config: LoadConfig) -> tuple[Any, dict[str, Any]]:
        """Returns `real` for a `CounterfactualDataset`, and the arguments that go with it.

        Args:
            config: how the process loads images.
        """
        return self.dataset, {
            "batch_size": config.batch_size,
            "num_workers": config.num_workers,
            "drop_last": True,
            "seed_items": True,
            "pin_memory": config.pin_memory,
        }

    def testing(self, config: LoadConfig) -> DataLoader[Any]:
        """Returns a loader of images and labels, each once, for this process's part.

        Args:
            config: how the process loads images.
        """
        num = len(self.dataset)  # type: ignore[arg-type]
        part = Subset(self.dataset, range(config.rank, num, config.world_size))
        return make_loader(part, config, config.batch_size)


ImageSet = MapImages | ShardImages


def open_images(
    place: str,
    transform: Transform,
    *,
    split: str | None = None,
    classes: int | Sequence[str] | None = None,
    num_images: int | None = None,
) -> ImageSet:
    """Opens the images at a place, whatever their kind.

    Args:
        place: a folder with one folder of images per class, a table, or a benchmark's layout (see
            `read_place`); shards, as a path or URL ending in .tar, where braces stand for several
            (`s3://bucket/train-{000..146}.tar`); or `hf:NAME@SPLIT`, a Hugging Face dataset by
            folder or name.
        transform: turns an RGB PIL image into (3, H, W) float32.
        split: train, val, test or `all`, if the images have splits (see `find_splits`); None takes
            the training split, or the only split.
        classes: names of the classes by label, or their number, if the images do not say.
        num_images: images per epoch, for shards.

    Raises:
        ArgumentError: classes are missing, or do not belong to these images.
        DataError: there are no images, or they are laid out differently.
        MissingPackageError: the package datasets is not installed.

    Examples:
        >>> from PIL import Image
        >>> from cgn_augment.images.datasets import open_images, evaluation_transform
        >>> folder = getfixture("tmp_path")
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (40, 40)).save(folder / name / "1.jpg")
        >>> transform = evaluation_transform((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 32)
        >>> images = open_images(str(folder), transform)
        >>> images.classes, images.dataset[1][0].shape
        (('cat', 'dog'), torch.Size([3, 32, 32]))
    """
    if isinstance(classes, int):
        require_count("classes", classes, most=MAX_CLASSES)
        classes = class_names(classes) or [str(label) for label in range(classes)]
    names = None if classes is None else tuple(classes)
    images: ImageSet
    if is_listed(place):
        table = read_place(place, split=split, classes=names)
        dataset = TableImages(table.paths, table.labels, transform)
        digest = hash_names(map("{}={}".format, table.files, table.labels))
        images = MapImages(dataset, table.classes, table.groups, table.mask_paths, digest)
    elif split is not None:
        raise ArgumentError(f"{place} says itself which split: leave the split {split!r} out")
    elif place.startswith(HUGGING_FACE):
        found = open_hugging_face(place.removeprefix(HUGGING_FACE), names)
        images = MapImages(
            _HuggingFaceImages(found.undecoded(found.image), transform),
            found.classes,
            digest=hash_names(map(str, found.rows[found.label])),
        )
    else:
        images = _open_shards(place, transform, names, num_images)
    if names is not None and images.classes != names:
        raise ArgumentError(
            f"{place} says itself which {len(images.classes)} classes it has: leave classes out"
        )
    return images


def _open_shards(
    urls: str, transform: Transform, classes: tuple[str, ...] | None, num_images: int | None
) -> ShardImages:
    if classes is None:
        raise ArgumentError(
            "shards do not say which classes there are: pass classes, their number or their names"
        )
    if num_images is not None:
        require_count("num_train", num_images)
    shards = tuple(expand_urls(urls))
    lost = [shard for shard in shards if ":" not in shard and not Path(shard).is_file()]
    if lost:
        raise DataError(
            f"there is no shard {lost[0]}, and {len(lost)} of {len(shards)} are missing: expected "
            "tar files with an image (.jpg, .png or .webp) and its label (.cls) for each sample"
        )
    return ShardImages(shards, classes, transform, num_images)


def training_transform(
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    min_scale: float = 0.08,
    flip: bool = True,
) -> Transform:
    """Returns the transform for training images: random crop, flip, normalisation.

    Args:
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel.
        image_size: height and width of the result.
        min_scale: smallest share of the image that a crop shows; 1 shows all of it.
        flip: whether half of the images are mirrored left to right.

    Raises:
        ArgumentError: a value cannot be used.
    """
    from torchvision import transforms  # slow to import

    size, min_scale = require_side("image_size", image_size), require_part("min_scale", min_scale)
    crop = transforms.RandomResizedCrop(size, scale=(min_scale, 1.0))
    resize = transforms.Resize((size, size))
    flips = [transforms.RandomHorizontalFlip()] if flip else []
    return _normalised([resize if min_scale == 1 else crop, *flips], mean, std)


def evaluation_transform(
    mean: Sequence[float], std: Sequence[float], image_size: int, crop: float = 0.875
) -> Transform:
    """Returns the transform for test images: centre crop and normalisation.

    Args:
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel.
        image_size: height and width of the result.
        crop: share of the shorter side that is shown.

    Raises:
        ArgumentError: a value cannot be used.
    """
    from torchvision import transforms  # slow to import

    size = require_side("image_size", image_size)
    resize = transforms.Resize(round(size / require_part("crop", crop)))
    return _normalised([resize, transforms.CenterCrop(size)], mean, std)


@dataclass(frozen=True)
class TableImages(Dataset[tuple[Tensor, int]]):
    """Pairs of an image (3, H, W) float32 and its label.

    Attributes:
        paths: paths or URLs of the images.
        labels: label of each image.
        transform: turns an RGB PIL image into the result.
    """

    paths: Sequence[str]
    labels: Sequence[int]
    transform: Transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.paths[index])), self.labels[index]


@dataclass(frozen=True)
class GroupedImages(Dataset[tuple[Tensor, int, int]]):
    """The images of another dataset, with the group of each.

    Attributes:
        dataset: yields pairs (image, label).
        groups: group of each image.
    """

    dataset: Dataset[tuple[Tensor, int]]
    groups: Sequence[int]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label = self.dataset[index]
        return image, label, self.groups[index]


@dataclass(frozen=True)
class _HuggingFaceImages(Dataset[tuple[Tensor, int]]):
    found: HuggingFaceRows
    transform: Transform

    def __len__(self) -> int:
        return len(self.found.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, number = self.found.rows[index], range(len(self))[index]
        label = self.found.label_of(row, number)
        image = read_image(self.found.file_of(row, number), f"the image of row {number}")
        return self.transform(image), label


def _normalised(steps: list[Any], mean: Sequence[float], std: Sequence[float]) -> Transform:
    from torchvision import transforms  # slow to import

    last = [transforms.ToTensor(), transforms.Normalize(list(mean), list(std))]
    made: Transform = transforms.Compose([*steps, *last])
    return made
