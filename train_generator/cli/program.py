"""The command `train-generator`: trains generators and classifiers, measures them, shows data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from cgn_augment.cli.program import run_commands
from cgn_augment.pictures.sheets import check_picture, draw_sheet, save_figure
from train_generator.cli.arguments import expand_preset, name_validation
from train_generator.cli.classifier import classifier
from train_generator.cli.evaluate import evaluate
from train_generator.cli.generators import small
from train_generator.cli.imagenet import fetch_weights, imagenet
from train_generator.cli.maskers import drawn, masker
from train_generator.cli.mnist import downstream, judge, measure
from train_generator.mnist.appearance import Factor, render_factor
from train_generator.mnist.textures import load_textures, procedural_textures
from train_generator.mnist.variants import Variant, make_variant

ROWS = 3


def data(
    variant: Variant,
    out: str,
    textures: str | None = None,
    seed: int = 0,
) -> None:
    """Draws training and test images of a variant into a picture, one column per class.

    Args:
        variant: an MNIST variant.
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        textures: wildlife only: folder with object/ and background/, ten images each.
        seed: seed of colours, textures and crops.
    """
    check_picture(out)
    stacks = None if textures is None else load_textures(textures)
    rows: dict[str, torch.Tensor] = {}
    for split in ("train", "test"):
        images = make_variant(variant, split, textures=stacks, seed=seed, num=1000)
        for number in range(ROWS):
            chosen = [int((images.labels == y).nonzero()[number]) for y in range(10)]
            rows[f"{split} {number + 1}"] = images.images[chosen]
    captions = {f"train {ROWS}": [f"class {y}" for y in range(10)]}
    print(save_figure(draw_sheet(rows, captions, f"{variant} MNIST"), out))


def textures(out: str, folder: str | None = None, seed: int = 0) -> None:
    """Draws 32x32 crops of the twenty textures of the wildlife variant, one column per class.

    Args:
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        folder: folder with object/ and background/, ten images each; the procedural ones by
            default.
        seed: seed of the patterns and crops.
    """
    check_picture(out)
    stacks = procedural_textures(seed) if folder is None else load_textures(folder)
    factors: dict[str, Factor] = {"object": "texture", "background": "background"}
    rows = {}
    for kind, factor in factors.items():
        for number in range(ROWS):
            generator = torch.Generator().manual_seed(seed + number)
            crops = render_factor("wildlife", factor, torch.arange(10), generator, stacks)
            rows[f"{kind} {number + 1}"] = crops
    captions = {f"object {ROWS}": [f"class {y}" for y in range(10)]}
    print(save_figure(draw_sheet(rows, captions), out))


def main() -> None:
    """Runs the command line."""
    commands: dict[str, Callable[..., Any] | dict[str, Any]] = {
        "small": small,
        "imagenet": imagenet,
        "masker": {"drawn": drawn} if sys.argv[2:3] == ["drawn"] else masker,
        "measure": measure,
        "downstream": downstream,
        "judge": judge,
        "classifier": classifier,
        "evaluate": evaluate,
        "data": data,
        "textures": textures,
        "fetch-weights": fetch_weights,
    }
    arguments = name_validation(expand_preset(sys.argv[1:]))
    run_commands("train-generator", commands, arguments)
