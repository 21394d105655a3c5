"""Trains short versions of the recipe, each with one thing changed, and prints what they draw.

python tools/ablation.py OUT --textures FOLDER

Each row is a folder in OUT, which a later call goes on with or leaves as it is; OUT/ablation.json
holds the numbers of all rows that are complete.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cgn_augment import load_cgn
from cgn_augment.files import replacing
from train_generator.data import VARIANTS, load_textures
from train_generator.evaluation import (
    GeneratorMetrics,
    format_markdown,
    load_judges,
    measure_generator,
    metrics_table,
)
from train_generator.recipes.config import SmallConfig
from train_generator.recipes.small import CGN_FILE, SmallTraining

GRAM = (0.01, 0.05, 0.0, 0.01)  # the paper's weights for wildlife

CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "recipe": {},
    "no-assumptions": {"factors": {"blob_steps": 0, "size_weight": 0.0, "border_weight": 0.0}},
    "no-textures-stage": {"texturing": {"num_steps": 0}},
    "two-textures": {"texturing": {"num_textures": 2}},
    "no-class-loss": {"shapes": {"class_weight": 0.0}},
    "no-shapes-stage": {"shapes": {"num_steps": 0}},
    "trained-features": {"factors": {"features": "trained", "gram_weights": GRAM}},
    "random-features": {"factors": {"features": "random", "gram_weights": GRAM}},
}
"""By the name of a row what is other than in the recipe."""


def shorten(config: SmallConfig, num_steps: int) -> SmallConfig:
    """Returns the settings with `num_steps` in each stage, and a quarter of them for the masker."""
    steps = {"factors": num_steps, "masker": num_steps // 4}
    steps |= {"texturing": num_steps, "shapes": num_steps}
    return change(config, {name: {"num_steps": num} for name, num in steps.items()})


def change(config: SmallConfig, changes: Mapping[str, Mapping[str, Any]]) -> SmallConfig:
    """Returns the settings with some of the stages' settings replaced."""
    parts = {name: replace(getattr(config, name), **part) for name, part in changes.items()}
    return replace(config, **parts)


def run(config: SmallConfig, folder: Path) -> Path:
    """Trains, goes on training or leaves what is complete; returns the generator's file."""
    path = folder / CGN_FILE
    if path.is_file():
        return path
    return SmallTraining(config, folder, resume=folder.is_dir()).train()


def measure(path: Path, config: SmallConfig) -> GeneratorMetrics:
    """Measures a generator as `train-generator measure` does."""
    textures = None if config.textures is None else load_textures(config.textures)
    judges = load_judges(config.variant, textures)
    return measure_generator(load_cgn(path), config.variant, textures, judges=judges)


def main() -> None:
    """Trains and measures the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="wildlife")
    parser.add_argument("--textures", help="wildlife only: folder of the photographs")
    parser.add_argument("--steps", type=int, default=800, help="of each stage")
    parser.add_argument("--rows", nargs="+", choices=CHANGES, default=list(CHANGES))
    arguments = parser.parse_args()
    short = shorten(SmallConfig(arguments.variant, arguments.textures), arguments.steps)
    rows: dict[str, GeneratorMetrics] = {}
    for name in arguments.rows:
        config = change(short, CHANGES[name])
        rows[name] = measure(run(config, arguments.out / name), config)
        with replacing(arguments.out / "ablation.json") as temporary:
            facts = {"variant": arguments.variant, "steps": arguments.steps}
            facts["rows"] = {name: asdict(metrics) for name, metrics in rows.items()}
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    print(format_markdown(metrics_table(rows)))


if __name__ == "__main__":
    main()
