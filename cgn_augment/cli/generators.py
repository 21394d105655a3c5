"""Commands that draw many images; `cgn_augment.cli.program` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import load_cgn
from cgn_augment.generators.drawing import default_interventions, known_classes
from cgn_augment.generators.interpolation import Change, interpolate_classes
from cgn_augment.images.imagenet_classes import class_names, find_class, find_classes
from cgn_augment.interventions import OTHER, OWN, Interventions
from cgn_augment.parts import Parts
from cgn_augment.parts.opening import load_mechanisms
from cgn_augment.pictures.animation import ANIMATIONS, check_animation, write_animation
from cgn_augment.pictures.sheets import check_picture, draw_sheet, save_figure
from cgn_augment.shards.sampling import (
    KINDS,
    Kind,
    Mode,
    choose_classes,
    pictures,
    to_bytes,
    write_samples,
)

Class = int | str
Classes = Class | list[Class] | None


def sample(
    cgn: str,
    out: str,
    num: int = 16,
    mode: Mode = "random",
    shape: Classes = None,
    texture: Classes = None,
    background: Classes = None,
    same: bool = False,
    save: list[Kind] | Kind = "composite",
    seed: int = 0,
    fixed_noise: bool = False,
    truncation: float | None = None,
    size: int | None = None,
    chunk: int = 1,
    device: str = "cpu",
) -> None:
    """Draws images into a folder as PNG, with labels as CSV and JSON lines.

    Args:
        cgn: path of a .pth or .safetensors checkpoint, name of a bundled generator, or folder of
            parts.
        out: folder to write; must be empty or missing.
        num: number of images; with per-class, number per class of the shape.
        mode: random draws each factor's class separately; per-class goes through the classes of the
            shape; best draws from the classes that the published ImageNet CGN draws best.
        shape: class or classes to draw from, by index or by name in ImageNet's list or the parts:
            207, 'tench', '[207, tench]'.
        texture: likewise; shape takes the object's own (the default for parts), other takes any
            class but the shape's.
        background: likewise; other takes any class but the shape's.
        same: true gives all three factors of an image the class of its shape.
        save: what to write of each image: mask, foreground, background, composite, or several:
            '[mask, composite]'.
        seed: seed of classes and noise. An image depends only on the seed, its number and its
            classes.
        fixed_noise: true gives every image the same noise.
        truncation: ImageNet CGN only: above 0 and at most 1; 1 by default.
        size: parts only: side of the square images, in pixels; by default the median side of the
            parts' images.
        chunk: images drawn at once. One is fastest on a CPU.
        device: where to draw, such as cpu or cuda.
    """
    network = load_mechanisms(cgn, device=device, truncation=truncation, size=size)
    config: dict[str, Any] = {"size": network.image_size}
    names: Mapping[int, str] = {}
    if isinstance(network, Parts):
        names = network.names
    else:
        config = network.config
    own = default_interventions(network).is_tied and texture is None
    if own and not same:
        texture = OWN
    kept: dict[str, Any] = {"shape": shape, "texture": texture, "background": background}
    for factor, y in kept.items():
        if y not in (OWN, OTHER):
            kept[factor] = find_classes(y, network.num_classes, names)
    known = known_classes(network)
    classes = choose_classes(known, num, mode, **kept, same=same, seed=seed)
    if isinstance(network, Parts):
        network.check(Interventions(**{**kept, "texture": OWN if own else kept["texture"]}))
    write_samples(
        network,
        classes,
        Path(out),
        save=[save] if isinstance(save, str) else save,
        seed=seed,
        fixed_noise=fixed_noise,
        chunk=chunk,
        tied=own or texture == OWN,
        settings={"cgn": cgn, **config, "mode": mode, "fixed_noise": fixed_noise},
    )
    print(f"{out}: {classes.shape[1]} images; labels.csv and labels.jsonl say what they show")


def interpolate(
    cgn: str,
    out: str,
    classes: list[Class],
    factor: Change = "all",
    shape: Class | None = None,
    texture: Class | None = None,
    background: Class | None = None,
    steps: int = 8,
    save: list[Kind] | Kind | None = None,
    seed: int = 0,
    frames_per_second: float = 8,
    truncation: float | None = None,
    device: str = "cpu",
) -> None:
    """Moves from class to class in one mechanism or all, as a sheet (.png …), .gif or .mp4.

    Args:
        cgn: path of a .pth or .safetensors checkpoint, or the name of a bundled generator.
        out: file to write; .png, .jpg, .webp, .pdf or .svg makes a sheet, .gif or .mp4 an
            animation.
        classes: two or more, by index or by name in ImageNet's list: '[207, tench]'.
        factor: the factor whose class changes; all changes all three together.
        shape: class of the shape if it does not change; by default the first of CLASSES.
        texture: likewise.
        background: likewise.
        steps: frames from one class to the next.
        save: what to show: mask, foreground, background, composite, or several: '[mask,
            composite]'; by default all four in a sheet and the composite in an animation.
        seed: seed of the noise, which all frames share.
        frames_per_second: speed of an animation.
        truncation: ImageNet CGN only: above 0 and at most 1; 1 by default.
        device: where to draw, such as cpu or cuda.
    """
    animated = Path(out).suffix in ANIMATIONS
    (check_animation if animated else check_picture)(out)  # before anything slow
    if save == []:
        raise ArgumentError(f"save must name one or more of {', '.join(KINDS)}")
    network = load_cgn(cgn, device=device, truncation=truncation)
    way = [find_class(y, network.num_classes) for y in classes]
    given = {"shape": shape, "texture": texture, "background": background}
    others = {f: find_class(y, network.num_classes) for f, y in given.items() if y is not None}
    factors = interpolate_classes(network, way, factor, steps=steps, others=others, seed=seed)
    every = ["composite"] if animated else KINDS
    kinds = every if save is None else [save] if isinstance(save, str) else save
    shown = {kind: images for kind, images in pictures(factors).items() if kind in kinds}
    if animated:
        parts = [to_bytes(images).expand(-1, 3, -1, -1) for images in shown.values()]
        print(write_animation(torch.cat(parts, dim=3), out, frames_per_second))
        return
    names = class_names(network.num_classes)
    captions = [""] * len(factors)
    for stop, y in enumerate(way):
        captions[stop * steps] = f"class {y}" if names is None else names[y]
    print(save_figure(draw_sheet(shown, {list(shown)[-1]: captions}), out))
