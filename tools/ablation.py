"""Trains short versions of the recipe, each with one thing changed, and prints what they draw.

python tools/ablation.py OUT --textures FOLDER

Each row is a folder in OUT, which a later call goes on with or leaves as it is; OUT/ablation.json
holds the numbers of all rows that are complete. Beside what `train-generator measure` prints there
is the intersection over union of the masks that the last masker finds in real images with the true
ones, which no stage sees.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cgn_augment import CGNError, load_cgn
from cgn_augment.files import replacing, unpickle
from cgn_augment.masks import UNetMasker
from train_generator.metrics.masks import measure_masker
from train_generator.mnist import (
    VARIANTS,
    GeneratorMetrics,
    format_markdown,
    load_judges,
    load_textures,
    measure_generator,
    metrics_table,
)
from train_generator.small.config import SmallConfig
from train_generator.small.training import SmallTraining, make_data
from train_generator.training.machine import CGN_FILE
from train_generator.training.trainer import CHECKPOINT

GRAM = (0.01, 0.05, 0.0, 0.01)  # the paper's weights for wildlife

CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "recipe": {},
    "no-assumptions": {"factors": {"blob_steps": 0, "size_weight": 0.0, "border_weight": 0.0}},
    "trained-features": {"factors": {"features": "trained", "gram_weights": GRAM}},
    "random-features": {"factors": {"features": "random", "gram_weights": GRAM}},
    "no-textures-stage": {"texturing": {"num_steps": 0}},
    "no-shapes-stage": {"shapes": {"num_steps": 0}},
    "no-class-loss": {"shapes": {"class_weight": 0.0}},
    "two-textures": {"texturing": {"num_textures": 2}},
}
"""By the name of a row what is other than in the recipe."""

NUM_MEASURED = 5000
"""Real images whose masks are compared with the true ones."""


def shorten(config: SmallConfig, num_steps: int) -> SmallConfig:
    """Returns the settings with `num_steps` in each stage, and a quarter of them for the masker.

    There is one round of the masker. What rises over a part of a stage rises over the same part.
    """

    def rescale(stage: Any, name: str) -> dict[str, int]:
        return {name: getattr(stage, name) * num_steps // stage.num_steps}

    stages = {
        "factors": {"num_steps": num_steps, **rescale(config.factors, "entropy_warmup")},
        "masker": {"num_steps": num_steps // 4, "rounds": 1},
        "texturing": {"num_steps": num_steps},
        "shapes": {"num_steps": num_steps, **rescale(config.shapes, "class_warmup")},
    }
    return change(config, stages)


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


def measure_masks(folder: Path, config: SmallConfig) -> float:
    """Returns the mean intersection over union of found masks with the true ones, in [0, 1]."""
    state: Any = unpickle(folder / CHECKPOINT)
    masker = UNetMasker()
    masker.load_state_dict(
        state["modules"][("even masker", "odd masker")[config.masker.rounds % 2]]
    )
    data = make_data(config)
    part = slice(NUM_MEASURED)
    return float(measure_masker(masker.eval(), data.images[part], data.masks[part]).mean())


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
    unions: dict[str, float] = {}
    for name in arguments.rows:
        config = change(short, CHANGES[name])
        rows[name] = measure(run(config, arguments.out / name), config)
        unions[name] = measure_masks(arguments.out / name, config)
        with replacing(arguments.out / "ablation.json") as temporary:
            facts: dict[str, Any] = {"variant": arguments.variant, "steps": arguments.steps}
            facts["rows"] = {
                name: {**asdict(metrics), "mask_iou": unions[name]}
                for name, metrics in rows.items()
            }
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    header, *lines = metrics_table(rows)
    found = (f"{union:.3f}" for union in unions.values())
    columns = [[*line, union] for line, union in zip(lines, found, strict=True)]
    print(format_markdown([[*header, "found masks (IoU)"], *columns]))


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
