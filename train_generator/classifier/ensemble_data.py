"""The settings of an ensemble's training, and the stream of images that they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal

import torch
from kornia.augmentation import RandomHorizontalFlip

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    FreshSource,
    ShardSource,
    load_cgn,
    match_real,
)
from cgn_augment.checks import require_count, require_counts, require_part, require_weights
from cgn_augment.errors import ArgumentError
from cgn_augment.images.datasets import (
    ImageSet,
    evaluation_transform,
    open_images,
    training_transform,
)
from cgn_augment.images.imagenet_classes import find_class, find_classes
from cgn_augment.images.loading import LoadConfig
from cgn_augment.sources.bank import StorageName
from train_generator.classifier.backbones import Preprocessing
from train_generator.classifier.ensemble_config import EnsembleConfig

Class = int | str
ClassMapping = Mapping[str, Class | Sequence[Class]] | Literal["names"]


@dataclass(frozen=True)
class ImagesConfig:
    """How images are brought to the size that an ensemble sees.

    Attributes:
        image_size: height and width in pixels; what the backbone was trained with by default.
        min_scale: least share of a real training image that a crop shows; 1 shows all of it.
        flip: whether left and right are swapped half of the time, of counterfactuals too.
        test_crop: share of the shorter side of a validation image that is shown.

    Raises:
        ArgumentError: a value that cannot be used.
    """

    image_size: int | None = None
    min_scale: float = 0.08
    flip: bool = True
    test_crop: float = 0.875

    def __post_init__(self) -> None:
        if self.image_size is not None:
            require_count("image_size", self.image_size)
        require_part("min_scale", self.min_scale)
        require_part("test_crop", self.test_crop)


@dataclass(frozen=True)
class SourceConfig:
    """Where counterfactuals come from.

    Attributes:
        bank: masks, foregrounds and backgrounds of the CGN that are kept and recombined; 0 runs the
            CGN for each image.
        refresh: of the bank, how many are replaced at each step.
        storage: of the bank: uint8, float16 or float32.
        chunk: images that the CGN makes at once.
        truncation: of an ImageNet CGN, in (0, 1]; as its file says by default.

    Raises:
        ArgumentError: a value that cannot be used.
    """

    bank: int = 2000
    refresh: int = 4
    storage: StorageName = "uint8"
    chunk: int = 16
    truncation: float | None = None

    def __post_init__(self) -> None:
        require_counts(self, "bank", "refresh", least=0)
        require_counts(self, "chunk")


@dataclass(frozen=True)
class EnsembleSettings:
    """All settings of a training, as they are written beside it.

    Attributes:
        train: real images to train on: a folder with one folder for each class, WebDataset shards
            (a path or URL ending in .tar, with braces for several), or hf:NAME@SPLIT.
        validation: real images to test on after each epoch; likewise.
        cgn: path of a CGN or name of a bundled one, whose counterfactuals are streamed.
        shards: instead, folder or URLs of counterfactuals that cgn-augment shards rendered.
        backbone: of torchvision, such as resnet50 or resnet50.IMAGENET1K_V1, or timm/NAME.
        backbone_file: state dict with the backbone's weights, instead of a download.
        pretrained: false starts from new weights.
        classes: where the images do not say: how many classes, or their names by label.
        num_train: shards only: images of an epoch.
        class_map: classes of the images to those of the CGN, where they are not the same:
            '{cat: [281, 282], dog: golden_retriever}'; or names, if they are called alike.
        batch_size: real images of a step, of each process.
        ratio: counterfactuals per real image.
        source: the bank of the CGN's masks, foregrounds and backgrounds.
        images: how images are cropped.
        training: optimizer, schedule, BatchNorm, precision.
        seed: of everything that is drawn.
        device: auto takes a GPU if there is one; or cpu or cuda.

    Raises:
        ArgumentError: a value that cannot be used.
    """

    train: str
    validation: str
    cgn: str | None = None
    shards: str | list[str] | None = None
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


def open_both(
    settings: EnsembleSettings, preprocessing: Preprocessing
) -> tuple[ImageSet, ImageSet]:
    """Opens training and validation images; see `open_images`.

    Raises:
        ArgumentError: the two have other classes.
        DataError: one is missing or laid out differently.
    """
    (mean, std, size), config = astuple(preprocessing), settings.images
    train, validation, classes = settings.train, settings.validation, settings.classes
    transform = training_transform(mean, std, size, config.min_scale, config.flip)
    real = open_images(train, transform, classes=classes, num_images=settings.num_train)
    transform = evaluation_transform(mean, std, size, config.test_crop)
    tests = open_images(validation, transform, classes=classes)
    if tests.classes != real.classes:
        odd = sorted(set(tests.classes) ^ set(real.classes))
        raise ArgumentError(
            f"{train} has {len(real.classes)} classes and {validation} has {len(tests.classes)}"
            f"{f', which differ in {odd[:5]}' if odd else ' in another order'}: labels would not "
            "mean the same"
        )
    return real, tests


def make_stream(
    settings: EnsembleSettings,
    real: ImageSet,
    preprocessing: Preprocessing,
    reading: LoadConfig,
    device: torch.device,
) -> CounterfactualDataset:
    """Makes the stream of training images and counterfactuals on the ensemble's device.

    Raises:
        ArgumentError: neither a CGN nor shards, or both.
    """
    mean, std, size = astuple(preprocessing)
    flip = RandomHorizontalFlip() if settings.images.flip else None
    source = _make_source(settings, device, reading.num_workers)
    # Cropped as the real images are: by the size that a larger CGN has, and by none else.
    match = match_real(mean, std, size, flip, resize=max(size, source.image_size))
    data, arguments = real.training(reading)
    arguments["class_map"] = resolve_class_map(settings.class_map, real.classes, source.num_classes)
    return CounterfactualDataset(
        data,
        source,
        ratio=settings.ratio,
        mix="separate",
        label="all",
        transform=match,
        device=device,
        seed=reading.seed,
        rank=reading.rank,
        world_size=reading.world_size,
        **arguments,
    )


def _make_source(
    settings: EnsembleSettings, device: torch.device, num_workers: int
) -> BankSource | FreshSource | ShardSource:
    if (settings.cgn is None) == (settings.shards is None):
        raise ArgumentError(
            "counterfactuals come from a CGN or from shards: pass one of --cgn and --shards"
        )
    config, seed = settings.source, settings.seed
    if settings.shards is not None:
        num = math.ceil(settings.batch_size * settings.ratio)  # of a step
        workers = 1 << (num_workers.bit_length() - 1) if num_workers else 0  # a power of two
        return ShardSource(settings.shards, refresh=max(1, num), seed=seed, num_workers=workers)
    cgn = load_cgn(str(settings.cgn), device=device, truncation=config.truncation)
    if config.bank == 0:
        return FreshSource(cgn, chunk=config.chunk)
    return BankSource(
        cgn, config.bank, config.refresh, seed=seed, storage=config.storage, chunk=config.chunk
    )


def resolve_class_map(
    given: ClassMapping | None, classes: Sequence[str], num_classes: int
) -> dict[int, list[int]] | None:
    """Turns names into labels and classes.

    Args:
        given: a class of the classifier, by its name or label, to the classes of the CGN that show
            it, by index or by ImageNet's names; "names" looks up each class by its name.
        classes: names of the classifier's classes, by label.
        num_classes: of the CGN.

    Returns:
        What `CounterfactualDataset(class_map=…)` takes.

    Raises:
        ArgumentError: a class that there is not, or whose name stands for two.

    Example:
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
