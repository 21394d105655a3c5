"""Writes a card for a trained ImageNet CGN, beside its file."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from cgn_augment.generators import read_metadata
from cgn_augment.pictures.sheets import save_figure
from train_generator.imagenet.config import ImageNetConfig
from train_generator.imagenet.training import ImageNetTraining
from train_generator.training.cards import changed_flags, peak_memory
from train_generator.training.measures import MEASURES, read_measures


def write_imagenet_card(path: Path, training: ImageNetTraining) -> Path:
    """Writes a card and a picture beside the `.safetensors` file of a CGN; returns the card."""
    picture = save_figure(training.draw(), path.with_suffix(".png"))
    card = path.with_suffix(".md")
    cgn, config, seconds = training.kept, training.config, training.trainer.seconds
    parameters = sum(weight.numel() for weight in cgn.parameters())
    images = config.num_steps * config.batch_size * config.accumulation
    measures = read_measures(path.parent / MEASURES)
    rows = measures[:1] + measures[1:][-1:]  # the first and the last
    table = tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".4g") + "\n" if rows else ""
    card.write_text(f"""# {path.stem}

An ImageNet CGN of {parameters / 1e6:.1f} million parameters: {cgn.image_size}x{cgn.image_size}
pixels, {cgn.num_classes} classes, images in [-1, 1]. Trained on {images} images that its BigGAN
drew, and no others.

- command: `{repeat_imagenet(config)}`
- seed: {config.seed}
- time: {seconds / 60:.1f} minutes on {training.ranks.num} process(es) of
  {training.accelerator.device}; main memory at most {peak_memory() / 2**30:.1f} GiB each
- versions: {read_metadata(path).get("versions", "")}
- fingerprint: {cgn.fingerprint}

{table}
![What it draws, one noise and a class in each column]({picture.name})
""")
    return card


def repeat_imagenet(config: ImageNetConfig) -> str:
    """Returns the command that trains with these settings; those at their default are left out.

    Examples:
        >>> from train_generator.imagenet.card import repeat_imagenet
        >>> from train_generator.imagenet.config import ImageNetConfig
        >>> repeat_imagenet(ImageNetConfig("biggan.bin", "u2net.pth", batch_size=2))
        'train-generator imagenet --biggan biggan.bin --u2net u2net.pth --batch_size 2'
    """
    default = ImageNetConfig("", "") if config.start is None else ImageNetConfig("", start="")
    return " ".join(["train-generator imagenet", *changed_flags(config, default)])
