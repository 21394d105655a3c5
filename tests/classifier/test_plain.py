"""A plain classifier on a backbone: its file, its training on a stream, interruption and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from ensemble_helpers import make_stream, show
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import default_collate
from torchvision.transforms import v2
from training_helpers import press

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.generators.fingerprint import hash_weights
from train_generator.classifier import (
    EnsembleConfig,
    PlainRun,
    learning_rate_at,
    make_classifier,
    save_classifier,
)
from train_generator.classifier.ensemble_config import make_optimizer
from train_generator.classifier.resnet10 import ResNet10

TESTS = [show(20)[:]]
SMALL = "resnet10_w32"


def make_run(folder: Path | None = None, seed: int = 0, **changes: Any) -> PlainRun:
    config = {"num_epochs": 2, "optimizer": "adamw", "schedule": "one_cycle", "batch_norm": "train"}
    config |= {name: changes.pop(name) for name in list(changes) if name in config}
    model = make_classifier(SMALL, 10, pretrained=False, seed=seed)
    stream = make_stream(**{"mix": "append", "label": "shape", **changes})
    return PlainRun(model, stream, EnsembleConfig(**config), folder, log_every=2)  # type: ignore[arg-type]


def stop_in_step(run: PlainRun, step: int) -> None:
    passes = iter(range(1, 1000))

    def look(module: torch.nn.Module, *_: object) -> None:
        if module.training and next(passes) == step:
            press()

    run.model.network.register_forward_hook(look)


# The network and its file ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_torchvision_loads_the_file(name: str, tmp_path: Path) -> None:
    model = make_classifier(name, 8, pretrained=False).eval()
    save_classifier(model, tmp_path / "mine.pt")
    theirs = getattr(torchvision.models, name)(num_classes=8).eval()
    theirs.load_state_dict(torch.load(tmp_path / "mine.pt"))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images))


def test_the_small_network_is_one_block_a_stage() -> None:
    network = ResNet10(width=32, num_classes=8)
    widths = [block.conv2.out_channels for block in network if hasattr(block, "conv2")]
    assert widths == [32, 64, 128, 256]
    sizes: list[int] = []
    for block in network:
        block.register_forward_hook(lambda *given: sizes.append(given[2].shape[-1]))
    network(torch.zeros(2, 3, 48, 48))
    assert sizes == [24, 24, 24, 24, 12, 6, 3, 1, 256, 8]


def test_a_last_layer_of_as_many_classes_stays_and_any_other_is_new(tmp_path: Path) -> None:
    first = make_classifier(SMALL, 5, pretrained=False, seed=3)
    save_classifier(first, tmp_path / "five.pt")
    again, other = (
        make_classifier(SMALL, num, backbone_file=tmp_path / "five.pt") for num in (5, 4)
    )
    assert hash_weights(again) == hash_weights(first)
    assert again.origin.endswith("last layer: as it came")
    assert other.origin.endswith("last layer: new weights")
    assert torch.equal(other.network.conv1.weight, first.network.conv1.weight)


def test_new_weights_follow_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    hashes = [hash_weights(make_classifier(SMALL, 4, False, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1] != hashes[2]


def test_there_are_no_weights_of_the_small_network() -> None:
    with pytest.raises(ArgumentError, match=r"has no weights for resnet10_w32: pass pretrained=Fa"):
        make_classifier(SMALL, 4)


# Settings ----------------------------------------------------------------------------------------


def test_one_cycle_has_the_shape_of_torchs() -> None:
    config = EnsembleConfig(schedule="one_cycle", num_epochs=4, learning_rate=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    schedule = OneCycleLR(optimizer, 0.1, total_steps=4001, cycle_momentum=False)
    for step in range(4000):
        expected = schedule.get_last_lr()[0]
        assert learning_rate_at(config, step / 1000) == pytest.approx(expected, abs=1e-4)
        optimizer.step()
        schedule.step()
    assert learning_rate_at(config, 4.0) == pytest.approx(0.1 / 25e4)
    with pytest.raises(ArgumentError, match="has a rise of its own: leave out the warm-up"):
        EnsembleConfig(schedule="one_cycle", warmup_epochs=1)


def test_the_optimizer_is_the_one_of_the_settings() -> None:
    layer = torch.nn.Linear(2, 2)
    adamw = make_optimizer(EnsembleConfig(optimizer="adamw", weight_decay=0.3), layer)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["weight_decay"], adamw.defaults["lr"]) == (0.3, 1e-3)
    sgd = make_optimizer(EnsembleConfig(momentum=0.7), layer)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.7
    with pytest.raises(ArgumentError, match="optimizer must be one of"):
        EnsembleConfig(optimizer="adam")  # type: ignore[arg-type]


# Training ----------------------------------------------------------------------------------------


def test_a_step_is_that_of_an_ordinary_loop() -> None:
    run = make_run(ratio=1.0, num_epochs=1, optimizer="sgd", schedule="constant")
    plain = make_classifier(SMALL, 10, pretrained=False)
    optimizer = torch.optim.SGD(plain.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    losses = []
    for images, labels in make_stream(mix="append", label="shape", ratio=1.0):
        assert len(images) == 16
        loss = F.cross_entropy(plain(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    [result] = run.train(TESTS, progress=False)
    assert hash_weights(run.model) == hash_weights(plain)
    assert result.loss == pytest.approx(sum(losses) / len(losses))


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first = make_run(), make_run(tmp_path)
    expected = whole.train(TESTS, progress=False)
    stop_in_step(first, 7)
    with pytest.raises(KeyboardInterrupt):
        first.train(TESTS, progress=False)
    second = make_run(tmp_path, seed=1)
    second.resume()
    assert second.train(TESTS, progress=False) == expected
    assert hash_weights(second.model) == hash_weights(whole.model)
    record = json.loads((tmp_path / "results.json").read_text())
    assert [epoch["test_accuracy"] for epoch in record["epochs"]] == [
        result.test_accuracy for result in expected
    ]
    assert (record["backbone"], record["image_size"], len(record["classes"])) == (SMALL, 48, 10)
    network = ResNet10(32, 10)
    network.load_state_dict(torch.load(tmp_path / "classifier.pt"))
    assert (tmp_path / "curves.png").is_file()
    with pytest.raises(CheckpointError, match=r"optimizer: 'adamw' then, 'sgd' now"):
        make_run(tmp_path, optimizer="sgd").resume()


def test_soft_labels_are_trained_on_where_nothing_is_mixed_in() -> None:
    cutmix = v2.CutMix(num_classes=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        run = make_run(
            ratio=0.0, num_epochs=1, collate_fn=lambda items: cutmix(*default_collate(items))
        )
        [result] = run.train(TESTS, progress=False)
    assert result.loss > 0


def test_frozen_statistics_stay_as_they_were() -> None:
    run = make_run(batch_norm="eval", num_epochs=1)
    before = run.model.network.bn1.running_mean.clone()
    run.train(TESTS, progress=False)
    assert torch.equal(run.model.network.bn1.running_mean, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": "separate"}, r"take mix='append' and label='shape', got mix='separate'"),
        ({"label": "all"}, r"take mix='append' and label='shape', got .*label='all'"),
        ({"batch_norm": "real"}, r"a plain classifier does not: take 'train', or 'eval'"),
        ({"class_map": {3: 0, 12: 1}}, r"label 12 and the classifier only the labels 0 to 9"),
    ],
)
def test_what_it_cannot_be_trained_on_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_run(**changes)
