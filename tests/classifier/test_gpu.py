"""A few steps of a plain classifier on a GPU, on a stream that lives there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.classifier import EnsembleConfig, PlainRun, make_classifier

pytestmark = pytest.mark.gpu


def make(folder: Path, num_epochs: int) -> PlainRun:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 32, 32, generator=generator) * 2 - 1
    source = BankSource(load_cgn("colored-mnist", device="cuda"), 20, 2)
    stream = CounterfactualDataset(
        TensorDataset(images, torch.arange(24) % 10), source, batch_size=8, pin_memory=True
    )
    model = make_classifier("resnet10_w32", 10, pretrained=False).to("cuda")
    config = EnsembleConfig(num_epochs=num_epochs, batch_norm="train")
    return PlainRun(model, stream, config, folder)


def test_a_classifier_is_trained_on_a_gpu_and_goes_on(tmp_path: Path) -> None:
    tests = [(torch.zeros(4, 3, 32, 32), torch.arange(4))]
    results = make(tmp_path / "run", 1).train(tests, progress=False)
    assert len(results) == 1
    assert (tmp_path / "run" / "classifier.pt").is_file()
    assert json.loads((tmp_path / "run" / "results.json").read_text())
