"""Ensembles that are cheap to train, and images whose pixels say what they are of."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from stream_helpers import SIZE, StubSource
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from training_helpers import press

from cgn_augment import CounterfactualDataset
from cgn_augment.functional import isolated_rng
from cgn_augment.generators.fingerprint import hash_weights
from train_generator.classifier import EnsembleConfig, EnsembleRun, InvariantEnsemble
from train_generator.classifier.backbones import Backbone, Preprocessing


def make_tiny(num_classes: int = 10, dropout: float = 0.0, seed: int = 0) -> InvariantEnsemble:
    """An ensemble with one convolution, BatchNorm and a hidden layer."""
    with isolated_rng(seed, torch.device("cpu")):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 64),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        network.append(nn.Identity())  # where the last layer was
        look = Preprocessing(image_size=SIZE)
        backbone = Backbone(network, 64, None, look, "tiny, new weights", "8")
        return InvariantEnsemble(backbone, "tiny", num_classes)


def show(num: int = 40) -> TensorDataset:
    """Images of noise whose three channels all show the class, as `StubSource` shows three."""
    generator = torch.Generator().manual_seed(1)
    noise = 0.02 * torch.randn(num, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(num) % 10
    return TensorDataset((labels.view(-1, 1, 1, 1) / 5 - 1 + noise).clamp(-1, 1), labels)


def make_stream(real: Dataset[Any] | None = None, **options: Any) -> CounterfactualDataset:
    arguments = {"batch_size": 8, "mix": "separate", "label": "all", **options}
    return CounterfactualDataset(real or show(), StubSource(), **arguments)


def make_run(
    folder: Path | None = None,
    *,
    num_epochs: int = 2,
    dropout: float = 0.5,
    batch_norm: str = "train",
    seed: int = 0,
    **options: Any,
) -> EnsembleRun:
    config = EnsembleConfig(
        num_epochs=num_epochs, learning_rate=0.05, schedule="cosine", batch_norm=batch_norm
    )
    model = make_tiny(dropout=dropout, seed=seed)
    return EnsembleRun(model, make_stream(**options), config, folder, log_every=2)


def press_in_step(run: EnsembleRun, step: int) -> None:
    """Presses Ctrl-C in the run's `step`-th forward pass in training, counted from 1."""
    passes = count(1)

    def look(module: nn.Module, *_: object) -> None:
        if module.training and next(passes) == step:
            press()

    run.model.heads.shape.register_forward_hook(look)


def train_rank(rank: int, folder: Path) -> None:
    """Trains on one of two ranks: whole, then interrupted on rank 1 alone, then resumed."""
    if rank == 1:  # a process of its own; the other one is that of the tests
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
    place = f"file://{folder / 'rendezvous'}"
    limit = timedelta(seconds=120)  # where the other one has died
    dist.init_process_group("gloo", init_method=place, timeout=limit, rank=rank, world_size=2)
    found: dict[str, Any] = {}
    test = [show(20)[rank::2]]
    real = TensorDataset(*show()[:24])  # three steps of four for each rank
    options: dict[str, Any] = {"real": real, "batch_norm": "real", "batch_size": 4, "seed": rank}
    run = make_run(folder / "whole", **options)
    found["whole"] = [result.__dict__ for result in run.train(test, progress=False)]
    found["weights"] = hash_weights(run.model)
    run = make_run(folder / "stopped", **options)
    if rank == 1:
        press_in_step(run, 9)  # the real pass of the fifth step, of two passes each
    try:
        run.train(test, progress=False)
    except KeyboardInterrupt:
        found["stopped"] = run.stream.state_dict()["step"]
    dist.barrier()
    run = make_run(folder / "stopped", **options)
    run.resume()
    found["resumed"] = [result.__dict__ for result in run.train(test, progress=False)]
    found["resumed weights"] = hash_weights(run.model)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
