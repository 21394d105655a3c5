"""Images of a made-up world, and a training of it that takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)
from train_generator.small.images import LabelledImages
from train_generator.small.training import SmallTraining
from train_generator.training.checkpoints import CHECKPOINT

CLASSES = ("box", "bar", "post")
STEPS = {"factors": 3, "masker": 2, "masker 1": 2, "textures": 3, "shapes": 3}
PARTS: dict[str, Any] = {
    "factors": FactorsConfig(
        num_steps=STEPS["factors"],
        batch_size=8,
        images_per_texture=2,
        discriminator_width=4,
        blob_steps=2,
    ),
    "masker": MaskerConfig(num_steps=2, batch_size=4, rounds=1, num_factors=30, num_textures=2),
    "texturing": TexturesConfig(num_steps=STEPS["textures"], batch_size=4, num_textures=2),
    "shapes": ShapesConfig(num_steps=STEPS["shapes"], batch_size=8),
}


def make_config(**changes: Any) -> SmallConfig:
    """Settings of a training that takes seconds."""
    return SmallConfig(**{"device": "cpu", **PARTS, **changes})


def make_images(num: int = 24) -> tuple[LabelledImages, Tensor]:
    """Boxes, bars and posts, each in a colour on a colour of its class, and their masks."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(num) % 3
    masks = torch.zeros(num, 1, 32, 32, dtype=torch.bool)
    for number, y in enumerate(labels.tolist()):
        height, width = ((14, 14), (8, 20), (20, 8))[y]
        top, left = torch.randint(6, 8, (2,), generator=generator).tolist()
        masks[number, :, top : top + height, left : left + width] = True
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[labels, :, None, None]
    noise = torch.rand(num, 3, 32, 32, generator=generator) * 0.2
    images = torch.where(masks, colours * 1.6 - 0.9, -0.6 * colours) + noise
    return LabelledImages(images.clamp(-1, 1), labels, CLASSES, "a made-up world"), masks


def write_folders(folder: Path, num: int = 24) -> None:
    """Writes `images/CLASS/NUMBER.png` and `masks/CLASS/NUMBER.png`."""
    data, masks = make_images(num)
    pixels = ((data.images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    for number, y in enumerate(data.labels.tolist()):
        for kind, values in (("images", pixels), ("masks", masks[:, 0].to(torch.uint8) * 255)):
            path = folder / kind / CLASSES[y] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values[number].numpy()).save(path)


@contextmanager
def one_thread() -> Iterator[None]:
    """Weights depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_on(folder: Path) -> None:
    """Trains from the start, or on from what a killed process left."""
    torch.set_num_threads(1)
    resume = (folder / CHECKPOINT).exists()
    data, _ = make_images()
    SmallTraining(make_config(), data, folder, resume=resume, save_every=1, progress=False).train()
