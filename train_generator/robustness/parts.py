"""The parts of an evaluation; each is checked when it is made, and measured later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cgn_augment.checks import require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.images.finding import LabelledPaths
from cgn_augment.images.imagenet_classes import IMAGENET_CLASSES, find_class
from cgn_augment.types import Mechanisms
from train_generator.classifier.ensemble_data import ClassMapping, resolve_class_map
from train_generator.robustness.bias import ShapeBias, background_gap
from train_generator.robustness.folders import ImageFiles, label_images
from train_generator.robustness.grouped import GroupedImages
from train_generator.robustness.groups import cue_conflict_categories
from train_generator.robustness.measure import (
    EvaluationConfig,
    category_decision,
    imagenet9_decision,
    measure_cue_conflict,
    measure_groups,
    measure_imagenet9,
    measure_real,
)
from train_generator.robustness.predictors import Predictor
from train_generator.robustness.record import Rows
from train_generator.robustness.sensitivity import measure_factors, require_changes

CUE_CONFLICT, IMAGENET9, REAL, FACTOR = "cue_conflict", "imagenet9", "real", "factors"
GROUPS = "groups"
PARTS = (CUE_CONFLICT, IMAGENET9, REAL, GROUPS, FACTOR)


@dataclass(frozen=True)
class Part:
    """A measurement of a classifier.

    Attributes:
        name: one of `PARTS`.
        settings: everything that the results depend on, for JSON.
        measure: does the work.
    """

    name: str
    settings: dict[str, object]
    measure: Callable[[], Rows]


@dataclass(frozen=True)
class EvaluationData:
    """What to evaluate classifiers on; None leaves a part out.

    Attributes:
        cue_conflict: see `find_cue_conflicts`.
        imagenet9: see `find_imagenet9`.
        real: a folder and its images, see `label_images`.
        groups: see `find_grouped_images`.
        cgn: a frozen CGN.
        class_map: classes of the CGN by class of the classifier, see `resolve_class_map`; None if
            they are the same, or follow from the names of the labels.
        num: number of images of the CGN.
        seed: seed of these images.
    """

    cue_conflict: ImageFiles | None = None
    imagenet9: Mapping[str, ImageFiles] | None = None
    real: tuple[Path, LabelledPaths] | None = None
    groups: GroupedImages | None = None
    cgn: Mechanisms | None = None
    class_map: ClassMapping | None = None
    num: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not any((self.cue_conflict, self.imagenet9, self.real, self.groups, self.cgn)):
            raise ArgumentError(
                "there is nothing to measure: name what the classifiers shall see with one or more "
                "of --cue-conflict FOLDER, --in9 FOLDER, --real FOLDER, --groups LAYOUT:PATH, "
                "--cgn NAME"
            )
        require_count("num", self.num)
        require_count("seed", self.seed, 0)


def make_parts(predictor: Predictor, data: EvaluationData, config: EvaluationConfig) -> list[Part]:
    """Makes the requested parts, in the order of `PARTS`.

    Args:
        predictor: the classifier.
        data: what to evaluate on.
        config: how images are read.

    Raises:
        ArgumentError: a part needs other classes than the classifier has, or the class map names
            classes that the CGN lacks.
        DataError: the classes of the folders of real images are unknown.
    """
    parts = []
    described = {
        "weights": predictor.fingerprint,
        "mean": list(predictor.mean),
        "std": list(predictor.std),
        "image_size": predictor.image_size,
    }

    def add(name: str, measure: Callable[[], Rows], **settings: object) -> None:
        parts.append(Part(name, {**described, **settings}, measure))

    if data.cue_conflict is not None:
        category_decision(predictor)
        measure = partial(_measure_bias, predictor, data.cue_conflict, config)
        add(CUE_CONFLICT, measure, images=_describe_images(data.cue_conflict))
    if data.imagenet9 is not None:
        imagenet9_decision(predictor)
        folders = {name: _describe_images(images) for name, images in data.imagenet9.items()}
        add(IMAGENET9, partial(_measure_gap, predictor, data.imagenet9, config), **folders)
    if data.real is not None:
        images = label_images(*data.real, predictor.classes, predictor.num_classes)
        measure = partial(_measure_accuracy, predictor, images, config)
        add(REAL, measure, images=_describe_images(images))
    if data.groups is not None:
        found = data.groups
        folder, known = Path(found.place), predictor.classes
        images = label_images(folder, found.images, known, predictor.num_classes)
        measure = partial(_measure_groups, predictor, images, found, config)
        add(
            GROUPS,
            measure,
            images=f"{len(images)} of {found.place}",
            groups=list(found.groups.names),
        )
    if data.cgn is not None:
        class_map = find_class_map(predictor, data.cgn, data.class_map)
        require_changes(data.num, data.cgn.num_classes, class_map.choices)
        add(
            FACTOR,
            partial(_measure_factors, predictor, data.cgn, class_map, data, config),
            cgn=data.cgn.fingerprint,
            class_map=None if data.class_map is None else repr(class_map),
            num=data.num,
            seed=data.seed,
        )
    return parts


def find_class_map(predictor: Predictor, cgn: Mechanisms, given: ClassMapping | None) -> ClassMap:
    """Returns the classes of a CGN for each label of a classifier.

    They come from the given class map, see `resolve_class_map`; else label = class if both have
    equally many; else, for a CGN of ImageNet's 1000 classes, the class with the name of each label.

    Args:
        predictor: the classifier.
        cgn: a CGN.
        given: the user's class map, or None.

    Raises:
        ArgumentError: none of these applies, or the map names what the classifier or the CGN lacks.
    """
    if given is not None:
        classes = predictor.classes or tuple(map(str, range(predictor.num_classes)))
        found = ClassMap(resolve_class_map(given, classes, cgn.num_classes) or {})
        found.require_classes(cgn.num_classes)
        return found
    if predictor.num_classes == cgn.num_classes:
        return ClassMap(list(range(cgn.num_classes)))
    differ = (
        f"the classifier has {predictor.num_classes} classes and the CGN {cgn.num_classes}: say "
        "which are which with --class-map '{LABEL: CLASS, ...}'"
    )
    if predictor.classes is None or cgn.num_classes != IMAGENET_CLASSES:
        raise ArgumentError(differ)
    try:
        return ClassMap([find_class(name, cgn.num_classes) for name in predictor.classes])
    except ArgumentError as error:
        raise ArgumentError(f"{differ} ({error})") from error


def _measure_bias(predictor: Predictor, images: ImageFiles, config: EvaluationConfig) -> Rows:
    measured = measure_cue_conflict(predictor, images, config)
    return {name: _bias_row(each) for name, each in measured.items()}


def _bias_row(counts: ShapeBias) -> dict[str, object]:
    names, num = cue_conflict_categories().names, (counts.num_images, counts.num_shape)
    categories = zip(names, *num, counts.num_texture, counts.category_biases, strict=True)
    return {
        "shape_bias": _number(counts.bias),
        "shape_accuracy": counts.shape_accuracy,
        "texture_accuracy": counts.texture_accuracy,
        "num_cue_decisions": counts.num_cue_decisions,
        "num_images": sum(counts.num_images),
        "categories": {
            name: {
                "num_images": images,
                "num_shape": shape,
                "num_texture": texture,
                "shape_bias": _number(bias),
            }
            for name, images, shape, texture, bias in categories
        },
    }


def _measure_gap(
    predictor: Predictor, variants: Mapping[str, ImageFiles], config: EvaluationConfig
) -> Rows:
    measured = measure_imagenet9(predictor, variants, config)
    return {
        name: {**accuracies, "background_gap": background_gap(accuracies)}
        for name, accuracies in measured.items()
    }


def _measure_accuracy(predictor: Predictor, images: ImageFiles, config: EvaluationConfig) -> Rows:
    measured = measure_real(predictor, images, config)
    return {name: {"accuracy": each, "num_images": len(images)} for name, each in measured.items()}


def _measure_groups(
    predictor: Predictor, images: ImageFiles, found: GroupedImages, config: EvaluationConfig
) -> Rows:
    measured = measure_groups(predictor, images, found.groups, config)
    return {
        name: {**each.as_row(), "drops": each.drops(found.uncommon)}
        for name, each in measured.items()
    }


def _measure_factors(
    predictor: Predictor,
    cgn: Mechanisms,
    class_map: ClassMap,
    data: EvaluationData,
    config: EvaluationConfig,
) -> Rows:
    measured = measure_factors(
        predictor.see,
        cgn,
        data.num,
        step_generator(Purpose.MEASURE, data.seed),
        to_label=class_map.to_label,
        choices=class_map.choices,
        chunk=config.batch_size,
        progress=config.progress,
    )
    accuracies, flips = (shares.rows for shares in measured)
    return {
        name: {"accuracy": accuracies[name], "sensitivity": flips[name], "num_images": data.num}
        for name in accuracies
    }


def _describe_images(images: ImageFiles) -> str:
    return f"{len(images)} of {images.folder.resolve()}"


def _number(value: float) -> float | None:
    """Returns None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
