"""Sets of shards that the tests of this room share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shard_helpers import render

from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig


@pytest.fixture(scope="session")
def whole(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted set of one process: fifty images in five shards."""
    out = tmp_path_factory.mktemp("whole") / "set"
    render(tiny_cgn, out)
    return out


@pytest.fixture(scope="session")
def masked(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of ten images with a mask."""
    out = tmp_path_factory.mktemp("masked") / "set"
    render(tiny_cgn, out, ShardConfig(num=40, shard_size=10, members=("mask",)))
    return out


@pytest.fixture
def copied(masked: Path, tmp_path: Path) -> Path:
    """A copy of `masked`, to be damaged."""
    return Path(shutil.copytree(masked, tmp_path / "copy"))
