"""The settings for training a classifier, and the stream of images that they describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal

import torch
from kornia.augmentation import RandomHorizontalFlip, RandomResizedCrop
from torch import nn

from cgn_augment import CounterfactualDataset, match_real
from cgn_augment.checks import require_counts, require_part, require_side, require_weights
from cgn_augment.errors import ArgumentError
from cgn_augment.images.datasets import (
    ImageSet,
    MapImages,
    evaluation_transform,
    open_images,
    training_transform,
)
from cgn_augment.images.imagenet_classes import find_class, find_classes
from cgn_augment.images.loading import LoadConfig
from cgn_augment.images.places import find_splits
from cgn_augment.images.shards import ShardImages
from cgn_augment.types import Source
from train_generator.classifier.backbones import Preprocessing
from train_generator.classifier.ensemble_config import EnsembleConfig
from train_generator.classifier.group_dro import ETA, BalancedSampler
from train_generator.classifier.peers import ALONE, Method, PeerConfig
from train_generator.classifier.selection import Select
from train_generator.classifier.sources import NoSource, Origin, SourceConfig, make_source

Class = int | str
ClassMapping = Mapping[str, Class | Sequence[Class]] | Literal["names"]


@dataclass(frozen=True)
class ImagesConfig:
    """How images are cropped to the classifier's size.

    Attributes:
        image_size: height and width in pixels; by default the size the backbone was trained with.
        min_scale: smallest share of a training image, real or made of parts, that a crop shows; 1
            shows all of it.
        flip: whether half of the images, counterfactuals too, are mirrored left to right.
        test_crop: share of the shorter side of a validation image that is shown.

    Raises:
        ArgumentError: a value cannot be used.
    """

    image_size: int | None = None
    min_scale: float = 0.08
    flip: bool = True
    test_crop: float = 0.875

    def __post_init__(self) -> None:
        if self.image_size is not None:
            require_side("image_size", self.image_size)
        require_part("min_scale", self.min_scale)
        require_part("test_crop", self.test_crop)


@dataclass(frozen=True)
class EnsembleSettings:
    """All settings of a training, as written beside it.

    Attributes:
        train: real images to train on: a folder with one folder per class, WebDataset shards (a
            path or URL ending in .tar, with braces for several), or hf:NAME@SPLIT.
        validation: real images to test on after each epoch; likewise. By default the validation
            split of a layout that has one.
        parts: folder or URL of the images' own parts, written by cgn-augment parts, to recombine;
            their classes have the names of the images' classes.
        cgn: instead, path of a CGN or name of a bundled one, whose counterfactuals are streamed.
        shards: instead, folder or URLs of counterfactuals that cgn-augment shards rendered.
        heads: 3 trains the invariant ensemble; 1 trains a plain classifier, on batches of real
            images and counterfactuals, and writes its state dict.
        method: with one head, an established method against shortcuts: plain, cutmix or groupdro,
            on real images alone; dfr retrains the last layer on balanced validation groups, after
            training with or without counterfactuals.
        select: which epoch to keep: the last, or the best average or worst_group of
            the validation images.
        eta: step size of the group weights of groupdro.
        backbone: a torchvision name, such as resnet50 or resnet50.IMAGENET1K_V1; timm/NAME; or
            resnet10_w32, a small network for small photographs.
        backbone_file: state dict with the backbone's weights, instead of a download.
        pretrained: false starts from new weights.
        classes: number of classes, or their names by label, if the images do not say.
        num_train: shards only: images per epoch.
        class_map: classes of the images to those of the CGN, if they differ: '{cat: [281, 282],
            dog: golden_retriever}'; or names, to match them by name.
        batch_size: real images per step and process.
        ratio: counterfactuals per real image.
        source: the bank of masks, foregrounds and backgrounds, and how they are combined.
        images: how images are cropped.
        training: optimizer, schedule, BatchNorm, precision.
        seed: seed of every draw.
        device: auto takes a GPU if there is one; or cpu or cuda.

    Raises:
        ArgumentError: a value cannot be used.
    """

    train: str
    validation: str | None = None
    parts: str | None = None
    cgn: str | None = None
    shards: str | list[str] | None = None
    heads: int = 3
    method: Method | None = None
    select: Select = "last"
    eta: float = ETA
    backbone: str = "resnet50"
    backbone_file: str | None = None
    pretrained: bool = True
    classes: int | list[str] | None = None
    num_train: int | None = None
    class_map: dict[str, Class | list[Class]] | Literal["names"] | None = None
    batch_size: int = 64
    ratio: float = 1.0
    source: SourceConfig = field(default_factory=SourceConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    training: EnsembleConfig = field(default_factory=EnsembleConfig)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require_counts(self, "batch_size")
        require_weights(self, "ratio")
        if self.heads not in (1, 3):
            raise ArgumentError(f"heads must be 1 or 3, got {self.heads}")
        peer = self.peer
        if self.heads == 3 and peer.method is not None:
            raise ArgumentError(f"method {peer.method} is of a plain classifier: pass --heads 1")
        if peer.method in ALONE and self.origin != Origin():
            raise ArgumentError(
                f"method {peer.method} is trained on real images alone: leave parts, cgn and "
                "shards out, or the method"
            )

    @property
    def peer(self) -> PeerConfig:
        """The method used besides counterfactuals."""
        return PeerConfig(self.method, self.select, self.eta)

    @property
    def origin(self) -> Origin:
        """The origin of counterfactuals."""
        return Origin(self.parts, self.cgn, self.shards)

    @property
    def is_real_alone(self) -> bool:
        """Whether there are no counterfactuals."""
        return self.method is not None and self.origin == Origin()


def open_both(
    settings: EnsembleSettings, preprocessing: Preprocessing
) -> tuple[ImageSet, ImageSet]:
    """Opens training and validation images; see `open_images`.

    Raises:
        ArgumentError: the two have different classes, or num_train is given without shards.
        DataError: one is missing or laid out differently.
    """
    (mean, std, size), config = astuple(preprocessing), settings.images
    train, classes = settings.train, settings.classes
    validation, split = find_validation(settings)
    transform = training_transform(mean, std, size, config.min_scale, config.flip)
    real = open_images(train, transform, classes=classes, num_images=settings.num_train)
    if settings.num_train is not None and not isinstance(real, ShardImages):
        raise ArgumentError(
            f"num_train is of shards, and an epoch of {train} is all of its images: leave "
            "num_train out"
        )
    transform = evaluation_transform(mean, std, size, config.test_crop)
    tests = open_images(validation, transform, split=split, classes=classes)
    if tests.classes != real.classes:
        odd = sorted(set(tests.classes) ^ set(real.classes))
        raise ArgumentError(
            f"{train} has {len(real.classes)} classes and {validation} has {len(tests.classes)}"
            f"{f', which differ in {odd[:5]}' if odd else ' in another order'}: labels would not "
            "mean the same"
        )
    return real, tests


def find_validation(settings: EnsembleSettings) -> tuple[str, str | None]:
    """Returns the place of the validation images, and their split.

    Raises:
        ArgumentError: the place is not given and cannot be found.
        DataError: as for `find_splits`.
    """
    place = settings.train if settings.validation is None else settings.validation
    there = find_splits(place)
    if "val" in there:
        return place, "val"
    if settings.validation is None:
        has = f"has the splits {', '.join(there)}" if there else "has no splits"
        raise ArgumentError(
            f"{place} {has}, so say where the validation images are: classifier TRAIN VAL"
        )
    if len(there) > 1 and "test" in there:
        raise ArgumentError(
            f"{place} has the splits {', '.join(there)} and none for validation: an epoch chosen "
            "by test images would flatter. Name images for validation alone"
        )
    return place, None


def make_stream(
    settings: EnsembleSettings,
    real: ImageSet,
    preprocessing: Preprocessing,
    reading: LoadConfig,
    device: torch.device,
) -> CounterfactualDataset:
    """Makes the stream of training images and counterfactuals on the classifier's device.

    Raises:
        ArgumentError: there is not exactly one of parts, a CGN and shards, or a setting does not
            fit it.
    """
    mean, std, size = astuple(preprocessing)
    images, origin = settings.images, settings.origin
    augment = nn.Sequential()
    crops = origin.parts is not None and images.min_scale < 1
    if crops:
        augment.append(RandomResizedCrop((size, size), scale=(images.min_scale, 1.0)))
    if images.flip:
        augment.append(RandomHorizontalFlip())
    if settings.parts is not None and settings.class_map is not None:
        raise ArgumentError("parts are of the images' own classes: leave class_map out")
    source: Source = NoSource()
    resize = class_map = None
    if not settings.is_real_alone:
        made = make_source(
            origin,
            settings.source,
            # Images that will be cropped are stored larger, as validation images are.
            size=round(size / images.test_crop) if crops else size,
            classes=real.classes,
            num=settings.batch_size * settings.ratio,
            reading=reading,
            device=device,
        )
        source = made
        # A larger CGN is cropped like the real images; parts have the right size, or their own
        # crop.
        resize = None if origin.parts is not None else max(size, made.image_size)
        class_map = resolve_class_map(settings.class_map, real.classes, made.num_classes)
    match = match_real(mean, std, size, augment if len(augment) else None, resize=resize)
    data, arguments = real.training(reading)
    if settings.method == "groupdro" and isinstance(real, MapImages):
        data = real.with_groups()
        arguments["sampler"] = BalancedSampler(data.groups, reading.seed)
    return CounterfactualDataset(
        data,
        source,
        ratio=0.0 if settings.is_real_alone else settings.ratio,
        mix="separate" if settings.heads == 3 else "append",
        label="all" if settings.heads == 3 else "shape",
        class_map=class_map,
        transform=match,
        device=device,
        seed=reading.seed,
        rank=reading.rank,
        world_size=reading.world_size,
        prefetch=2,
        **arguments,
    )


def resolve_class_map(
    given: ClassMapping | None, classes: Sequence[str], num_classes: int
) -> dict[int, list[int]] | None:
    """Turns names into labels and classes.

    Args:
        given: classes of the classifier, by name or label, mapped to the classes of the CGN that
            show them, by index or ImageNet name; "names" looks up each class by its name.
        classes: names of the classifier's classes, by label.
        num_classes: number of classes of the CGN.

    Returns:
        The `class_map` for `CounterfactualDataset`.

    Raises:
        ArgumentError: a class does not exist, or its name stands for two.

    Examples:
        >>> from train_generator.classifier.ensemble_data import resolve_class_map
        >>> resolve_class_map({"cat": ["tabby", 282], "1": 207}, ["cat", "dog"], 1000)
        {0: [281, 282], 1: [207]}
    """
    if given is None:
        return None
    if given == "names":
        return {label: [find_class(name, num_classes)] for label, name in enumerate(classes)}
    mapping = {}
    for key, shown in given.items():
        name = str(key)  # YAML gives numbers
        label = classes.index(name) if name in classes else _label(name, classes)
        several = [shown] if isinstance(shown, int | str) else list(shown)
        mapping[label] = find_classes(several, num_classes) or []
    return mapping


def _label(text: str, classes: Sequence[str]) -> int:
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise ArgumentError(
        f"class_map has {text!r}, which is no class of the classifier: it has "
        f"{', '.join(classes[:10])}{' …' if len(classes) > 10 else ''}, or the labels 0 to "
        f"{len(classes) - 1}"
    )
