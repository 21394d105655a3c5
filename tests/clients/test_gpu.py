"""Loaders and what they feed on a GPU: pinned memory, a stream as a loader, Accelerate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cgn_augment import BankSource, CounterfactualDataset, load_cgn, match_real

pytestmark = pytest.mark.gpu


def digits(num: int = 40) -> TensorDataset:
    images = torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.arange(num) % 10)


def make(real: Any = None, device: str = "cuda", **options: Any) -> CounterfactualDataset:
    options = {"transform": match_real(), **options}
    if real is None:
        real, options = digits(), {"batch_size": 8, "drop_last": True, **options}
    source = BankSource(load_cgn("colored-mnist", device=device), 20, 2)
    return CounterfactualDataset(real, source, **options)


def require_same(here: list[Any], there: list[Any]) -> None:
    assert len(here) == len(there) > 0
    for (images, labels), (other, others) in zip(here, there, strict=True):
        assert other.device.type == others.device.type == "cuda"
        assert torch.equal(labels, others.cpu())
        torch.testing.assert_close(other.cpu(), images, rtol=0, atol=1e-2)
        assert torch.equal(images[:8], other[:8].cpu())  # the real ones, to the bit


@pytest.mark.parametrize(("workers", "pin"), [(0, False), (0, True), (2, True)])
def test_batches_are_those_of_the_cpu(workers: int, pin: bool) -> None:
    context = {"multiprocessing_context": "spawn"} if workers else {}
    expected = list(make(device="cpu"))
    require_same(expected, list(make(num_workers=workers, pin_memory=pin, **context)))


def test_a_loader_with_pinned_memory_may_be_the_real_data() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(digits(), 8, pin_memory=True)

    require_same(list(make(DataLoader(digits(), 8), "cpu")), list(make(loader())))


def test_real_batches_may_lie_on_the_gpu_already() -> None:
    batches = [(digits()[:8][0], torch.arange(8))] * 3
    there = [tuple(each.cuda() for each in batch) for batch in batches]
    require_same(list(make(batches, "cpu")), list(make(there)))


def test_a_stream_as_a_loader_feeds_a_gpu() -> None:
    loader = make().as_loader()
    require_same(list(make(device="cpu")), list(loader))
    state = loader.state_dict()
    assert state == loader.state_dict()


def test_a_model_learns_from_mixed_batches_with_autocast() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    model = model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses: list[Tensor] = []
    for images, labels in make():
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert torch.stack(losses).isfinite().all()


def test_accelerate_prepares_the_inner_loader_and_the_model() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inner, model, optimizer = accelerator.prepare(DataLoader(digits(), 8), model, optimizer)
    for images, labels in make(inner):
        assert images.device.type == labels.device.type == "cuda"
        assert len(images) == 16
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    assert loss.isfinite()
