"""Trains a masker from a generator and, if given, real images; writes card and picture."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import (
    Purpose,
    compose,
    isolated_rng,
    permute_classes,
    step_generator,
    step_seed,
)
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.masks import UNetMasker, load_masker, save_masker
from cgn_augment.masks.finding import find_masks
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.pictures.sheets import draw_sheet, save_figure
from train_generator.metrics.masks import intersection_over_union
from train_generator.small.card import describe_overlap
from train_generator.small.config import MaskerConfig
from train_generator.small.images import LabelledImages
from train_generator.small.masker import drawn_parts, masker_stages
from train_generator.training.trainer import Trainer, check_folder

MASKER_FILE = "masker.safetensors"


class MaskerTraining:
    """The training of a masker on what a generator draws; `train` runs it.

    With `rounds`, the masks it finds take real images apart, and their recombinations teach it to
    find better ones, repeatedly. True masks are never needed.

    Args:
        cgn: a frozen small CGN.
        config: settings; `num_textures` is for the rounds.
        folder: where to write everything.
        real: images (N, 3, H, W) float32 in [-1, 1] and labels (N,) int64 for the rounds.
        width: width of the U-Net; the default is cheap enough to find masks in each training step.
        seed: seed of every draw.
        resume: continues the training in the folder.
        progress: shows a bar on standard error.

    Raises:
        ArgumentError: the folder is a file, or holds a training while `resume` is False; or there
            are no steps, or rounds without real images.
        CheckpointError: there is nothing to resume, it is damaged, or it belongs to other settings
            or another generator.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from train_generator.small.config import MaskerConfig
        >>> from train_generator.small.masker_training import MaskerTraining
        >>> config = MaskerConfig(num_steps=1, rounds=0, batch_size=4, num_factors=20)
        >>> folder = getfixture("tmp_path")
        >>> MaskerTraining(SmallCGN().freeze(), config, folder, progress=False).train().name
        'masker.safetensors'
    """

    def __init__(
        self,
        cgn: SmallCGN,
        config: MaskerConfig,
        folder: Path,
        real: tuple[Tensor, Tensor] | None = None,
        *,
        width: int = 8,
        seed: int = 0,
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        if not config.num_steps:
            raise ArgumentError("num_steps must be 1 or more to train a masker, got 0")
        if config.rounds and real is None:
            raise ArgumentError(
                f"{config.rounds} rounds take real images apart, and there are none: give them "
                "(--variant on the command line), or rounds=0"
            )
        check_folder(folder, resume)
        self.cgn, self.config, self.folder = cgn, config, folder
        self.seed, self.progress = seed, progress
        self.accelerator = Accelerator(cpu=cgn.device.type == "cpu")
        with isolated_rng(step_seed(Purpose.WEIGHTS, seed), torch.device("cpu")):
            maskers = UNetMasker(width), UNetMasker(width)
        for each in maskers:
            each.to(cgn.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # A round trains one with the other's masks, so this is what the last round trains.
        self.masker = maskers[config.rounds % 2]
        drawn = partial(drawn_parts, cgn, config.num_factors, seed)
        settings = {**asdict(config), "width": width, "seed": seed, "cgn": cgn.fingerprint}
        if config.rounds and real is not None:
            settings["real"] = hash_tensors({"images": real[0], "labels": real[1]})
        self.trainer = Trainer(
            folder,
            {"masker": maskers[0], "odd masker": maskers[1]},
            masker_stages(config, maskers, drawn, real, self.accelerator),
            settings,
            seed=seed,
            draw=lambda: draw_masks(maskers[0], cgn, seed),
            resume=resume,
        )

    def train(self) -> Path:
        """Takes all remaining steps and writes the masker, which `load_masker` reads."""
        path = self.folder / MASKER_FILE
        with self.trainer.owning():
            self.trainer.train(progress=self.progress)
            save_masker(
                self.masker,
                path,
                cgn=self.cgn.fingerprint,
                recipe=asdict(self.config),
                seed=self.seed,
                seconds=round(self.trainer.seconds),
            )
        return path


@torch.no_grad()
def draw_masks(masker: UNetMasker, cgn: SmallCGN, seed: int = 0) -> Figure:
    """Draws samples of a generator, one column per class, with their true and their found masks.

    Args:
        masker: the masker.
        cgn: the generator.
        seed: seed of the draws.
    """
    labels = torch.arange(cgn.num_classes)
    generator = step_generator(Purpose.MEASURE, seed)
    classes = permute_classes(labels, cgn.num_classes, generator)
    classes[0] = labels
    factors = draw_factors(cgn, classes, generator, 1, cgn.num_classes)
    images = compose(factors.mask, factors.foreground, factors.background)
    found = masker.eval()(images)  # a step puts it back into training mode
    return draw_sheet({"drawn": images, "its mask": factors.mask, "mask found": found})


def draw_found(masker: MaskerNetwork, data: LabelledImages, true: Tensor | None = None) -> Figure:
    """Draws a real image of each class, its mask, the found mask, and where the two differ.

    Args:
        masker: a frozen masker.
        data: real images.
        true: their masks (N, 1, 32, 32) bool, if known.
    """
    first = data.first_of_each()[:20]
    images = data.images[first]
    found = masker(images)
    if true is None:
        return draw_sheet({"real image": images, "mask found": found})
    mask = true[first].float()
    difference = ((found > 0.5).float() - mask).abs()
    rows = {"true mask": mask, "mask found": found, "difference": difference}
    return draw_sheet({"real image": images, **rows})


def write_masker_card(
    path: Path,
    cgn: str,
    seconds: float,
    rounds: int = 0,
    data: LabelledImages | None = None,
    true: Tensor | None = None,
) -> Path:
    """Measures a masker if there are true masks, and writes its card and picture.

    Args:
        path: file of the masker.
        cgn: name of the generator it was trained on.
        seconds: duration of the training.
        rounds: number of rounds on real images.
        data: real images.
        true: their masks (N, 1, 32, 32) bool, for measuring only.

    Returns:
        The card, a Markdown file.
    """
    network = load_masker(path)
    learned = " and nothing else"
    if rounds:
        times = "once" if rounds == 1 else f"in {rounds} rounds"
        learned = f", and {times} on recombinations of real images, without their true masks"
    lines = [
        f"# Masker of {cgn}",
        "",
        f"A U-Net of {sum(p.numel() for p in network.parameters())} parameters that finds the "
        f"object in an image in [-1, 1], trained on what the generator draws{learned}.",
        "",
        f"- fingerprint: {network.fingerprint}",
        f"- time: {seconds / 60:.1f} minutes on {torch.get_num_threads()} thread(s) of a CPU",
    ]
    if data is not None:
        if true is not None:
            found = find_masks(network, data.images, 500) > 0.5
            overlap = intersection_over_union(found, true)
            lines.append(f"- masks found in {data.description}: {describe_overlap(overlap, data)}")
        picture = save_figure(draw_found(network, data, true), path.with_suffix(".png"))
        lines += ["", f"![Real images and their masks]({picture.name})"]
    card = path.with_suffix(".md")
    card.write_text("\n".join(lines) + "\n")
    return card
