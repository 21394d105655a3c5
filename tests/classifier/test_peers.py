"""Groups in a plain classifier's training: what is measured, which epoch is kept, and the peers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ensemble_helpers import show
from torch.utils.data import TensorDataset
from training_helpers import press

from cgn_augment import CounterfactualDataset
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.images.image_table import Groups
from train_generator.classifier import EnsembleConfig, PlainRun, make_classifier
from train_generator.classifier.group_dro import BalancedSampler
from train_generator.classifier.peers import PeerConfig
from train_generator.classifier.resnet10 import ResNet10
from train_generator.classifier.sources import NoSource
from train_generator.classifier.training import GroupResult

SMALL = "resnet10_w32"
TRAIN = Groups(tuple(int(i % 8 == 0) for i in range(40)), ("common", "rare", "absent"), (35, 5, 0))
TEST = Groups((0,) * 12 + (1,) * 8, TRAIN.names, TRAIN.train_counts)
TESTS = [tuple(part[:8] for part in show(20)[:]), tuple(part[8:] for part in show(20)[:])]


def make_run(
    folder: Path | None = None, seed: int = 0, num_epochs: int = 1, **peer: Any
) -> PlainRun:
    config = EnsembleConfig(
        num_epochs=num_epochs, optimizer="adamw", learning_rate=2e-3, batch_norm="train"
    )
    given = PeerConfig(**peer)
    options: dict[str, Any] = {"batch_size": 8, "ratio": 0.0}
    real: Any = show()
    if given.method == "groupdro":
        real = TensorDataset(*real.tensors, torch.tensor(TRAIN.numbers))
        options["sampler"] = BalancedSampler(TRAIN.numbers, seed=0)
    return PlainRun(
        make_classifier(SMALL, 10, pretrained=False, seed=seed),
        CounterfactualDataset(real, NoSource(), **options),
        config,
        folder,
        peer=given,
        train_groups=TRAIN,
        test_groups=TEST if given.method != "dfr" else Groups(TEST.numbers, TRAIN.names[:2]),
        log_every=2,
    )


def stop_in_step(run: PlainRun, step: int) -> None:
    passes = iter(range(1, 1000))

    def look(module: torch.nn.Module, *_: object) -> None:
        if module.training and next(passes) == step:
            press()

    run.model.network.register_forward_hook(look)


def test_an_epoch_has_the_accuracy_of_each_group(tmp_path: Path) -> None:
    run = make_run(tmp_path, method="plain")
    results = run.train(TESTS, progress=False)
    last = results[-1]
    assert isinstance(last, GroupResult)
    run.model.eval()
    images, labels = (torch.cat(parts) for parts in zip(*TESTS, strict=True))
    with torch.no_grad():
        right = (run.model(images).argmax(dim=1) == labels).float()
    shares = {"common": right[:12].mean().item(), "rare": right[12:].mean().item()}
    assert last.group_accuracies == {
        **{k: pytest.approx(v) for k, v in shares.items()},
        "absent": None,
    }
    assert last.worst_group_accuracy == pytest.approx(min(shares.values()))
    assert last.adjusted_accuracy == pytest.approx(
        (35 * shares["common"] + 5 * shares["rare"]) / 40
    )
    assert last.test_accuracy == pytest.approx(right.mean().item())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["group_accuracies/rare"] == last.group_accuracies["rare"]
    assert lines[-1]["group_accuracies/absent"] is None


def test_the_parts_of_two_processes_add_up_to_the_groups_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, seen = make_run(), []
    images, labels = (torch.cat(parts) for parts in zip(*TESTS, strict=True))

    def add(counts: dict[str, float]) -> dict[str, float]:
        seen.append(counts)
        return {name: sum(each[name] for each in seen) for name in counts}

    for rank in (0, 1):
        own = [(images[rank::2], labels[rank::2])]
        monkeypatch.setattr(run, "ranks", SimpleNamespace(rank=rank, num=2, sum=add))
        monkeypatch.setattr(run, "_validation", lambda own=own: iter(own))
        found = run._measure()
    alone = make_run()
    alone._test = TESTS
    assert found == alone._measure()
    assert found["group_accuracies"]["absent"] is None


def test_the_best_epoch_is_kept_over_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.7] * 2)
    monkeypatch.setattr(
        "train_generator.classifier.selection.score_result", lambda *_: next(scores)
    )
    hashes: list[str] = []
    whole = make_run(select="worst_group", num_epochs=3)
    whole.train(TESTS, progress=False, announce=lambda _: hashes.append(hash_weights(whole.model)))
    assert whole.best.epoch == 2
    assert hash_weights(whole.model) == hashes[1] != hashes[2]
    first = make_run(tmp_path, select="worst_group", num_epochs=3)
    stop_in_step(first, 12)  # in the third epoch, of five steps each
    with pytest.raises(KeyboardInterrupt):
        first.train(TESTS, progress=False)
    second = make_run(tmp_path, seed=1, select="worst_group", num_epochs=3)
    second.resume()
    second.train(TESTS, progress=False)
    assert hash_weights(second.model) == hashes[1]
    network = ResNet10(32, 10)
    network.load_state_dict(torch.load(tmp_path / "classifier.pt"))
    assert torch.equal(network.fc.weight, second.model.last_layer.weight)
    assert json.loads((tmp_path / "results.json").read_text())["kept_epoch"] == 2


@pytest.mark.parametrize("method", ["cutmix", "groupdro"])
def test_an_interrupted_peer_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    whole = make_run(method=method, num_epochs=2)
    first = make_run(tmp_path, method=method, num_epochs=2)
    expected = whole.train(TESTS, progress=False)
    stop_in_step(first, 7)
    with pytest.raises(KeyboardInterrupt):
        first.train(TESTS, progress=False)
    second = make_run(tmp_path, seed=1, method=method, num_epochs=2)
    second.resume()
    assert second.train(TESTS, progress=False) == expected
    assert hash_weights(second.model) == hash_weights(whole.model)
    plain = make_run(method="plain", num_epochs=2)
    plain.train(TESTS, progress=False)
    assert hash_weights(plain.model) != hash_weights(whole.model)


def test_a_step_of_group_dro_lowers_the_weighted_loss() -> None:
    run = make_run(method="groupdro")
    model = make_classifier(SMALL, 10, pretrained=False)
    stream = make_run(method="groupdro").stream
    images, labels, groups = next(iter(stream))
    losses = F.cross_entropy(model(images), labels, reduction="none")
    means = torch.stack([losses[groups == g].mean() for g in (0, 1)])
    q = torch.exp(0.01 * means.detach()) / torch.exp(0.01 * means.detach()).sum()
    run.model.train()
    sums = run._train_batch((images, labels, groups), 0, 0)
    assert sums["loss"].item() / 8 == pytest.approx((q @ means).item(), rel=1e-5)
    assert run._weights is not None
    assert run._weights.values.tolist() == pytest.approx([*q.tolist(), 0.0])


def test_the_last_layer_alone_is_retrained(tmp_path: Path) -> None:
    plain, run = make_run(method="plain"), make_run(tmp_path, method="dfr")
    plain.train(TESTS, progress=False)
    run.train(TESTS, progress=False)
    before, after = plain.model.state_dict(), run.model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["network.fc.weight", "network.fc.bias"]
    written = torch.load(tmp_path / "classifier.pt")
    assert torch.equal(written["fc.weight"], after["network.fc.weight"])
    assert json.loads((tmp_path / "results.json").read_text())["retrained"]["num_images"] == 16


def test_a_group_too_small_to_retrain_on_is_an_error_before_the_training() -> None:
    model = make_classifier(SMALL, 10, pretrained=False)
    stream = CounterfactualDataset(show(), NoSource(), batch_size=8, ratio=0.0)
    config, peer = EnsembleConfig(batch_norm="train"), PeerConfig(method="dfr")
    with pytest.raises(
        ArgumentError, match=r"two or more: common has 12, rare has 8, absent has 0"
    ):
        PlainRun(model, stream, config, peer=peer, test_groups=TEST)


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"method": "groupdro"}, "method groupdro needs the group of each training image"),
        ({"method": "dfr"}, "method dfr needs the group of each validation image"),
        ({"select": "worst_group"}, "select worst_group needs the group of each validation image"),
    ],
)
def test_groups_that_are_needed_and_missing_are_one_error(
    peer: dict[str, Any], message: str
) -> None:
    model = make_classifier(SMALL, 10, pretrained=False)
    stream = CounterfactualDataset(show(), NoSource(), batch_size=8, ratio=0.0)
    with pytest.raises(ArgumentError, match=message):
        PlainRun(model, stream, EnsembleConfig(batch_norm="train"), peer=PeerConfig(**peer))


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"method": "irm"}, "method must be one of plain, cutmix, groupdro, dfr, got 'irm'"),
        ({"select": "best"}, "select must be one of last, average, worst_group, got 'best'"),
        ({"eta": 0}, "eta must be above 0, got 0"),
    ],
)
def test_peers_that_there_are_not_are_refused(peer: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        PeerConfig(**peer)
