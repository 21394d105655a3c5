"""Runs a classifier over folders of test images, and counts its decisions.

All decisions are collected before dividing, so the size of the last batch does not matter; the
paper's released code divides by full batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cgn_augment.checks import MAX_WORKERS, require_counts
from cgn_augment.errors import ArgumentError
from cgn_augment.images.finding import read_image
from cgn_augment.images.image_table import Groups
from cgn_augment.images.imagenet_classes import IMAGENET_CLASSES
from train_generator.metrics.factors import accuracy
from train_generator.metrics.groups import GroupAccuracies, count_groups
from train_generator.robustness.bias import (
    ShapeBias,
    group_predictions,
    group_probabilities,
    shape_bias,
)
from train_generator.robustness.folders import ImageFiles
from train_generator.robustness.groups import (
    ClassGroups,
    cue_conflict_categories,
    imagenet9_classes,
)
from train_generator.robustness.predictors import Cropping, Predictor

Decide = Callable[[Tensor], Tensor]
"""Maps scores (N, C) to decisions (N,) int64."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a classifier is run over images.

    Attributes:
        batch_size: images per call of the classifier; does not affect the results.
        num_workers: processes that read images; 0 reads them in this one.
        progress: shows a bar on standard error.

    Raises:
        ArgumentError: a value cannot be used.
    """

    batch_size: int = 64
    num_workers: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        require_counts(self, "batch_size")
        require_counts(self, "num_workers", least=0, most=MAX_WORKERS)


def measure_cue_conflict(
    predictor: Predictor, images: ImageFiles, config: EvaluationConfig | None = None
) -> dict[str, ShapeBias]:
    """Measures the shape bias of each output (Geirhos et al., ICLR 2019).

    Args:
        predictor: a classifier of ImageNet's 1000 classes, or of the 16 categories by name.
        images: see `find_cue_conflicts`. They are resized and cropped like ImageNet's, as in the
            paper's released code.
        config: how images are read.

    Raises:
        ArgumentError: the classifier has other classes.
        DataError: an image cannot be read.
    """
    decide = category_decision(predictor)
    decided = _decide_images(predictor, images, decide, predictor.cropping, config, "cue conflict")
    shapes, textures = images.labels.unbind(1)
    return {name: shape_bias(each, shapes, textures) for name, each in decided.items()}


def measure_imagenet9(
    predictor: Predictor, variants: Mapping[str, ImageFiles], config: EvaluationConfig | None = None
) -> dict[str, dict[str, float]]:
    """Measures the accuracy of each output on variants of ImageNet-9 (Xiao et al., ICLR 2021).

    Args:
        predictor: a classifier of ImageNet's 1000 classes, or of the nine by name.
        variants: see `find_imagenet9`. Images of the classifier's size are used whole, as the
            authors do; others are resized.
        config: how images are read.

    Returns:
        By output and variant, the share of correctly classified images.

    Raises:
        ArgumentError: the classifier has other classes.
        DataError: an image cannot be read.
    """
    decide = imagenet9_decision(predictor)
    rows: dict[str, dict[str, float]] = {name: {} for name in predictor.outputs}
    for variant, images in variants.items():
        decided = _decide_images(predictor, images, decide, predictor.fitting, config, variant)
        for name, each in decided.items():
            rows[name][variant] = accuracy(each, images.labels[:, 0])
    return rows


def measure_real(
    predictor: Predictor, images: ImageFiles, config: EvaluationConfig | None = None
) -> dict[str, float]:
    """Measures the accuracy of each output on images with the classifier's own labels.

    The images come from `label_images`; they are resized and cropped like ImageNet's. A `DataError`
    names an image that cannot be read.

    Args:
        predictor: the classifier.
        images: see `label_images`.
        config: how images are read.
    """
    best = partial(torch.argmax, dim=1)
    decided = _decide_images(predictor, images, best, predictor.cropping, config, "real images")
    return {name: accuracy(each, images.labels[:, 0]) for name, each in decided.items()}


def measure_groups(
    predictor: Predictor,
    images: ImageFiles,
    groups: Groups,
    config: EvaluationConfig | None = None,
) -> dict[str, GroupAccuracies]:
    """Counts by group how many images each output classifies correctly.

    Args:
        predictor: a classifier of the images' classes.
        images: see `label_images`; they are resized and cropped like ImageNet's.
        groups: groups of these images, in their order.
        config: how images are read.

    Raises:
        ArgumentError: the numbers of images and groups differ.
        DataError: an image cannot be read.
    """
    best = partial(torch.argmax, dim=1)
    decided = _decide_images(predictor, images, best, predictor.cropping, config, "groups")
    numbers = torch.tensor(groups.numbers)
    return {
        name: count_groups(each == images.labels[:, 0], numbers, groups.names, groups.train_counts)
        for name, each in decided.items()
    }


def category_decision(predictor: Predictor) -> Decide:
    """Returns a map from scores to the 16 categories, or raises `ArgumentError`."""

    def likeliest(logits: Tensor, groups: ClassGroups) -> Tensor:
        return group_probabilities(logits, groups).argmax(dim=1)

    return _decision(predictor, cue_conflict_categories(), likeliest, "the shape bias")


def imagenet9_decision(predictor: Predictor) -> Decide:
    """Returns a map from scores to ImageNet-9's classes, or -1 for none."""
    return _decision(predictor, imagenet9_classes(), group_predictions, "the background gap")


class OpenedImages(Dataset[Tensor]):
    """Images in the classifier's form, (3, S, S) float32 in [0, 1]; can be sent to processes."""

    def __init__(self, images: ImageFiles, prepare: Cropping) -> None:
        self.images, self.prepare = images, prepare

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.prepare(read_image(self.images.paths[index]))


def _decide_images(
    predictor: Predictor,
    images: ImageFiles,
    decide: Decide,
    prepare: Cropping,
    config: EvaluationConfig | None,
    what: str,
) -> dict[str, Tensor]:
    """Returns by output the decisions (N,) int64 on all images, in their order."""
    config = config or EvaluationConfig()
    loader: DataLoader[Tensor] = DataLoader(
        OpenedImages(images, prepare), config.batch_size, num_workers=config.num_workers
    )
    parts: dict[str, list[Tensor]] = {name: [] for name in predictor.outputs}
    with tqdm(total=len(images), desc=what, disable=not config.progress) as bar:
        for batch in loader:
            for name, scores in predictor(batch).items():
                parts[name].append(decide(scores.cpu()))
            bar.update(len(batch))
    return {name: torch.cat(each) for name, each in parts.items()}


def _decision(
    predictor: Predictor,
    groups: ClassGroups,
    of_imagenet: Callable[[Tensor, ClassGroups], Tensor],
    what: str,
) -> Decide:
    if predictor.num_classes == IMAGENET_CLASSES:
        return lambda logits: of_imagenet(logits, groups)
    columns = None if predictor.classes is None else groups.columns(predictor.classes)
    if columns is None:
        raise ArgumentError(
            f"{what} needs a classifier of ImageNet's 1000 classes, or of the {len(groups)} "
            f"classes {', '.join(groups.names)}; this one has {predictor.num_classes} others: "
            "leave it out"
        )
    return lambda logits: logits[:, columns].argmax(dim=1)
