"""Folders of tiny images whose colours say what they show, and classifiers that read them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from train_generator.classifier import MNISTClassifier, make_ensemble, save_ensemble
from train_generator.robustness import (
    Predictor,
    cue_conflict_categories,
    imagenet9_classes,
    plain_predictor,
)

CATEGORIES = cue_conflict_categories().names
NINE = tuple(f"{i:02d}_{name}" for i, name in enumerate(imagenet9_classes().names))
STEP = 15  # grey levels from one number to the next


def save_image(path: Path, red: int, green: int = 0, size: int = 8) -> None:
    """Writes an image of one colour, which says two numbers of 0 to 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (STEP * red, STEP * green, 0)).save(path)


def make_cue_conflicts(folder: Path) -> Path:
    """Two images of each category: one without a conflict, one with the next one's texture."""
    for shape, name in enumerate(CATEGORIES):
        for texture in (shape, (shape + 1) % 16):
            save_image(folder / name / f"{name}3-{CATEGORIES[texture]}1.png", shape, texture)
    return folder


def make_imagenet9(folder: Path, num: int = 1) -> Path:
    """Red is the foreground's class; green that of the background."""
    for y, name in enumerate(NINE):
        for number in range(num):
            for variant, behind in (("original", y), ("mixed_same", y), ("mixed_rand", 0)):
                # PNG by content, so that the colours are exact; the release has JPEG.
                path = folder / variant / "val" / name / f"{number}.JPEG"
                save_image(path.with_suffix(".png"), y, behind)
                path.with_suffix(".png").rename(path)
    return folder


class ColorReader(nn.Module):
    """Gives the number that a channel says, taken to a class, the best score."""

    def __init__(self, channel: int, classes: Tensor, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(255.0 / STEP))
        self.channel, self.num_classes = channel, num_classes
        self.register_buffer("classes", classes)

    def forward(self, images: Tensor) -> Tensor:
        number = (images[:, self.channel].mean(dim=(1, 2)) * self.scale).round().long()
        return 9.0 * torch.eye(self.num_classes)[self.classes[number]]


def make_reader(
    channel: int, classes: list[int], num_classes: int = 1000, names: list[str] | None = None
) -> Predictor:
    """A classifier that sees the raw colours of images of 8 pixels."""
    return plain_predictor(
        ColorReader(channel, torch.tensor(classes), num_classes),
        num_classes,
        classes=names,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        image_size=8,
    )


def make_digits(
    num_classes: int = 10, classes: list[str] | None = None, image_size: int = 32
) -> Predictor:
    """A classifier of digits, not trained."""
    model = MNISTClassifier(num_classes)
    return plain_predictor(model, num_classes, classes=classes, image_size=image_size)


def save_tiny_ensemble(path: Path, classes: list[str]) -> Path:
    """Writes an ensemble on the smallest backbone of torchvision, not trained."""
    model = make_ensemble("shufflenet_v2_x0_5", len(classes), pretrained=False)
    normal = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    save_ensemble(model, path, classes=classes, image_size=32, **normal)
    return path
