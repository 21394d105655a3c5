"""Trains short versions of the recipe, each with one thing changed, and prints what they draw.

python tools/ablation.py OUT --textures FOLDER

Each row is a folder in OUT, which a later call continues or leaves as it is; OUT/ablation.json
holds the numbers of all complete rows. Besides the output of `train-generator measure`, they
include the intersection over union of true masks and those that the last masker finds in real
images. No stage sees the true masks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cgn_augment import CGNError, load_cgn
from cgn_augment.files import replacing
from train_generator.metrics.masks import intersection_over_union
from train_generator.metrics.tables import format_table
from train_generator.mnist import (
    VARIANTS,
    GeneratorMetrics,
    load_judges,
    load_textures,
    make_variant,
    measure_generator,
    metrics_table,
)
from train_generator.mnist.training import label_variant
from train_generator.small.config import SmallConfig
from train_generator.small.images import LabelledImages
from train_generator.small.training import SmallTraining
from train_generator.training.checkpoints import CHECKPOINT

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


def train(config: SmallConfig, data: LabelledImages, folder: Path) -> tuple[Path, Tensor]:
    """Trains, goes on training or leaves what is complete.

    Returns:
        The generator's file, and the masks (N, 1, 32, 32) bool found in the first images.
    """
    training = SmallTraining(config, data, folder, resume=(folder / CHECKPOINT).is_file())
    return training.train(), training.find_masks(NUM_MEASURED)


def main() -> None:
    """Trains and measures the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="wildlife")
    parser.add_argument("--textures", help="wildlife only: folder of the photographs")
    parser.add_argument("--steps", type=int, default=800, help="of each stage")
    parser.add_argument("--rows", nargs="+", choices=CHANGES, default=list(CHANGES))
    arguments = parser.parse_args()
    textures = None if arguments.textures is None else load_textures(arguments.textures)
    made = make_variant(arguments.variant, "train", textures=textures)
    data = label_variant(made, arguments.variant, textures)
    judges = load_judges(arguments.variant, textures)
    short = shorten(SmallConfig(), arguments.steps)
    rows: dict[str, GeneratorMetrics] = {}
    unions: dict[str, float] = {}
    for name in arguments.rows:
        path, found = train(change(short, CHANGES[name]), data, arguments.out / name)
        rows[name] = measure_generator(load_cgn(path), arguments.variant, textures, judges=judges)
        unions[name] = float(intersection_over_union(found, made.masks[:NUM_MEASURED]).mean())
        with replacing(arguments.out / "ablation.json") as temporary:
            facts: dict[str, Any] = {"variant": arguments.variant, "steps": arguments.steps}
            facts["rows"] = {
                name: {**asdict(metrics), "mask_iou": unions[name]}
                for name, metrics in rows.items()
            }
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    header, *lines = metrics_table(rows)
    columns = [[*line, f"{unions[name]:.3f}"] for name, line in zip(rows, lines, strict=True)]
    print(format_table([[*header, "found masks (IoU)"], *columns], "markdown"))


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
