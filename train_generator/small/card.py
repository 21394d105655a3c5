"""Writes a card for a trained generator, beside its file.

The measurements come from the caller, who knows what the images are.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment import load_cgn
from cgn_augment.generators import read_metadata
from cgn_augment.pictures.sheets import save_figure
from train_generator.metrics.tables import Table, format_table
from train_generator.small.config import SmallConfig
from train_generator.small.images import LabelledImages
from train_generator.training.cards import changed_flags, peak_memory

WORST_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Measured:
    """Quality of a generator, as shown on its card.

    Attributes:
        table: rows of metrics.
        notes: meaning of the columns.
        figure: what the generator draws.
        caption: caption of the figure.
        overlap: (N,) float32, intersection over union of found and true masks for the first N
            images; None if there are no true masks.
    """

    table: Table
    notes: str
    figure: Figure
    caption: str = "What it draws"
    overlap: Tensor | None = None


def write_card(
    path: Path,
    config: SmallConfig,
    data: LabelledImages,
    flags: Mapping[str, object],
    seconds: float,
    measured: Measured,
) -> Path:
    """Writes a card and a picture beside a generator's file.

    Args:
        path: file of the generator, `.safetensors`.
        config: settings of the training.
        data: images of the training.
        flags: command line flags that say where the images are; see `repeat_command`.
        seconds: duration of the training.
        measured: quality of the generator.

    Returns:
        The card, a Markdown file.
    """
    cgn = load_cgn(path)
    picture = save_figure(measured.figure, path.with_suffix(".png"))
    size, labels = f"{cgn.image_size}x{cgn.image_size}", data.labels
    millions = sum(weight.numel() for weight in cgn.parameters()) / 1e6
    names = "" if data.classes[0] == "0" else f": {', '.join(data.classes)}"
    facts = [
        f"command: `{repeat_command(config, flags)}`",
        f"seed: {config.seed}",
        f"time: {seconds / 60:.0f} minutes on {torch.get_num_threads()} thread(s) of a CPU; memory "
        f"at most {peak_memory() / 2**30:.1f} GiB",
        f"versions: {read_metadata(path).get('versions', '')}",
        f"fingerprint: {cgn.fingerprint}",
    ]
    if measured.overlap is not None:
        facts.append(f"masks found in the images: {describe_overlap(measured.overlap, data)}")
    paragraphs = [
        f"# {path.stem}",
        f"A small CGN of {millions:.2f} million parameters for {data.description}: {size} pixels, "
        f"{data.num_classes} classes{names}; images in [-1, 1]. Trained from nothing but "
        f"{len(labels)} images and their labels.",
        "\n".join(f"- {fact}" for fact in facts),
        assumptions(config),
        format_table(measured.table, "markdown"),
        measured.notes,
        f"![{measured.caption}]({picture.name})",
    ]
    card = path.with_suffix(".md")
    card.write_text("\n\n".join(paragraphs) + "\n")
    return card


def repeat_command(config: SmallConfig, flags: Mapping[str, object]) -> str:
    """Returns the command that trains with these settings.

    Args:
        config: settings; those at their default are left out.
        flags: flags for the images, by name; None is left out.

    Examples:
        >>> from train_generator.small.card import repeat_command
        >>> from train_generator.small.config import SmallConfig
        >>> repeat_command(SmallConfig(seed=3), {"variant": "colored", "textures": None})
        'train-generator small --variant colored --seed 3'
    """
    words = [f"--{k} {shlex.quote(str(v))}" for k, v in flags.items() if v is not None]
    return " ".join(["train-generator small", *words, *changed_flags(config, SmallConfig())])


def assumptions(config: SmallConfig) -> str:
    """Returns the assumptions about the images that a training cannot check.

    Args:
        config: settings of the training.

    Examples:
        >>> from train_generator.small.card import assumptions
        >>> from train_generator.small.config import SmallConfig
        >>> "8 to 25 % of the image" in assumptions(SmallConfig())
        True
    """
    factors, found = config.factors, []
    if factors.blob_steps or factors.border_weight:
        found.append("it is in the centre")
    if factors.border_weight:
        found.append(f"it keeps {factors.border} pixels from the edges")
    if factors.size_weight:
        low, high = factors.size_low, factors.size_high
        found.append(f"it covers {100 * low:.0f} to {100 * high:.0f} % of the image")
    return (
        f"What is assumed: each image shows one object; {'; '.join([*found, ''])}its texture and "
        "its background are those of its class, and the two differ; both continue unchanged where "
        "they are hidden. The images do not show which of two textures is the object's: if an "
        "assumption does not hold, the masks may mark something else. Look at the sheets."
    )


def describe_overlap(overlap: Tensor, data: LabelledImages) -> str:
    """Describes the quality of found masks: on average, and for the worst classes.

    Args:
        overlap: (N,) float32 intersection over union with the true masks of the first N images.
        data: the images.

    Examples:
        >>> import torch
        >>> from train_generator.small.card import describe_overlap
        >>> from train_generator.small.images import LabelledImages
        >>> images, labels = torch.zeros(2, 3, 32, 32), torch.arange(2)
        >>> data = LabelledImages(images, labels, ("cat", "dog"), "two animals")
        >>> describe_overlap(torch.tensor([0.5, 1.0]), data)
        'intersection over union with 2 true masks 0.7500; worst classes: cat 0.500, dog 1.000'
    """
    labels = data.labels[: len(overlap)]
    means = {name: float(overlap[labels == y].mean()) for y, name in enumerate(data.classes)}
    worst = sorted((mean, name) for name, mean in means.items() if mean == mean)[:WORST_CLASSES]
    return (
        f"intersection over union with {len(overlap)} true masks {overlap.mean():.4f}; worst "
        f"classes: {', '.join(f'{name} {mean:.3f}' for mean, name in worst)}"
    )
