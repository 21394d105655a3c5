"""The benchmark beside the peers runs, and each way gives the batch that it says."""

from __future__ import annotations

import json
from pathlib import Path

import peers
import pytest
import torch

OURS = (
    "ours, bank of a CGN",
    "ours, bank of a CGN of another size",
    "ours, bank of parts",
    "ours, real shapes",
)


@pytest.fixture(scope="module")
def ways() -> dict[str, peers.Way]:
    with torch.random.fork_rng():
        return peers.make_ways(num=8, pixels=32, batch=4, bank=8)


def test_every_way_gives_a_batch_of_images(ways: dict[str, peers.Way]) -> None:
    batches = {name: way.step() for name, way in ways.items()}
    for name, batch in batches.items():
        images = batch[0]  # type: ignore[index]
        assert images.shape == (4, 3, 32, 32), name
        assert images.isfinite().all(), name
    assert {way.base for way in ways.values()} == {None, "plain", "plain with masks"}


def test_ours_are_counterfactuals_all_of_them(ways: dict[str, peers.Way]) -> None:
    real = peers.make_data(8, 32)[0].tensors[0]
    for name in OURS:
        images = ways[name].step()[0]  # type: ignore[index]
        for image in images:
            assert (real - image).abs().flatten(1).amax(1).min() > 0.01, name


def test_the_command_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"pixels": 32, "batch": 4, "images": 8, "bank": 8, "seconds": 0, "steps": 1}
    given = [f"--{name}={value}" for name, value in sizes.items()]
    monkeypatch.setattr("sys.argv", ["peers.py", *given, f"--out={tmp_path / 'a.json'}"])
    peers.main()
    result = json.loads((tmp_path / "a.json").read_text())
    rows = {row["way"]: row for row in result["rows"]}
    assert not [row for row in rows.values() if "error" in row]
    for name in OURS:
        more = rows[name]["ms"]["median"] - rows[rows[name]["base"]]["ms"]["median"]
        assert rows[name]["added_ms"] == pytest.approx(more)
