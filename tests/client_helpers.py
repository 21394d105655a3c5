"""What the tests with other people's loops share: what a loop saw, and whether it was right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import stream_helpers
import torch
import torch.nn.functional as F
from stream_helpers import Digits, classes_shown, indices, picture
from torch import Tensor, nn

Seen = tuple[list[int], list[float]]
"""Indices of the real images of a step, and a number of each counterfactual that no two share."""

stream = partial(stream_helpers.stream, ratio=0.5)


def seen(images: Tensor) -> Seen:
    """What a loop saw in one batch: the pictures of `Digits`, and the stub's counterfactuals."""
    made = [bool(image[0, 0, 1] != 1) for image in images]
    real = indices(torch.stack([i for i, is_made in zip(images, made, strict=True) if not is_made]))
    noise = [
        round(float(i[0, 0, 0]), 6) for i, is_made in zip(images, made, strict=True) if is_made
    ]
    return real, noise


def steps_of(batches: Iterable[Any]) -> list[Seen]:
    """What each batch (images, labels) of a loop shows."""
    return [seen(batch[0]) for batch in batches]


def expected(num_epochs: int = 1, **options: Any) -> list[Seen]:
    """What the epochs of a stream of its own show, one after the other."""
    train = stream(**options)
    return [step for _ in range(num_epochs) for step in steps_of(train)]


def check_epoch(batches: list[Any], num: int = 19) -> None:
    """Whether the batches hold all real images once, and counterfactuals with their labels."""
    sizes = [4] * (num // 4) + [num % 4] * (num % 4 > 0)
    assert len(batches) == len(sizes)
    read = []
    for (images, labels), size in zip(batches, sizes, strict=True):
        assert len(images) == len(labels)
        assert len(images) > size
        read += indices(images[:size])
        assert labels[:size].tolist() == [i % 10 for i in indices(images[:size])]
        assert torch.equal(labels[size:], classes_shown(images[size:])[0])
    assert sorted(read) == list(range(num))


class DictDigits(Digits):
    """The pictures as the rows of Hugging Face: a dict with the names that its models take."""

    def __getitem__(self, index: int) -> Any:
        return {"pixel_values": picture(index), "labels": index % 10}


class TinyNet(nn.Sequential):
    """One layer, for pictures (B, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 10))


def step_on(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, backward: Any) -> None:
    """The inside of everybody's loop."""
    images, labels = batch
    optimizer.zero_grad()
    backward(F.cross_entropy(model(images), labels))
    optimizer.step()


# Several processes --------------------------------------------------------------------------------


def write_report(folder: Path, rank: int, report: Mapping[str, Any]) -> None:
    """Adds to what this process has reported."""
    path = folder / f"rank{rank}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **report}))


def check_ranks(folder: Path, world_size: int, *resumed: str, num: int = 24) -> None:
    """Whether the processes trained as one: on disjoint real images, in the same number of steps.

    A report holds rank and world size, what each step of the two `epochs` showed, and under each
    name of `resumed` what was seen by one that went on after the first step of the second epoch.
    """
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    assert [report["rank"] for report in reports] == list(range(world_size))
    assert {report["world_size"] for report in reports} == {world_size}
    for epochs in zip(*(report["epochs"] for report in reports), strict=True):
        assert len({len(steps) for steps in epochs}) == 1
        read = [index for steps in epochs for real, _ in steps for index in real]
        assert sorted(read) == list(range(num))
    steps = [step for report in reports for epoch in report["epochs"] for step in epoch]
    drawn = [number for _, made in steps for number in made]
    assert len(drawn) == len(set(drawn)) == num
    for report in reports:
        first, second = report["epochs"]
        assert first != second
        for name in resumed or ["resumed"]:
            assert report[name] == second[1:] != [], name
