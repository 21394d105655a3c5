"""What an ensemble is trained on: real images and counterfactuals that arrive alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from cgn_augment.checks import require_count, require_counts, require_part
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


Source = BankSource | FreshSource | ShardSource


def make_source(
    cgn: str | None,
    shards: str | list[str] | None,
    config: SourceConfig,
    *,
    num: int,
    device: torch.device,
    num_workers: int = 0,
    seed: int = 0,
) -> Source:
    """Makes the source of an ensemble's counterfactuals.

    Args:
        cgn: path of a CGN or name of a bundled one.
        shards: instead, folder or URLs of a set that `cgn-augment shards` rendered.
        config: settings.
        num: counterfactuals of a step.
        device: where the CGN runs.
        num_workers: processes that decode shards.
        seed: of the bank, or of the order of the shards.

    Raises:
        ArgumentError: neither a CGN nor shards, or both.
    """
    if (cgn is None) == (shards is None):
        raise ArgumentError(
            "counterfactuals come from a CGN or from shards: pass one of --cgn and --shards"
        )
    if shards is not None:
        workers = 1 << (num_workers.bit_length() - 1) if num_workers else 0  # a power of two
        return ShardSource(shards, refresh=max(1, num), seed=seed, num_workers=workers)
    network = load_cgn(str(cgn), device=device, truncation=config.truncation)
    if config.bank == 0:
        return FreshSource(network, chunk=config.chunk)
    return BankSource(
        network,
        config.bank,
        config.refresh,
        seed=seed,
        storage=config.storage,
        chunk=config.chunk,
    )


def open_both(
    train: str,
    validation: str,
    preprocessing: Preprocessing,
    config: ImagesConfig,
    *,
    classes: int | Sequence[str] | None = None,
    num_train: int | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Opens training and validation images; see `open_images`.

    Raises:
        ArgumentError: the two have other classes.
        DataError: one is missing or laid out differently.
    """
    mean, std, size = preprocessing.mean, preprocessing.std, preprocessing.image_size
    real = open_images(
        train,
        training_transform(mean, std, size, config.min_scale, config.flip),
        classes=classes,
        num_images=num_train,
    )
    tests = open_images(
        validation, evaluation_transform(mean, std, size, config.test_crop), classes=classes
    )
    if tests.classes != real.classes:
        odd = sorted(set(tests.classes) ^ set(real.classes))
        raise ArgumentError(
            f"{train} has {len(real.classes)} classes and {validation} has {len(tests.classes)}"
            f"{f', which differ in {odd[:5]}' if odd else ' in another order'}: labels would not "
            "mean the same"
        )
    return real, tests


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


def make_stream(
    real: ImageSet,
    source: Source,
    preprocessing: Preprocessing,
    config: ImagesConfig,
    reading: LoadConfig,
    *,
    ratio: float,
    device: torch.device,
    class_map: Mapping[int, Sequence[int]] | None = None,
) -> CounterfactualDataset:
    """Makes the stream that an ensemble is trained on.

    Args:
        real: training images.
        source: of counterfactuals.
        preprocessing: how both arrive.
        config: flips.
        reading: how real images are read.
        ratio: counterfactuals per real image.
        device: where the ensemble is.
        class_map: by label the classes of the CGN.
    """
    data, options = real.training(reading)
    arguments: dict[str, Any] = {**options, "class_map": class_map}
    return CounterfactualDataset(
        data,
        source,
        ratio=ratio,
        mix="separate",
        label="all",
        transform=match_real(
            preprocessing.mean,
            preprocessing.std,
            preprocessing.image_size,
            RandomHorizontalFlip() if config.flip else None,
        ),
        device=device,
        seed=reading.seed,
        rank=reading.rank,
        world_size=reading.world_size,
        **arguments,
    )


def counterfactuals_of_a_step(batch_size: int, ratio: float) -> int:
    """Returns how many counterfactuals a step has at most.

    Raises:
        ArgumentError: a value that cannot be used.
    """
    require_count("batch_size", batch_size)
    if not (math.isfinite(ratio) and ratio >= 0):
        raise ArgumentError(f"ratio must be finite and 0 or more, got {ratio}")
    return math.ceil(batch_size * ratio)
