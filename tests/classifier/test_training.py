"""The worked example's classifier: the network, the loop, interruption and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from training_helpers import Killed, kill, press

from cgn_augment import BankSource, CounterfactualDataset
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.generators import SmallCGN
from train_generator.classifier import (
    ClassifierConfig,
    ClassifierRun,
    EnsembleConfig,
    MNISTClassifier,
    measure_accuracy,
    train_step,
)
from train_generator.classifier.ensemble_data import ImagesConfig
from train_generator.classifier.sources import SourceConfig
from train_generator.mnist import make_variant
from train_generator.robustness.predictors import load_predictor


@pytest.fixture(scope="module")
def digits() -> TensorDataset:
    return make_variant("double_colored", "train", num=32).dataset()


def make_run(
    digits: TensorDataset, cgn: SmallCGN, checkpoint: Path | None = None, num_epochs: int = 2
) -> ClassifierRun:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MNISTClassifier()
    stream = CounterfactualDataset(digits, BankSource(cgn, 20, 3), batch_size=8, ratio=0.5)
    return ClassifierRun(model, stream, ClassifierConfig(num_epochs=num_epochs), checkpoint)


def test_the_classifier_has_the_papers_layers() -> None:
    model = MNISTClassifier()
    shapes = [tuple(value.shape) for value in model.parameters() if value.dim() > 1]
    assert shapes == [(32, 3, 5, 5), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (10, 64)]
    log_probabilities = model(torch.rand(4, 3, 32, 32))
    assert log_probabilities.shape == (4, 10)
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(4))


def test_a_step_lowers_the_loss_of_its_own_batch() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    losses = [float(train_step(model, optimizer, images, labels)[0]) for _ in range(10)]
    assert losses[0] == pytest.approx(2.3026, abs=0.1)  # ln 10
    assert losses[-1] < losses[0]


def test_accuracy_counts_images_not_batches_and_puts_the_mode_back() -> None:
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, 10))
    with torch.no_grad():
        model[2].bias.copy_(9 * torch.eye(10)[3])  # class 3, whatever it sees
    batches = [
        (torch.zeros(3, 3, 8, 8), torch.tensor([3, 3, 3])),
        (torch.zeros(1, 3, 8, 8), torch.tensor([0])),
    ]
    assert measure_accuracy(model, batches) == 0.75
    assert model.training
    with pytest.raises(ArgumentError, match="no images to measure"):
        measure_accuracy(model, [])


def test_the_learning_rate_falls_by_the_decay_each_epoch(
    digits: TensorDataset, tiny_cgn: SmallCGN
) -> None:
    run = make_run(digits, tiny_cgn, num_epochs=3)
    rates: list[float] = []
    run.model.register_forward_pre_hook(
        lambda model, _: (
            rates.append(run.optimizer.param_groups[0]["lr"]) if model.training else None
        )
    )
    results = run.train([digits[:8]], progress=False)
    assert rates == [0.7**epoch for epoch in range(3) for _ in range(4)]
    assert [result.epoch for result in results] == [1, 2, 3]
    assert all(0 <= result.train_accuracy <= 1 for result in results)


def test_an_interrupted_run_goes_on_bit_for_bit_and_is_never_written_over(
    digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    test, path = [digits[:8]], tmp_path / "folder" / "run.pt"
    whole, first = make_run(digits, tiny_cgn), make_run(digits, tiny_cgn, path)
    expected = whole.train(test, progress=False)
    steps = iter(range(100))
    first.model.register_forward_hook(lambda *_: press() if next(steps) == 5 else None)
    with pytest.raises(KeyboardInterrupt):
        first.train(test, progress=False)
    with pytest.raises(ArgumentError, match=r"run.pt holds a training: .* resume it"):
        make_run(digits, tiny_cgn, path).train(test, progress=False)
    with pytest.raises(CheckpointError, match=r"num_epochs: 2 then, 3 now"):
        make_run(digits, tiny_cgn, path, 3).resume()

    second = make_run(digits, tiny_cgn, path)
    second.resume()
    with pytest.raises(Killed):  # in the test after the last epoch
        second.train((kill() for _ in "x"), progress=False)
    third = make_run(digits, tiny_cgn, path)
    third.resume()
    assert third.train(test, progress=False) == expected
    for ours, theirs in zip(third.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]

    load_predictor(str(path))  # whose checkpoint is a classifier
    again = make_run(digits, tiny_cgn, path)
    again.resume()
    assert again.train([], progress=False) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ClassifierConfig, {"num_epochs": 0}, "num_epochs must be 1 or more, got 0"),
        (ClassifierConfig, {"learning_rate": float("nan")}, "learning_rate must be above 0, got"),
        (ClassifierConfig, {"decay": -1.0}, "decay must be above 0, got -1.0"),
        (EnsembleConfig, {"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        (EnsembleConfig, {"warmup_epochs": 45}, "must be below num_epochs, got 45 of 45"),
        (EnsembleConfig, {"schedule": "exponential"}, "must be one of constant, step, cosine"),
        (ImagesConfig, {"image_size": 0}, "image_size must be 1 or more, got 0"),
        (ImagesConfig, {"test_crop": 1.5}, "test_crop must be above 0 and at most 1, got 1.5"),
        (SourceConfig, {"bank": -1}, "bank must be 0 or more, got -1"),
        (SourceConfig, {"chunk": 0}, "chunk must be 1 or more, got 0"),
    ],
)
def test_settings_are_checked_when_made(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind(**settings)
