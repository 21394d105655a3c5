"""Sheets of what an ImageNet CGN draws during training, always with the same noise and classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.generators import BigGAN, ImageNetCGN
from cgn_augment.images.imagenet_classes import class_names
from cgn_augment.pictures.sheets import draw_sheet

SHEET_CLASSES = (15, 251, 330, 382, 385, 483, 559, 751, 938, 947, 999)
"""Classes of the sheets in the released code."""


def sheet_classes(num_classes: int) -> tuple[int, ...]:
    """Returns the classes of a sheet: the published ones, or the first ones of a reduced CGN.

    Examples:
        >>> from train_generator.imagenet.sheet import sheet_classes
        >>> sheet_classes(1000)[:3], sheet_classes(300), sheet_classes(4)
        ((15, 251, 330), (15, 251), (0, 1, 2, 3))
    """
    known = tuple(y for y in SHEET_CLASSES if y < num_classes)
    return known if len(known) > 1 else tuple(range(min(num_classes, len(SHEET_CLASSES))))


@torch.no_grad()
def draw_training(
    cgn: ImageNetCGN,
    target: BigGAN | None = None,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> Figure:
    """Draws each stage of an image, one column per class, all with the same noise.

    Args:
        cgn: the network in training.
        target: draws the target images, for a last row.
        classes: classes of the columns; see `sheet_classes`.
        seed: seed of the noise.

    Examples:
        >>> from cgn_augment.generators import ImageNetCGN
        >>> from train_generator.imagenet.sheet import draw_training
        >>> layers = [(False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
        >>> sizes = dict(num_classes=5, noise_dim=8, channel_width=4, layers=layers, attention_at=2)
        >>> len(draw_training(ImageNetCGN(sizes, unet_width=4)).axes)  # five rows, five classes
        25
    """
    classes = sheet_classes(cgn.num_classes) if classes is None else classes
    noise = cgn.draw_noise(1, step_generator(Purpose.MEASURE, seed))
    columns = [_draw_column(cgn, target, noise, y) for y in classes]
    rows = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
    names = class_names(cgn.num_classes)
    captions = [f"class {y}" if names is None else f"{y} {names[y]}" for y in classes]
    return draw_sheet(rows, {list(rows)[-1]: captions})


def _draw_column(
    cgn: ImageNetCGN, target: BigGAN | None, noise: torch.Tensor, label: int
) -> dict[str, torch.Tensor]:
    """Draws one class at a time, so that a sheet needs no more memory than a batch of one."""
    y = torch.tensor([label], device=noise.device)
    premask = cgn.premask(noise, y)
    mask = cgn.mask(premask)
    foreground, background = cgn.texture(noise, y), cgn.background(noise, y)
    column = {
        "premask": premask,
        "mask": mask,
        "foreground": foreground,
        "background": background,
        "composite": compose(mask, foreground, background),
    }
    if target is not None:
        column["target"] = target(noise, y, cgn.truncation, cgn.truncation_lookup)
    return {name: images.cpu() for name, images in column.items()}
