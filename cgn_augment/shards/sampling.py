"""Draws numbered images of a CGN and writes them to a folder, with their labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cgn_augment.checks import require_choice, require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.files import owning, replacing
from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.generators.drawing import draw_objects
from cgn_augment.images.imagenet_classes import IMAGENET_CLASSES, best_classes, class_names
from cgn_augment.interventions import Interventions
from cgn_augment.types import FACTORS, Factors, Mechanisms

Mode = Literal["random", "per-class", "best"]
Kind = Literal["mask", "foreground", "background", "composite"]

KINDS: tuple[Kind, ...] = get_args(Kind)


def choose_classes(
    known: int | Sequence[int],
    num: int,
    mode: Mode = "random",
    *,
    shape: Sequence[int] | None = None,
    texture: Sequence[int] | str | None = None,
    background: Sequence[int] | str | None = None,
    same: bool = False,
    seed: int = 0,
) -> Tensor:
    """Chooses the classes of numbered images. Those of image i do not depend on `num`.

    Args:
        known: classes of the CGN: how many, or which.
        num: number of images; with "per-class", number per class of the shape.
        mode: "random" draws each factor's class uniformly. "per-class" goes through the classes of
            the shape and draws the other two uniformly. "best" draws uniformly from the classes
            that the published ImageNet CGN draws best, for each factor.
        shape: restricts the factor to these classes, in any mode.
        texture: likewise, or "shape" or "other"; see `Interventions`.
        background: likewise, or "other".
        same: gives all three factors of an image the class of its shape, so that it is not a
            counterfactual.
        seed: seed of the classes.

    Returns:
        (3, N) int64 classes of shape, texture and background.

    Raises:
        ArgumentError: there is less than one image, a class does not exist, `same` is given with
            classes of texture or background, or "best" with other classes than ImageNet's.

    Examples:
        >>> from cgn_augment.shards.sampling import choose_classes
        >>> choose_classes(10, 2, "per-class", shape=[3, 7], background=[1])[0].tolist()
        [3, 3, 7, 7]
    """
    require_choice("mode", mode, get_args(Mode))
    require_count("num", num)
    if same and (texture is not None or background is not None):
        raise ArgumentError("with same, all factors get the class of the shape: give shape alone")
    kept: dict[str, Any] = {"shape": shape, "texture": texture, "background": background}
    if mode == "best":
        num_known = known if isinstance(known, int) else len(known)
        if num_known != IMAGENET_CLASSES:
            raise ArgumentError(
                f"best classes are known of ImageNet's 1000 classes, and this CGN has "
                f"{num_known}: take the mode random, or list classes"
            )
        kept = {factor: best_classes(factor) if y is None else y for factor, y in kept.items()}
    interventions = Interventions(**kept)
    shapes = [y for (y,) in interventions.choices("shape", known) for _ in range(num)]
    num = len(shapes) if mode == "per-class" else num
    drawn = numbered_classes(interventions, known, range(num), seed)
    if mode == "per-class":  # each once, in the given order
        shares = _draw_shares(range(num), seed)
        drawn = interventions.pick(shares, known, shape=torch.tensor(shapes))
    return drawn[:1].repeat(3, 1) if same else drawn


def numbered_classes(
    interventions: Interventions,
    known: int | Sequence[int],
    numbers: Sequence[int],
    seed: int = 0,
) -> Tensor:
    """Draws classes of images; each image is a function of its number and the seed alone.

    Args:
        interventions: uniform ones. With `num_per_shape`, images 0 to num_per_shape - 1 have the
            shape of image 0, and so on.
        known: classes of the CGN: how many, or which.
        numbers: numbers of the images.
        seed: seed of the classes.

    Returns:
        (3, N) int64 classes of shape, texture and background.

    Raises:
        ArgumentError: the CGN lacks a class.

    Examples:
        >>> from cgn_augment import Interventions
        >>> from cgn_augment.shards.sampling import numbered_classes
        >>> both = numbered_classes(Interventions(), 10, range(4))
        >>> bool((numbered_classes(Interventions(), 10, [3])[:, 0] == both[:, 3]).all())
        True
    """
    every = interventions.num_per_shape
    own = _draw_shares(numbers, seed)
    if every > 1:
        own[:, 0] = _draw_shares([n - n % every for n in numbers], seed)[:, 0]
    return interventions.pick(own, known)


def _draw_shares(numbers: Sequence[int], seed: int) -> Tensor:
    """Returns two uniform numbers in [0, 1) for each factor of each image, (N, 3, 2) float64."""
    generators = (step_generator(Purpose.SAMPLE_CLASSES, seed, number) for number in numbers)
    shape = (len(FACTORS), 2)
    return torch.stack([torch.rand(shape, generator=g, dtype=torch.float64) for g in generators])


@torch.no_grad()
def draw_numbered(
    cgn: Mechanisms,
    classes: Tensor,
    first: int = 0,
    *,
    seed: int = 0,
    fixed_noise: bool = False,
    num_per_shape: int = 1,
    tied: bool = False,
) -> Factors:
    """Draws images; each is a function of its number, its classes and the seed alone.

    Args:
        cgn: a frozen CGN.
        classes: (3, N) int64 classes of shape, texture and background.
        first: number of the first image.
        seed: seed of the noise.
        fixed_noise: gives every image the noise of image 0.
        num_per_shape: images 0 to num_per_shape - 1 have the mask of image 0, and so on; see
            `numbered_classes`. The shape mechanism runs once per mask.
        tied: takes each foreground from the object that gives the mask.

    Returns:
        The factors of N images.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.shards.sampling import choose_classes, draw_numbered
        >>> factors = draw_numbered(SmallCGN().freeze(), choose_classes(10, 4), seed=3)
        >>> factors.foreground.shape
        torch.Size([4, 3, 32, 32])
    """
    numbers = [0 if fixed_noise else first + i for i in range(classes.shape[1])]
    generators = [step_generator(Purpose.SAMPLE_NOISE, seed, number) for number in numbers]
    noise = [_draw_noise(cgn, generators)]
    leaders = [number - number % num_per_shape for number in numbers]
    if num_per_shape > 1:
        of_leaders = [step_generator(Purpose.SAMPLE_NOISE, seed, leader) for leader in leaders]
        noise[0] = _draw_noise(cgn, of_leaders)
    noise += [noise[0] if cgn.shared_noise else _draw_noise(cgn, generators) for _ in FACTORS[1:]]
    masks = list(zip(leaders, classes[0].tolist(), strict=True))
    starts = [i for i in range(len(masks)) if i == 0 or masks[i] != masks[i - 1]]
    lengths = (torch.tensor([*starts[1:], len(masks)]) - torch.tensor(starts)).to(cgn.device)
    shape, texture, background = classes.to(cgn.device)
    if tied:
        mask, foreground = draw_objects(cgn, noise[0][starts], shape[starts])
        foreground = foreground.repeat_interleave(lengths, 0)
    else:
        mask, foreground = (
            cgn.shape(noise[0][starts], shape[starts]),
            cgn.texture(noise[1], texture),
        )
    foreground, behind = (
        torch.cat([cgn.shuffle(x[None], g) for x, g in zip(images, generators, strict=True)])
        for images in (foreground, cgn.background(noise[2], background))
    )
    return Factors(mask.repeat_interleave(lengths, 0), foreground, behind)


def _draw_noise(cgn: Mechanisms, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.cat([cgn.draw_noise(1, generator) for generator in generators])


def write_samples(
    cgn: Mechanisms,
    classes: Tensor,
    folder: Path,
    *,
    save: Sequence[Kind] = ("composite",),
    seed: int = 0,
    fixed_noise: bool = False,
    chunk: int = 1,
    tied: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Writes images as PNG, one folder per kind, and their labels.

    `labels.csv` and `labels.jsonl` have one row per image: its number, its three classes, their
    names if there are any, and its files. A row is written after its images, so if drawing is
    interrupted, everything in the labels exists.

    Args:
        cgn: a frozen CGN.
        classes: (3, N) int64; see `choose_classes`.
        folder: created if missing; must be empty.
        save: what to write of each image.
        seed: seed of the noise; see `draw_numbered`.
        fixed_noise: gives every image the noise of image 0.
        chunk: images drawn at once. One is fastest on a CPU.
        tied: takes each foreground from the object that gives the mask.
        settings: written to `settings.json`, to document the folder.

    Raises:
        ArgumentError: the folder is not empty, `save` is empty or names an unknown kind, or chunk
            is below 1.
        OSError: the folder cannot be written.
        UsageError: another process is writing to it.
    """
    for kind in save:
        require_choice("save", kind, KINDS)
    if not save:
        raise ArgumentError(f"save must name one or more of {', '.join(KINDS)}")
    require_count("chunk", chunk)
    _require_empty(folder)
    with owning(folder):
        _require_empty(folder)  # again, since another process may have written there
        _write(cgn, classes, folder, save, seed, fixed_noise, chunk, tied, settings)


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(
            f"{folder} is there already and is not an empty folder: name another, so that images "
            "of two runs are not mixed"
        )


def _write(
    cgn: Mechanisms,
    classes: Tensor,
    folder: Path,
    save: Sequence[Kind],
    seed: int,
    fixed_noise: bool,
    chunk: int,
    tied: bool,
    settings: dict[str, Any] | None,
) -> None:
    for kind in save:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    written = {**(settings or {}), "fingerprint": cgn.fingerprint, "seed": seed}
    (folder / "settings.json").write_text(json.dumps(written, indent=2) + "\n")
    names: Mapping[int, str] | Sequence[str] | None = getattr(cgn, "names", None)
    names, num = names or class_names(cgn.num_classes), classes.shape[1]
    with (
        tqdm(total=num, desc="drawing", delay=2, disable=None) as bar,
        (folder / "labels.csv").open(
            "w", buffering=1, newline="", encoding="utf-8", errors="surrogateescape"
        ) as table,
        (folder / "labels.jsonl").open("w", buffering=1, encoding="utf-8") as lines,
    ):
        for first in range(0, num, chunk):
            drawn = classes[:, first : first + chunk]
            factors = draw_numbered(
                cgn, drawn, first, seed=seed, fixed_noise=fixed_noise, tied=tied
            )
            drawn_pictures = pictures(factors)
            stacks = {kind: to_pixels(drawn_pictures[kind]) for kind in save}
            for number, own in enumerate(drawn.T.tolist(), start=first):
                row: dict[str, Any] = {"number": number, **dict(zip(FACTORS, own, strict=True))}
                if names is not None:
                    row |= {f"{f}_name": names[y] for f, y in zip(FACTORS, own, strict=True)}
                for kind, stack in stacks.items():
                    row[f"{kind}_file"] = f"{kind}/{number:06d}.png"
                    with replacing(folder / row[f"{kind}_file"]) as temporary:
                        Image.fromarray(stack[number - first]).save(temporary)
                rows = csv.DictWriter(table, list(row))
                if number == 0:
                    rows.writeheader()
                rows.writerow(row)
                lines.write(json.dumps(row) + "\n")
            bar.update(drawn.shape[1])


def to_bytes(images: Tensor) -> Tensor:
    """Converts images (…, 3, H, W) in [-1, 1] or masks (…, 1, H, W) in [0, 1] to uint8, on CPU."""
    images = images if images.shape[-3] == 1 else (images + 1) / 2
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """Converts images as for `to_bytes` to (N, H, W, 3), or masks to (N, H, W), uint8."""
    pixels: npt.NDArray[np.uint8] = to_bytes(images).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def pictures(factors: Factors) -> dict[str, Tensor]:
    """Returns the images of factors by kind, each (N, 1 or 3, H, W)."""
    return {
        "mask": factors.mask,
        "foreground": factors.foreground,
        "background": factors.background,
        "composite": compose(factors.mask, factors.foreground, factors.background),
    }
