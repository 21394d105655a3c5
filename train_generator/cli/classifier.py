"""The command that trains a classifier of photographs; `train_generator.cli.program` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from cgn_augment.cli.options import settings_as_options
from cgn_augment.errors import ArgumentError
from cgn_augment.files import owning
from cgn_augment.images.loading import LoadConfig
from train_generator.classifier.backbones import find_preprocessing
from train_generator.classifier.ensemble import InvariantEnsemble, make_ensemble
from train_generator.classifier.ensemble_config import EnsembleResult
from train_generator.classifier.ensemble_data import EnsembleSettings, make_stream, open_both
from train_generator.classifier.ensemble_training import CLASSIFIER_FILE, EnsembleRun
from train_generator.classifier.image_training import require_classes
from train_generator.classifier.peers import require_groups
from train_generator.classifier.plain import PLAIN_FILE, make_classifier
from train_generator.classifier.plain_training import PlainRun
from train_generator.classifier.training import EpochResult, GroupFields
from train_generator.training.machine import make_accelerator, write_settings
from train_generator.training.trainer import check_folder


@settings_as_options(EnsembleSettings)
def classifier(
    settings: EnsembleSettings,
    out: str = "runs/classifier",
    num_workers: int = 0,
    preset: str | None = None,
    resume: bool = False,
    save_every: int = 500,
) -> None:
    """Trains an invariant ensemble, or with --heads 1 a plain classifier, with counterfactuals.

    The ensemble has one backbone and a head each for shape, texture and background. Start it with
    torchrun or accelerate launch for several GPUs; all processes must then see the folder OUT.

    Args:
        settings: of the training.
        out: folder for the classifier, checkpoint, results and curves.
        num_workers: processes that decode, per training process.
        preset: waterbirds: settings of a published training; options after it win.
        resume: continues the training in the folder.
        save_every: steps between checkpoints.
    """
    if preset is not None:  # `expand_preset` has taken one that there is away
        raise ArgumentError(
            f"there is no preset {preset!r} of a classifier: --preset waterbirds, on the command "
            "line; a file lists the settings themselves"
        )
    folder = Path(out)
    check_folder(folder, resume)  # before anything slow
    accelerator = make_accelerator(settings.device, settings.training.precision)
    is_first = accelerator.is_main_process
    try:
        run, tests = make_run(settings, accelerator, folder, num_workers, save_every)
        if resume:
            run.resume()
        with owning(folder) if is_first else nullcontext():
            if not resume:
                check_folder(folder, resume)  # again: another training may have ended just now
            train_run(run, tests, settings, folder, accelerator)
    finally:
        accelerator.end_training()


def train_run(
    run: EnsembleRun | PlainRun,
    tests: DataLoader[Any],
    settings: EnsembleSettings,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Trains the remaining epochs, and prints the result."""
    is_first = accelerator.is_main_process
    if is_first:
        write_settings(settings, folder, accelerator)
        print(f"backbone: {run.model.origin}", flush=True)
    results: Sequence[Any] = run.train(tests, announce=_announce if is_first else None)
    if is_first:
        file = CLASSIFIER_FILE if isinstance(run, EnsembleRun) else PLAIN_FILE
        print(_describe_kept(run), end="")
        print(f"classifier: {folder / file} ({len(results)} epochs)")


def make_run(
    settings: EnsembleSettings,
    accelerator: Accelerator,
    folder: Path,
    num_workers: int,
    save_every: int,
) -> tuple[EnsembleRun | PlainRun, DataLoader[Any]]:
    """Combines images, source and network.

    Returns:
        The run, and this process's part of the validation images.
    """
    device, images = accelerator.device, settings.images
    reading = LoadConfig(
        settings.batch_size,
        num_workers,
        accelerator.process_index,
        accelerator.num_processes,
        settings.seed,
        pin_memory=device.type == "cuda",
    )
    preprocessing = find_preprocessing(settings.backbone)
    if images.image_size is not None:
        preprocessing = replace(preprocessing, image_size=images.image_size)
    real, tests = open_both(settings, preprocessing)
    groups = [getattr(images, "groups", None) for images in (real, tests)]
    require_groups(settings.peer, *groups)
    stream = make_stream(settings, real, preprocessing, reading, device)
    require_classes(stream, len(real.classes))  # before a backbone is downloaded
    _require_statistics(settings)
    options: dict[str, Any] = {
        "config": settings.training,
        "folder": folder,
        "classes": real.classes,
        "settings": {
            "heads": settings.heads,
            "backbone": settings.backbone,
            "images": asdict(images),
            "classes": list(real.classes),
            "train": real.digest,
        },
        "save_every": save_every,
    }
    make = make_ensemble if settings.heads == 3 else make_classifier
    with accelerator.local_main_process_first():  # which may download
        model = make(
            settings.backbone,
            len(real.classes),
            settings.pretrained,
            backbone_file=settings.backbone_file,
            seed=settings.seed,
        )
    model.preprocessing = preprocessing
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run: EnsembleRun | PlainRun
    train_groups, options["test_groups"] = groups
    if isinstance(model, InvariantEnsemble):
        run = EnsembleRun(model, stream, select=settings.select, **options)
    else:
        run = PlainRun(model, stream, peer=settings.peer, train_groups=train_groups, **options)
    return run, tests.testing(reading)


def _require_statistics(settings: EnsembleSettings) -> None:
    """Raises if BatchNorm would keep the statistics of weights that have seen no image."""
    new = not settings.pretrained and settings.backbone_file is None
    if new and settings.training.batch_norm == "eval":
        raise ArgumentError(
            "batch_norm='eval' keeps the statistics of the backbone, and new weights have none: "
            "pass --training.batch_norm train"
        )


def _announce(result: EnsembleResult | EpochResult) -> None:
    if isinstance(result, EpochResult):
        shown = {"accuracy": result.test_accuracy}
    else:
        shown = {
            "average": result.accuracy,
            "background-free": result.background_free_accuracy,
            "shape": result.shape_accuracy,
            "texture": result.texture_accuracy,
            "background": result.background_accuracy,
        }
    if isinstance(result, GroupFields):
        shown.pop("accuracy", None)
        shown |= {"average": result.test_accuracy} if isinstance(result, EpochResult) else {}
        shown["worst group"] = result.worst_group_accuracy
        adjusted, groups = result.adjusted_accuracy, result.group_accuracies
        shown |= {} if adjusted is None else {"adjusted average": adjusted}
        shown |= {name: value for name, value in groups.items() if value is not None}
    accuracies = ", ".join(f"{name} {100 * value:.1f} %" for name, value in shown.items())
    print(f"epoch {result.epoch}: loss {result.loss:.3f}; validation: {accuracies}", flush=True)
    if isinstance(result, GroupFields) and result.epoch == 1:
        empty = [name for name, value in result.group_accuracies.items() if value is None]
        if empty:
            print(f"there is no validation image of {', '.join(empty)}", flush=True)


def _describe_kept(run: EnsembleRun | PlainRun) -> str:
    """Returns which epoch's weights are in the file, and what happened to the last layer."""
    told = ""
    if run.best.select != "last":
        by = run.best.select.replace("_", " ")
        told = f"kept: epoch {run.best.epoch}, the best {by} ({100 * run.best.score:.1f} %)\n"
    if isinstance(run, PlainRun) and run.retrained is not None:
        told += (
            f"last layer: retrained on {run.retrained.num_images} validation images, as many of "
            f"each group (C {run.retrained.inverse_strength:g})\n"
        )
    return told
