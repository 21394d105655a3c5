"""The command that trains the invariant ensemble; `train_generator.cli.program` runs it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from cgn_augment.cli.options import settings_as_options
from cgn_augment.images.loading import LoadConfig
from train_generator.classifier.backbones import find_preprocessing
from train_generator.classifier.ensemble import make_ensemble
from train_generator.classifier.ensemble_config import EnsembleResult
from train_generator.classifier.ensemble_data import EnsembleSettings, make_stream, open_both
from train_generator.classifier.ensemble_training import (
    CLASSIFIER_FILE,
    EnsembleRun,
    require_fitting,
)
from train_generator.training.machine import make_accelerator, write_settings
from train_generator.training.trainer import check_folder


@settings_as_options(EnsembleSettings)
def classifier(
    settings: EnsembleSettings,
    out: str = "runs/classifier",
    num_workers: int = 0,
    resume: bool = False,
    save_every: int = 500,
) -> None:
    """Trains an invariant ensemble on real images and counterfactuals.

    One backbone and a head each for shape, texture and background. Start it with torchrun or
    accelerate launch for several GPUs; OUT must then be a folder that all processes see.

    Args:
        settings: of the training.
        out: folder for the classifier, checkpoint, results and curves.
        num_workers: processes that decode, for each process that trains.
        resume: goes on with the training in the folder.
        save_every: steps between checkpoints.
    """
    folder = Path(out)
    check_folder(folder, resume)  # before anything that takes long
    accelerator = make_accelerator(settings.device, settings.training.precision)
    try:
        run, tests = make_run(settings, accelerator, folder, num_workers, save_every)
        if resume:
            run.resume()
        is_first = accelerator.is_main_process
        if is_first:
            write_settings(settings, folder, accelerator)
            print(f"backbone: {run.model.origin}", flush=True)
        results = run.train(tests, announce=_announce if is_first else None)
        if is_first:
            print(f"classifier: {folder / CLASSIFIER_FILE} ({len(results)} epochs)")
    finally:
        accelerator.end_training()


def make_run(
    settings: EnsembleSettings,
    accelerator: Accelerator,
    folder: Path,
    num_workers: int,
    save_every: int,
) -> tuple[EnsembleRun, DataLoader[Any]]:
    """Puts images, source and network together.

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
    stream = make_stream(settings, real, preprocessing, reading, device)
    require_fitting(stream, len(real.classes))  # before a backbone is downloaded
    with accelerator.local_main_process_first():  # which may download
        model = make_ensemble(
            settings.backbone,
            len(real.classes),
            settings.pretrained,
            backbone_file=settings.backbone_file,
            seed=settings.seed,
        )
    model.preprocessing = preprocessing
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = EnsembleRun(
        model,
        stream,
        settings.training,
        folder,
        classes=real.classes,
        settings={
            "backbone": settings.backbone,
            "images": asdict(images),
            "classes": list(real.classes),
        },
        save_every=save_every,
    )
    return run, tests.testing(reading)


def _announce(result: EnsembleResult) -> None:
    shown = {
        "average": result.accuracy,
        "background-free": result.background_free_accuracy,
        "shape": result.shape_accuracy,
        "texture": result.texture_accuracy,
        "background": result.background_accuracy,
    }
    accuracies = ", ".join(f"{name} {100 * value:.1f} %" for name, value in shown.items())
    print(f"epoch {result.epoch}: loss {result.loss:.3f}; validation: {accuracies}", flush=True)
