"""Rows of the benchmark of photographs, and one run of a row: a classifier, trained and tested."""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from job_pool import write_result
from kornia.augmentation import RandomHorizontalFlip
from photographs_data import (
    BACKBONE,
    LOOK,
    SIZE,
    Photographs,
    Photos,
    load_split,
    make_batches,
    make_parts,
)
from torch import Tensor
from torch.utils.data import RandomSampler, default_collate
from torchvision.transforms import v2

from cgn_augment import (
    CounterfactualDataset,
    FreshSource,
    Interventions,
    Placement,
    match_real,
)
from train_generator.classifier import EnsembleConfig, PlainRun, make_classifier, measure_accuracy
from train_generator.classifier.sources import NoSource

DECORRELATED = 0.0
CONFIG = EnsembleConfig(
    num_epochs=1,  # of as many steps as are asked for
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.05,
    schedule="one_cycle",
    batch_norm="train",
)
PLACED = Placement(scale=(0.75, 1.25), shift=0.3, rotate=20, flip=0.5)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: in the table.
        parts: what counterfactuals are made of: "parts", "whole" for whole other photographs as
            backgrounds, or None for real photographs alone.
        placement: of their objects.
        own_texture: whether objects keep their texture.
        augment: of the real photographs: "cutmix", "randaugment" or None.
        decorrelated: whether the real photographs have any scene.
    """

    name: str
    parts: str | None = None
    placement: Placement | None = None
    own_texture: bool = True
    augment: str | None = None
    decorrelated: bool = False


ROWS = {
    "plain": Row("plain"),
    "cutmix": Row("CutMix (torchvision)", augment="cutmix"),
    "randaugment": Row("RandAugment (timm)", augment="randaugment"),
    "copy-paste": Row("copy-paste onto whole images", "whole"),
    "textures": Row("parts, textures exchanged", "parts", own_texture=False),
    "parts": Row("parts, in place", "parts"),
    "placed": Row("parts, with placement", "parts", PLACED),
    "upper": Row("upper bound: decorrelated photographs", decorrelated=True),
}


class Job(NamedTuple):
    """One run.

    Attributes:
        row: of the table.
        correlation: of the photographs that it is about.
        steps: of the training.
        seed: of weights and all that is drawn.
    """

    row: str
    correlation: float
    steps: int
    seed: int

    @property
    def file(self) -> str:
        """Name of its result."""
        return f"{self.row}-{self.correlation}-{self.steps}-{self.seed}.json"


def make_stream(
    job: Job, photos: Photos, device: torch.device | str = "cpu"
) -> CounterfactualDataset:
    """Makes the stream of a run; what is drawn in it depends on the global generators."""
    row = ROWS[job.row]
    of = DECORRELATED if row.decorrelated else job.correlation
    data = Photographs(load_split(photos.folder(of) / "train"), row.augment)
    source: FreshSource | None = None
    if row.parts is not None:
        parts = make_parts(photos, of, row.parts, device)
        texture = "shape" if row.own_texture else None
        interventions = Interventions(texture=texture, background="other")
        source = FreshSource(parts, interventions, placement=row.placement)
    batch, collate = photos.batch if source is None else photos.batch // 2, default_collate
    if row.augment == "cutmix":
        cutmix = v2.CutMix(num_classes=len(load_split(photos.folder(of) / "train").classes))
        collate = lambda items: cutmix(*default_collate(items))  # noqa: E731
    order = torch.Generator().manual_seed(job.seed)
    return CounterfactualDataset(
        data,
        source or NoSource(),
        batch_size=batch,
        sampler=RandomSampler(data, num_samples=job.steps * batch, generator=order),
        collate_fn=collate,
        ratio=0.0 if source is None else 1.0,
        transform=match_real(LOOK.mean, LOOK.std, SIZE, RandomHorizontalFlip()),
        device=device,
        seed=job.seed,
    )


class ReportingRun(PlainRun):
    """A training that says when a step is done."""

    report: Callable[[], object]

    def _train_batch(self, batch: Any, epoch: int, step: int) -> dict[str, Tensor]:
        sums = super()._train_batch(batch, epoch, step)
        self.report()
        return sums


def train(
    job: Job, photos: Photos, report: Callable[[], object], device: torch.device
) -> dict[str, Any]:
    """Trains and tests one classifier; returns what its file holds."""
    random.seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 - which RandAugment draws from
    torch.manual_seed(job.seed)
    stream = make_stream(job, photos, device)
    tests = {
        name: load_split(photos.folder(job.correlation) / folder)
        for name, folder in (("decorrelated", "test_random"), ("correlated", "test_same"))
    }
    batches = {name: make_batches(split) for name, split in tests.items()}
    classes = tests["correlated"].classes
    model = make_classifier(BACKBONE, len(classes), pretrained=False, seed=job.seed)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = ReportingRun(model, stream, CONFIG, classes=classes)
    run.report = report
    start = time.process_time()
    [result] = run.train(batches["decorrelated"], progress=False)
    return {
        **job._asdict(),
        "decorrelated": result.test_accuracy,
        "correlated": measure_accuracy(model, batches["correlated"]),
        "training": result.train_accuracy,
        "loss": result.loss,
        "cpu_seconds": round(time.process_time() - start, 1),
        "photographs": len(stream.dataset),
        "settings": describe(job, photos),
        "environment": describe_environment(device, "torch", "torchvision", "timm"),
    }


def describe(job: Job, photos: Photos) -> dict[str, Any]:
    """Returns all settings of a run that its name does not say, as they come out of JSON."""
    row = ROWS[job.row]
    facts = {
        "backbone": BACKBONE,
        "batch": photos.batch,
        **asdict(CONFIG),
        "row": asdict(row),
        "per_class": photos.per_class,
        "fill": photos.fill if row.parts else None,
    }
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def describe_environment(device: torch.device, *packages: str) -> dict[str, Any]:
    """Returns what a run ran on, with the versions of packages."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "processor": platform.machine(),
        "device": name,
        "threads": torch.get_num_threads(),
    }


def run_job(
    job: Job,
    report: Callable[[], object],
    photos: Photos,
    out: Path,
    device: torch.device | str = "cpu",
) -> Job:
    """Trains one classifier and writes its file."""
    found = train(job, photos, report, torch.device(device))
    write_result(found, out / job.file)
    return job
