"""One training on several processes: the same weights everywhere, and those of one process.

That Ctrl-C on one rank stops all is shown by the ensemble's training too.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from imagenet_rank_helpers import train_rank
from imagenet_training_helpers import RATE, make_config, tiny_features, write_start
from safetensors.torch import load_file
from shard_helpers import PROCESSES

from cgn_augment.errors import ArgumentError
from train_generator.imagenet import stage as stage_module
from train_generator.imagenet import training as imagenet_module
from train_generator.imagenet.stage import ImageNetStage
from train_generator.imagenet.training import ImageNetTraining
from train_generator.training.measures import read_measures
from train_generator.training.ranks import Ranks
from train_generator.training.trainer import CHECKPOINT

# With a large epsilon Adam does not make whole steps of gradients that are rounding alone.
SETTINGS: dict[str, Any] = {
    "num_steps": 2,
    "accumulation": 4,
    "epsilon": 0.01,
    "metrics": {"every": 2},
}


@pytest.mark.slow
def test_two_processes_train_as_one_and_stop_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**write_start(tmp_path / "weights"), **SETTINGS}
    processes = [
        PROCESSES.Process(target=train_rank, args=(rank, tmp_path, settings)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [found["position"] for found in results] == [[0, 0], [0, 0]]
    assert not set(results[0]["drawn"]) & set(results[1]["drawn"])
    assert results[0]["hash"] == results[1]["hash"]

    monkeypatch.setattr(imagenet_module, "make_features", tiny_features)
    alone = ImageNetTraining(make_config(**settings), tmp_path / "alone", progress=False)
    start = alone.cgn.f_text.embeddings.weight.detach().clone()
    ours, theirs = load_file(alone.train()), load_file(tmp_path / "run" / "cgn.safetensors")
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=0.05 * RATE, msg=name)
    assert (ours["f_text.embeddings.weight"] - start).abs().max() > 0.5 * RATE
    measures = [read_measures(tmp_path / name / "metrics.jsonl") for name in ("alone", "run")]
    assert [line["step"] for line in measures[1]] == [0, 2]
    for one, two in zip(*measures, strict=True):
        assert two["mean mask"] == pytest.approx(one["mean mask"], abs=1e-4)
    states = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["settings"]
        for name in ("alone", "run")
    ]
    assert states[0] == states[1]


def test_processes_that_cannot_share_the_batches_out_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None  # is looked at before
    monkeypatch.setattr(stage_module, "Ranks", lambda: SimpleNamespace(num=3))
    with pytest.raises(ArgumentError, match=r"3 processes cannot share out accumulation \(4\)"):
        ImageNetStage(make_config(accumulation=4), *[nothing] * 5)


def test_things_are_shared_out_whole() -> None:
    shares = []
    for rank in range(3):
        ranks = Ranks()
        ranks.rank, ranks.num = rank, 3
        shares += list(ranks.share(7))
    assert sorted(shares) == list(range(7))


def test_one_process_agrees_with_itself() -> None:
    ranks = Ranks()
    assert (ranks.any(True), ranks.any(False)) == (True, False)
    assert ranks.mean({"loss": torch.tensor(2.5)}) == {"loss": 2.5}
    ranks.wait()
