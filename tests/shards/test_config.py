"""Settings of a set: what they choose, and which cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shard_helpers import render

from cgn_augment import ClassMap, Interventions
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig
from cgn_augment.shards.config import config_of
from cgn_augment.shards.manifest import read_manifest
from cgn_augment.shards.store import Store


def test_interventions_choose_the_classes(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    rules = Interventions(shape=[2, 7], background=4, num_per_shape=4)
    render(tiny_cgn, tmp_path / "set", ShardConfig(num=16, interventions=rules))
    counts = read_manifest(Store(tmp_path / "set")).class_counts
    assert counts["background"] == [0, 0, 0, 0, 16, 0, 0, 0, 0, 0]
    assert counts["shape"][2] + counts["shape"][7] == 16
    assert counts["shape"][2] % 4 == 0
    restricted = Interventions(class_map=ClassMap([1, 3]))
    render(tiny_cgn, tmp_path / "map", ShardConfig(num=16, interventions=restricted))
    assert (
        sum(read_manifest(Store(tmp_path / "map")).class_counts["shape"][i] for i in (1, 3)) == 16
    )


@pytest.mark.parametrize(
    "config",
    [
        ShardConfig(num=10, quality=7),
        ShardConfig(10, 3, "jpg", 80, "texture", ("mask", "background"), 4, 8),
        ShardConfig(num=9, interventions=Interventions(shape=[2, 7], num_per_shape=3)),
    ],
)
def test_settings_of_a_set_are_its_configuration(config: ShardConfig, tiny_cgn: SmallCGN) -> None:
    settings = config.describe(tiny_cgn)
    assert config_of(settings).describe(tiny_cgn) == settings


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num": 0}, ArgumentError, "num must be 1 or more, got 0"),
        ({"num": 2.0}, ArgumentTypeError, "num must be an integer, got 2.0"),
        ({"format": "gif"}, ArgumentError, "format must be one of png, jpg, webp, npy, got 'gif'"),
        ({"quality": 101}, ArgumentError, "quality must be 1 to 100, got 101"),
        ({"members": ("masks",)}, ArgumentError, "members must be one of mask, foreground"),
        ({"members": "mask"}, ArgumentTypeError, "members must be a list of names, got 'mask'"),
        ({"interventions": Interventions("permute")}, ArgumentError, "without real batches"),
        ({"interventions": "uniform"}, ArgumentTypeError, "interventions must be rules"),
    ],
)
def test_settings_that_cannot_be_are_errors(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ShardConfig(**{"num": 10, **arguments})
