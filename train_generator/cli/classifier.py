"""The command that trains the invariant ensemble; `train_generator.cli.program` runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from cgn_augment.images.loading import LoadConfig
from train_generator.classifier.backbones import find_preprocessing
from train_generator.classifier.ensemble import make_ensemble
from train_generator.classifier.ensemble_config import EnsembleConfig, EnsembleResult
from train_generator.classifier.ensemble_data import (
    Class,
    ImagesConfig,
    SourceConfig,
    counterfactuals_of_a_step,
    make_source,
    make_stream,
    open_both,
    resolve_class_map,
)
from train_generator.classifier.ensemble_training import (
    CLASSIFIER_FILE,
    EnsembleRun,
    require_fitting,
)
from train_generator.small.training import make_accelerator, write_settings
from train_generator.training.precision import Precision
from train_generator.training.trainer import check_folder


@dataclass(frozen=True)
class EnsembleSettings:
    """All settings of a training, as they are written beside it; see `classifier`."""

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

    @property
    def precision(self) -> Precision:
        """Of the training."""
        return self.training.precision


def classifier(
    train: str,
    validation: str,
    cgn: str | None = None,
    shards: str | list[str] | None = None,
    out: str = "runs/classifier",
    backbone: str = "resnet50",
    backbone_file: str | None = None,
    pretrained: bool = True,
    classes: int | list[str] | None = None,
    num_train: int | None = None,
    class_map: dict[str, Class | list[Class]] | Literal["names"] | None = None,
    batch_size: int = 64,
    ratio: float = 1.0,
    source: SourceConfig = SourceConfig(),  # noqa: B008 - frozen
    images: ImagesConfig = ImagesConfig(),  # noqa: B008
    training: EnsembleConfig = EnsembleConfig(),  # noqa: B008
    seed: int = 0,
    device: str = "auto",
    num_workers: int = 0,
    resume: bool = False,
    save_every: int = 500,
) -> None:
    """Trains an invariant ensemble on real images and counterfactuals.

    One backbone and a head each for shape, texture and background. Start it with torchrun or
    accelerate launch for several GPUs; OUT must then be a folder that all processes see.

    Args:
        train: real images to train on: a folder with one folder for each class, WebDataset shards
            (a path or URL ending in .tar, with braces for several), or hf:NAME@SPLIT.
        validation: real images to test on after each epoch; likewise.
        cgn: path of a CGN or name of a bundled one, whose counterfactuals are streamed.
        shards: instead, folder or URLs of counterfactuals that cgn-augment shards rendered.
        out: folder for the classifier, checkpoint, results, curves and TensorBoard's events.
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
        num_workers: processes that decode, for each process that trains.
        resume: goes on with the training in the folder.
        save_every: steps between checkpoints.
    """
    folder = Path(out)
    check_folder(folder, resume)  # before anything that takes long
    settings = EnsembleSettings(
        train=train,
        validation=validation,
        cgn=cgn,
        shards=shards,
        backbone=backbone,
        backbone_file=backbone_file,
        pretrained=pretrained,
        classes=classes,
        num_train=num_train,
        class_map=class_map,
        batch_size=batch_size,
        ratio=ratio,
        source=source,
        images=images,
        training=training,
        seed=seed,
        device=device,
    )
    accelerator = make_accelerator(settings)
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
    folder: Path | None,
    num_workers: int = 0,
    save_every: int = 500,
) -> tuple[EnsembleRun, DataLoader[Any]]:
    """Puts images, source and network together.

    Args:
        settings: of the training.
        accelerator: knows the device and the processes.
        folder: where everything is written.
        num_workers: processes that decode.
        save_every: steps between checkpoints.

    Returns:
        The run, and this process's part of the validation images.
    """
    device, images = accelerator.device, settings.images
    num_made = counterfactuals_of_a_step(settings.batch_size, settings.ratio)
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
    real, tests = open_both(
        settings.train,
        settings.validation,
        preprocessing,
        images,
        classes=settings.classes,
        num_train=settings.num_train,
    )
    source = make_source(
        settings.cgn,
        settings.shards,
        settings.source,
        num=num_made,
        device=device,
        num_workers=num_workers,
        seed=settings.seed,
    )
    stream = make_stream(
        real,
        source,
        preprocessing,
        images,
        reading,
        ratio=settings.ratio,
        device=device,
        class_map=resolve_class_map(settings.class_map, real.classes, source.num_classes),
    )
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
