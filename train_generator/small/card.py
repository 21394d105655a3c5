"""Writes what a reader wants to know of a trained generator: a card beside its file."""

from __future__ import annotations

import json
import resource
import shlex
import sys
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from cgn_augment import load_cgn
from cgn_augment.generators import SmallCGN, read_metadata
from cgn_augment.pictures.sheets import save_figure
from train_generator.cli.mnist import draw_generators
from train_generator.mnist.measure import load_judges, measure_generator, measure_real
from train_generator.mnist.tables import format_markdown, metrics_table
from train_generator.mnist.textures import load_textures
from train_generator.small.config import SmallConfig


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


def changed_flags(config: Any, default: Any) -> list[str]:
    """Returns the flags of the command line for the settings that are not the default's.

    Args:
        config: a dataclass; a setting of it may be another dataclass.
        default: another one of the same kind.
    """
    words: list[str] = []
    for setting in fields(config):
        name, value = setting.name, getattr(config, setting.name)
        if is_dataclass(value) and not isinstance(value, type):
            words += _flags(asdict(value), asdict(getattr(default, name)), f"{name}.")
        else:
            words += _flags({name: value}, {name: getattr(default, name)})
    return words


def peak_memory() -> int:
    """Returns the most memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _flags(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return [f"--{prefix}{name} {_quote(value)}" for name, value in changed.items()]


def _quote(value: Any) -> str:
    return shlex.quote(json.dumps(value) if isinstance(value, tuple) else str(value))


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
