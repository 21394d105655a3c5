"""One run of the benchmark of groups: a classifier of one row, trained and tested by group."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from groups_data import GroupedPhotographs, GroupPhotos, load_split, make_batches, make_parts
from job_pool import write_result
from kornia.augmentation import RandomHorizontalFlip
from photographs_data import BACKBONE, LOOK, SIZE
from photographs_runs import CONFIG, PLACED, Job, ReportingRun, describe_environment
from torch.utils.data import RandomSampler

from cgn_augment import (
    CounterfactualDataset,
    FreshSource,
    Interventions,
    Placement,
    match_real,
)
from train_generator.classifier import make_classifier
from train_generator.classifier.group_dro import BalancedSampler
from train_generator.classifier.peers import PeerConfig
from train_generator.classifier.sources import NoSource
from train_generator.classifier.training import find_right
from train_generator.metrics.groups import count_groups


@dataclass(frozen=True)
class GroupRow:
    """A row of the table.

    Attributes:
        name: in the table.
        peer: what is done against the shortcut besides counterfactuals.
        parts: whether half of a batch is made of parts.
        placement: of their objects.
        labels: whose groups are used.
        background: rule for the backgrounds of parts; by default any class.
        correlation: of its own training photographs, whatever that of the other rows.
    """

    name: str
    peer: PeerConfig
    parts: bool = False
    placement: Placement | None = None
    labels: str = "none"
    background: str | None = None
    correlation: float | None = None


ROWS = {
    "plain": GroupRow("plain", PeerConfig("plain")),
    "cutmix": GroupRow("CutMix", PeerConfig("cutmix")),
    "groupdro": GroupRow("GroupDRO", PeerConfig("groupdro"), labels="training"),
    "dfr": GroupRow("last layer retrained (DFR)", PeerConfig("dfr"), labels="validation"),
    "parts": GroupRow("parts, other background", PeerConfig(), parts=True, background="other"),
    "placed": GroupRow(
        "placed, other background",
        PeerConfig(),
        parts=True,
        placement=PLACED,
        background="other",
    ),
    "any": GroupRow("parts, any background", PeerConfig(), parts=True),
    "placed_any": GroupRow("placed, any background", PeerConfig(), parts=True, placement=PLACED),
    "upper": GroupRow("upper bound", PeerConfig(), correlation=0.5),
}


def make_stream(job: Job, photos: GroupPhotos, device: torch.device) -> CounterfactualDataset:
    """Makes the stream of a run; real flips depend on the global generator."""
    row = ROWS[job.row]
    split = load_split(photos.train(job.correlation), "train")
    data = GroupedPhotographs(split)
    source: FreshSource | None = None
    if row.parts:
        parts = make_parts(photos, job.correlation, split.classes, device)
        interventions = Interventions(texture="shape", background=row.background)
        source = FreshSource(parts, interventions, placement=row.placement)
    batch = photos.batch if source is None else photos.batch // 2
    num = job.steps * batch
    order = torch.Generator().manual_seed(job.seed)
    sampler: Any = RandomSampler(data, num_samples=num, generator=order)
    if row.peer.method == "groupdro":
        sampler = BalancedSampler(split.groups.numbers, job.seed, num)
    return CounterfactualDataset(
        data,
        source or NoSource(),
        batch_size=batch,
        sampler=sampler,
        ratio=0.0 if source is None else 1.0,
        transform=match_real(LOOK.mean, LOOK.std, SIZE, RandomHorizontalFlip()),
        device=device,
        seed=job.seed,
    )


def train(
    job: Job, photos: GroupPhotos, report: Callable[[], object], device: torch.device
) -> dict[str, Any]:
    """Trains and tests one classifier; returns what its file holds."""
    random.seed(job.seed)
    torch.manual_seed(job.seed)
    row, start = ROWS[job.row], time.perf_counter()
    known = load_split(photos.train(job.correlation), "train")
    validation, test = (load_split(photos.tests, split) for split in ("val", "test"))
    counts = known.groups.train_counts
    stream = make_stream(job, photos, device)
    model = make_classifier(BACKBONE, len(known.classes), pretrained=False, seed=job.seed)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = ReportingRun(
        model,
        stream,
        CONFIG,
        classes=known.classes,
        peer=row.peer,
        train_groups=known.groups,
        test_groups=replace(validation.groups, train_counts=counts),
    )
    run.report = report
    [result] = run.train(make_batches(validation), progress=False)
    found = count_groups(
        find_right(model, make_batches(test)),
        torch.tensor(test.groups.numbers),
        test.groups.names,
        counts,
    )
    return {
        **job._asdict(),
        "test": found.as_row(),
        "validation": asdict(result),
        "train_counts": counts,
        "retrained": None if run.retrained is None else asdict(run.retrained),
        "seconds": round(time.perf_counter() - start, 1),
        "settings": describe(job, photos),
        "environment": describe_environment(device, "torch", "torchvision"),
    }


def describe(job: Job, photos: GroupPhotos) -> dict[str, Any]:
    """Returns all settings of a run that its name does not say, as they come out of JSON."""
    row = ROWS[job.row]
    facts = {
        "backbone": BACKBONE,
        "batch": photos.batch,
        **asdict(CONFIG),
        "row": asdict(row),
        "per_class": photos.per_class,
        "test_per_class": photos.test_per_class,
        "fill": photos.fill if row.parts else None,
    }
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def run_job(
    job: Job, report: Callable[[], object], photos: GroupPhotos, out: Path, device: str
) -> None:
    """Trains one classifier and writes its file."""
    found = train(job, photos, report, torch.device(device))
    write_result(found, out / job.file)
