"""What timm's training script does with a loader, on a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm.utils
import torch
import torch.nn.functional as F
from client_helpers import Seen, TinyNet, expected, seen, stream
from stream_helpers import indices, list_of_batches
from timm.data import Mixup
from timm.loss import JsdCrossEntropy, SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from torch import Tensor

MIXUP = {"mixup_alpha": 0.8, "num_classes": 10}


def train_one_epoch(
    model: Any, loader: Any, optimizer: Any, loss_fn: Any, mixup: Any = None
) -> list[Seen]:
    """The inside of timm's train.py, without its devices and its printing."""
    losses, steps = timm.utils.AverageMeter(), []
    scaler = timm.utils.NativeScaler(device="cpu")
    for images, labels in loader:
        steps.append(seen(images))
        if mixup is not None:
            images, labels = mixup(images, labels)
        loss = loss_fn(model(images), labels)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        losses.update(loss.item(), images.size(0))
    assert len(steps) == len(loader)
    assert losses.avg > 0
    return steps


def train_as_the_script(train: Any, num_epochs: int, mixup: Any = None) -> list[Seen]:
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = CosineLRScheduler(optimizer, t_initial=num_epochs * len(train), t_in_epochs=False)
    loss_fn = SoftTargetCrossEntropy() if mixup else torch.nn.CrossEntropyLoss()
    steps = []
    for epoch in range(num_epochs):
        if hasattr(train.dataset, "set_epoch"):
            train.dataset.set_epoch(epoch)
        elif hasattr(train.sampler, "set_epoch"):
            train.sampler.set_epoch(epoch)
        steps += train_one_epoch(model, train, optimizer, loss_fn, mixup)
        scheduler.step_update((epoch + 1) * len(train))
    return steps


@pytest.mark.parametrize("way", ["bare", "as_loader"])
def test_its_script_trains_epoch_by_epoch(way: str) -> None:
    train = stream()
    assert train_as_the_script(train if way == "bare" else train.as_loader(), 3) == expected(3)


def kinds(images: Tensor) -> list[bool]:
    """Which rows are counterfactual."""
    return [bool(image[0, 0, 1] != 1) for image in images]


def test_mixup_pairs_rows_of_both_kinds_only_where_they_are_shuffled() -> None:
    def pairs(**options: Any) -> set[tuple[bool, bool]]:
        batches = [images for images, _ in stream(num=40, ratio=1.0, **options)]
        return {(a, b) for x in batches for a, b in zip(kinds(x), kinds(x.flip(0)), strict=True)}

    assert pairs() == {(False, True), (True, False)}
    assert pairs(shuffle_rows=True) == {(a, b) for a in (False, True) for b in (False, True)}


def test_mixup_takes_the_streams_batches() -> None:
    with pytest.raises(AssertionError, match="should be even"):
        train_as_the_script(stream(ratio=0.3), 1, Mixup(**MIXUP))
    options: dict[str, Any] = {"shuffle_rows": True, "batch_multiple": 2}
    steps = train_as_the_script(stream(ratio=0.3, **options), 2, Mixup(**MIXUP))
    assert steps == expected(2, ratio=0.3, **options)


def test_micro_batches_of_shuffled_rows_hold_both_kinds() -> None:
    for batch_multiple, parts in ((2, 2), (4, 4)):
        made = stream(num=160, batch_size=16, shuffle_rows=True, batch_multiple=batch_multiple)
        for images, _ in made:
            chunks = images.chunk(parts)
            assert len({len(chunk) for chunk in chunks}) == 1
    mixed = [
        len(set(kinds(chunk))) == 2
        for images, _ in stream(num=320, batch_size=32, ratio=1.0, shuffle_rows=True)
        for chunk in images.chunk(2)
    ]
    assert all(mixed)


def test_splits_stay_aligned_where_counterfactuals_come_apart() -> None:
    """AugMix: the loss compares row i of three versions of the real images."""
    versions = [(torch.cat([images] * 3), labels.repeat(3)) for images, labels in list_of_batches()]
    model, loss_fn = TinyNet(), JsdCrossEntropy(num_splits=3)
    for (images, labels), (made, classes) in stream(versions, mix="separate"):
        parts = [indices(part) for part in images.chunk(3)]
        assert parts[0] == parts[1] == parts[2]
        loss = loss_fn(model(images), labels) + F.cross_entropy(model(made), classes)
        loss.backward()


def test_its_checkpoints_can_hold_the_streams_state(tmp_path: Path) -> None:
    """Its saver takes one more part: anything with a state_dict."""
    train, model = stream(), TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = iter(train)
    next(batches)
    saver = timm.utils.CheckpointSaver(model, optimizer, amp_scaler=NamedState(train))
    saver.checkpoint_dir = saver.recovery_dir = str(tmp_path)
    saver.save_recovery(0, 1)
    saved = torch.load(tmp_path / "recovery-0-1.pth.tar", weights_only=False)
    resumed = stream()
    resumed.load_state_dict(saved["stream"])
    assert [seen(x) for x, _ in resumed] == expected()[1:]


class NamedState:
    state_dict_key = "stream"

    def __init__(self, train: Any) -> None:
        self.state_dict = train.state_dict
