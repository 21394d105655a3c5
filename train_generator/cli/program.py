"""The command `train-generator`: trains generators and classifiers, measures them, shows data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from cgn_augment.cli.program import run_commands
from cgn_augment.pictures.sheets import draw_sheet, save_figure
from train_generator.cli.classifier import classifier
from train_generator.cli.evaluate import evaluate
from train_generator.cli.generators import masker, small
from train_generator.cli.imagenet import expand_preset, fetch_weights, imagenet
from train_generator.cli.mnist import downstream, judge, measure
from train_generator.mnist.render import render_wildlife
from train_generator.mnist.textures import Textures, load_textures, procedural_textures
from train_generator.mnist.variants import Variant, VariantData, make_variant

ROWS = 3


def data(
    variant: Variant,
    out: str,
    textures: str | None = None,
    seed: int = 0,
) -> None:
    """Draws training and test images of a variant into a picture, one column a class.

    Args:
        variant: an MNIST variant.
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        textures: wildlife only: folder with object/ and background/, ten images each.
        seed: of colours, textures and crops.
    """
    stacks = None if textures is None else load_textures(textures)
    rows: dict[str, torch.Tensor] = {}
    for split in ("train", "test"):
        images = make_variant(variant, split, textures=stacks, seed=seed, num=1000)
        for number in range(ROWS):
            rows[f"{split} {number + 1}"] = images.images[_nth_of_each_class(images, number)]
    captions = {f"train {ROWS}": [f"class {y}" for y in range(10)]}
    print(save_figure(draw_sheet(rows, captions, f"{variant} MNIST"), out))


def textures(out: str, folder: str | None = None, seed: int = 0) -> None:
    """Draws 32x32 crops of the twenty textures of the wildlife variant, one column a class.

    Args:
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        folder: with object/ and background/, ten images each; the procedural ones by default.
        seed: of the patterns and crops.
    """
    stacks = procedural_textures(seed) if folder is None else load_textures(folder)
    rows = {}
    for kind, full in (("object", True), ("background", False)):
        for number in range(ROWS):
            rows[f"{kind} {number + 1}"] = _crop_textures(stacks, full, seed + number)
    captions = {f"object {ROWS}": [f"class {y}" for y in range(10)]}
    print(save_figure(draw_sheet(rows, captions), out))


def main() -> None:
    """Runs the command line."""
    commands: dict[str, Callable[..., Any] | dict[str, Any]] = {
        "small": small,
        "imagenet": imagenet,
        "masker": masker,
        "measure": measure,
        "downstream": downstream,
        "judge": judge,
        "classifier": classifier,
        "evaluate": evaluate,
        "data": data,
        "textures": textures,
        "fetch-weights": fetch_weights,
    }
    run_commands("train-generator", commands, expand_preset(sys.argv[1:]))


def _nth_of_each_class(images: VariantData, number: int) -> list[int]:
    return [int((images.labels == y).nonzero()[number]) for y in range(10)]


def _crop_textures(stacks: Textures, full_mask: bool, seed: int) -> torch.Tensor:
    """Returns a crop (10, 3, 32, 32) in [-1, 1] of each object or each background texture."""
    masks = torch.full((10, 1, 32, 32), full_mask)
    classes, generator = torch.arange(10), torch.Generator().manual_seed(seed)
    return render_wildlife(masks, classes, classes, stacks, generator)
