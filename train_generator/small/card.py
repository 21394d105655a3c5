"""Writes what a reader wants to know of a trained generator: a card beside its file."""

from __future__ import annotations

from pathlib import Path

import torch

from cgn_augment import SmallCGN, load_cgn
from cgn_augment.generators import read_metadata
from cgn_augment.pictures.sheets import save_figure
from train_generator.cli.mnist import draw_generators
from train_generator.mnist.measure import load_judges, measure_generator, measure_real
from train_generator.mnist.tables import format_markdown, metrics_table
from train_generator.mnist.textures import load_textures
from train_generator.small.config import SmallConfig
from train_generator.training.cards import changed_flags, peak_memory


def write_card(path: Path, config: SmallConfig, seconds: float, num: int = 5000) -> Path:
    """Measures a generator, and writes a card and a picture beside its file.

    Args:
        path: of the generator, a `.safetensors` file.
        config: settings that it was trained with.
        seconds: that its training took.
        num: images to measure.

    Returns:
        The card, a Markdown file.
    """
    cgn = load_cgn(path)
    textures = None if config.textures is None else load_textures(config.textures)
    judges = load_judges(config.variant, textures)
    rows = {
        "this generator": measure_generator(cgn, config.variant, textures, num=num, judges=judges),
        "real data": measure_real(config.variant, textures, num=num, judges=judges),
    }
    picture = save_figure(draw_generators({path.stem: cgn}, judges.shape), path.with_suffix(".png"))
    card = path.with_suffix(".md")
    table = format_markdown(metrics_table(rows))
    card.write_text(_describe(path, cgn, config, seconds, table, picture))
    return card


def repeat_command(config: SmallConfig) -> str:
    """Returns the command that trains with these settings.

    Args:
        config: settings; those that have their default are left out.

    Example:
        >>> from train_generator.small.card import repeat_command
        >>> from train_generator.small.config import SmallConfig
        >>> repeat_command(SmallConfig("colored", seed=3))
        'train-generator small --variant colored --seed 3'
    """
    words = ["train-generator small", f"--variant {config.variant}"]
    return " ".join([*words, *changed_flags(config, SmallConfig(config.variant))])


def _describe(
    path: Path, cgn: SmallCGN, config: SmallConfig, seconds: float, table: str, picture: Path
) -> str:
    metadata = read_metadata(path)
    what = config.variant.replace("_", " ")
    if config.variant == "wildlife":
        kind = "the procedural textures" if config.textures is None else "the paper's photographs"
        what = f"{what}, {kind}"
    parameters = sum(weight.numel() for weight in cgn.parameters())
    return f"""# {path.stem}

A small CGN of {parameters / 1e6:.2f} million parameters for {what}: 32x32 pixels, ten classes,
images in [-1, 1]. Trained from nothing but the 50 000 biased images and their labels.

- command: `{repeat_command(config)}`
- seed: {config.seed}
- time: {seconds / 60:.0f} minutes on {torch.get_num_threads()} thread(s) of a CPU; memory at most
  {peak_memory() / 2**30:.1f} GiB
- versions: {metadata.get("versions", "")}
- fingerprint: {cgn.fingerprint}

{table}

Columns as `train-generator measure` explains them; shares are of binarised masks, foregrounds and
backgrounds as the shipped judges see them.

![What it draws, with the judge's verdict under each mask]({picture.name})
"""
