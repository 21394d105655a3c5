"""Trains a masker for photographs from masks drawn by hand; writes card and picture."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.files import first_line
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.generators.tensors import read_state_dict
from cgn_augment.images.reading import resize_mask
from cgn_augment.masks.checkpoint import load_masker, save_masker
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.masks.photo_unet import PhotoMasker
from cgn_augment.pictures.sheets import draw_sheet, save_figure
from train_generator.masks.augmenting import Augmenter
from train_generator.masks.config import PhotoMaskerConfig
from train_generator.masks.data import (
    Pair,
    find_pairs,
    hold_out,
    read_annotated,
    read_pair,
    to_square,
)
from train_generator.masks.stage import PhotoStage
from train_generator.metrics.masks import intersection_over_union
from train_generator.training.machine import make_accelerator
from train_generator.training.trainer import Trainer, check_folder

MASKER_FILE = "masker.safetensors"


class PhotoMaskerTraining:
    """The training of a masker on photographs with given masks; `train` runs it.

    Args:
        config: settings.
        images: a folder with images.
        masks: a folder that mirrors it, with masks for some images; see `find_pairs`.
        folder: where to write everything.
        device: "auto", "cpu" or a GPU's name.
        seed: seed of every draw.
        resume: continues the training in the folder.
        progress: shows a bar on standard error.

    Attributes:
        learned: the pairs to train on.
        held: the pairs to measure on.

    Raises:
        ArgumentError: the folder is a file, or holds a training while `resume` is False.
        CheckpointError: there is nothing to resume, it is damaged, or it belongs to other settings
            or images; or the backbone's weights are damaged or belong to another network.
        DataError: images or masks cannot be used.
        FileError: the backbone's weights are not available.
        UsageError: the device does not exist.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from train_generator.masks.config import PhotoMaskerConfig
        >>> from train_generator.masks.training import PhotoMaskerTraining
        >>> place = getfixture("tmp_path")
        >>> for name in ("photos", "masks"):
        ...     (place / name).mkdir()
        >>> mask = np.zeros((40, 30), np.uint8)
        >>> mask[10:20, 10:20] = 255
        >>> for number in range(6):
        ...     Image.fromarray(mask).convert("RGB").save(place / f"photos/{number}.png")
        ...     Image.fromarray(mask).save(place / f"masks/{number}.png")
        >>> config = PhotoMaskerConfig(num_steps=1, batch_size=2, size=32, width=2)
        >>> run = PhotoMaskerTraining(
        ...     config, place / "photos", place / "masks", place / "run", progress=False
        ... )
        >>> run.train().name, len(run.learned), run.measure().shape
        ('masker.safetensors', 4, torch.Size([2]))
    """

    def __init__(
        self,
        config: PhotoMaskerConfig,
        images: Path,
        masks: Path,
        folder: Path,
        *,
        device: str = "auto",
        seed: int = 0,
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        check_folder(folder, resume)
        self.config, self.folder, self.seed, self.progress = config, folder, seed, progress
        self.learned, self.held = hold_out(find_pairs(images, masks), config.holdout, seed)
        self.accelerator = make_accelerator(device, config.precision)
        masker = make_masker(config, seed)
        annotated = read_annotated(self.learned, config.size)
        target = self.accelerator.device
        layout = torch.channels_last if target.type == "cpu" else torch.preserve_format
        masker.to(target, memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(masker).eval().requires_grad_(False)
        augmenter = Augmenter(annotated, config.recombine, target)
        self._shown = read_annotated(_spread(self.learned), config.size)
        names = {"learned": [each.name for each in self.learned]}
        data = hash_tensors({"images": annotated.images, "masks": annotated.masks})
        settings = json.loads(json.dumps({**asdict(config), "seed": seed, **names, "data": data}))
        self.trainer = Trainer(
            folder,
            {"masker": masker, "average": self.average},
            {
                "masker": lambda: PhotoStage(
                    config, masker, self.average, augmenter, self.accelerator
                )
            },
            settings,
            seed=seed,
            draw=self.draw,
            resume=resume,
            save_every=500,
        )

    def train(self) -> Path:
        """Takes all remaining steps and writes the masker, which `load_masker` reads."""
        path = self.folder / MASKER_FILE
        with self.trainer.owning():
            self.trainer.train(progress=self.progress)
            save_masker(
                self.average,
                path,
                recipe=asdict(self.config),
                images=len(self.learned),
                seed=self.seed,
                seconds=round(self.trainer.seconds),
            )
        return path

    def measure(self) -> Tensor:
        """Returns the intersection over union for each held-out image, (N,) float32.

        Masks are compared at their own size, in which `cgn-augment masks` writes them.
        """
        return measure_pairs(load_masker(self.folder / MASKER_FILE), self.held)

    @torch.no_grad()
    def draw(self) -> Figure:
        """Draws training images, their masks, and the masks that it finds."""
        images = self._shown.images.float() / 127.5 - 1
        found = self.average.eval()(images.to(self.accelerator.device)).float().cpu()
        return draw_sheet({"image": images, "mask": self._shown.masks, "mask found": found})


def make_masker(config: PhotoMaskerConfig, seed: int) -> PhotoMasker:
    """Makes a masker with new weights, except for those of its backbone.

    Args:
        config: settings.
        seed: seed of the new weights.

    Raises:
        CheckpointError: the backbone's weights are damaged or belong to another network.
        FileError: they are not available.
    """
    state = {}
    if config.backbone is not None:  # it may not be available
        state = _read_backbone(config.backbone, config.backbone_file)
    with isolated_rng(step_seed(Purpose.WEIGHTS, seed), torch.device("cpu")):
        masker = PhotoMasker(config.width, config.backbone, config.size)
    if config.backbone is None:
        return masker
    source = config.backbone_file or f"torchvision's {config.backbone}"
    try:
        masker.load_backbone(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} has other weights than {config.backbone} ({first_line(error)}): give the "
            "file that belongs to it"
        ) from error
    return masker


def _read_backbone(name: str, file: str | None) -> dict[str, Tensor]:
    if file is not None:
        return read_state_dict(Path(file).expanduser())
    from torchvision.models import get_model_weights

    weights = cast(Any, get_model_weights(name)).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"the weights of {name} cannot be had here ({first_line(error)}): fetch {weights.url} "
            "where there is a network and pass the file as backbone_file, or leave backbone out"
        ) from error


@torch.no_grad()
def measure_pairs(masker: MaskerNetwork, pairs: Sequence[Pair]) -> Tensor:
    """Returns the intersection over union of found and given masks, (N,) float32.

    Args:
        masker: frozen, on the CPU.
        pairs: images and their masks.

    Raises:
        ArgumentError: there are no pairs.
        DataError: see `read_pair`.
    """
    if not pairs:
        raise ArgumentError("there are no masks to compare with: hold some out")
    overlaps = []
    for pair in pairs:
        image, true = read_pair(pair)
        square = to_square(image, masker.size)[None].float() / 127.5 - 1
        found = resize_mask(masker(square)[0, 0].numpy(), true.shape)
        both = (torch.tensor(each > 0.5)[None, None] for each in (found, true))
        overlaps.append(intersection_over_union(*both))
    return torch.cat(overlaps)


def write_photo_card(run: PhotoMaskerTraining, path: Path) -> Path:
    """Measures a masker on the held-out images, and writes its card and picture beside it.

    Args:
        run: the training.
        path: file of the masker.

    Returns:
        The card, a Markdown file.
    """
    masker = load_masker(path)
    config = run.config
    backbone = f", with the backbone {config.backbone}" if config.backbone else ""
    lines = [
        "# Masker of photographs",
        "",
        f"A U-Net of {sum(p.numel() for p in masker.parameters())} parameters{backbone}, trained "
        f"on {len(run.learned)} images with masks at {config.size} pixels.",
        "",
        f"- fingerprint: {masker.fingerprint}",
        f"- training: {config.num_steps} steps of {config.batch_size} images, "
        f"{run.trainer.seconds / 60:.1f} minutes on {run.accelerator.device}",
    ]
    if run.held:
        overlaps = run.measure()
        spread = f" ± {float(overlaps.std()):.3f}" if len(overlaps) > 1 else ""
        lines.append(
            f"- intersection over union on {len(overlaps)} images that were held out: "
            f"{float(overlaps.mean()):.3f}{spread}, the worst {float(overlaps.min()):.3f}"
        )
    else:
        lines.append("- nothing was held out, so it was not measured")
    shown = read_annotated(_spread(run.held or run.learned), config.size)
    images = shown.images.float() / 127.5 - 1
    found = masker(images)
    difference = ((found > 0.5) != (shown.masks > 0.5)).float()
    rows = {"image": images, "mask": shown.masks, "mask found": found, "difference": difference}
    picture = save_figure(draw_sheet(rows), path.with_suffix(".png"))
    lines += ["", f"![Images, their masks and those that are found]({picture.name})"]
    card = path.with_suffix(".md")
    card.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return card


def _spread(pairs: Sequence[Pair], num: int = 8) -> Sequence[Pair]:
    """Returns some pairs spread over the list, so from many classes."""
    return pairs[:: -(-len(pairs) // num)]
