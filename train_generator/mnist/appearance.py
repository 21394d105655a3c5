"""Judges of textures and backgrounds, trained on a variant's true ones and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.functional import isolated_rng
from train_generator.mnist.digits import IMAGE_SIZE
from train_generator.mnist.judges import NUM_CLASSES, JudgeConfig, convolve, fit
from train_generator.mnist.render import render_colored, render_double_colored, render_wildlife
from train_generator.mnist.textures import Textures, procedural_textures
from train_generator.mnist.variants import check_variant
from train_generator.mnist.weights import read_weights, write_weights

Factor = Literal["texture", "background"]

APPEARANCE_CONFIG = JudgeConfig(num_steps=300, batch_size=100, learning_rate=1e-2)

_VERSION = 1
"""Raised when the network or its training changes, so that old caches are ignored."""

logger = logging.getLogger(__name__)


class AppearanceJudge(nn.Sequential):
    """Recognises the class of a colour or texture from any part of it, at any position.

    Takes images (B, 3, 32, 32) float32 in [-1, 1] and returns (B, 10) float32 scores. 15 thousand
    parameters.

    Examples:
        >>> import torch
        >>> from train_generator.mnist import AppearanceJudge
        >>> AppearanceJudge()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__(
            *convolve(3, 16, 5, stride=2),
            *convolve(16, 32, 3, stride=2),
            *convolve(32, 32, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, NUM_CLASSES),
        )


def render_factor(
    variant: str,
    factor: Factor,
    classes: Tensor,
    generator: torch.Generator,
    textures: Textures | None = None,
) -> Tensor:
    """Fills whole images with true colours or textures, as a perfect mechanism would draw them.

    Args:
        variant: "colored", "double_colored" or "wildlife".
        factor: "texture" or "background"; the background of colored is black for every class.
        classes: (N,) int64.
        generator: a CPU generator.
        textures: for wildlife; None takes the procedural ones.

    Returns:
        (N, 3, 32, 32) float32 in [-1, 1].

    Raises:
        ArgumentError: the variant does not exist, or textures are given for one with colours.

    Examples:
        >>> import torch
        >>> from train_generator.mnist import render_factor
        >>> classes, generator = torch.arange(10), torch.Generator().manual_seed(0)
        >>> render_factor("colored", "background", classes, generator).unique().tolist()
        [-1.0]
    """
    check_variant(variant, textures)
    size = (len(classes), 1, IMAGE_SIZE, IMAGE_SIZE)
    masks = torch.full(size, factor == "texture")
    if variant == "colored":
        return render_colored(masks, classes, generator)
    if variant == "double_colored":
        return render_double_colored(masks, classes, classes, generator)
    return render_wildlife(masks, classes, classes, textures or procedural_textures(), generator)


def train_appearance_judge(
    variant: str,
    factor: Factor,
    textures: Textures | None = None,
    config: JudgeConfig = APPEARANCE_CONFIG,
) -> AppearanceJudge:
    """Trains a judge on full images of a variant's true colours or textures; about ten seconds.

    Args:
        variant: "colored", "double_colored" or "wildlife".
        factor: "texture" or "background". The background of colored has no classes.
        textures: for wildlife; None takes the procedural ones.
        config: settings.

    Returns:
        The judge in eval mode, without gradients.

    Raises:
        ArgumentError: the variant does not exist, or the factor has no classes.

    Examples:
        >>> from train_generator.mnist import JudgeConfig, train_appearance_judge
        >>> judge = train_appearance_judge("colored", "texture", config=JudgeConfig(2, 10))
        >>> judge.training
        False
    """
    if not has_classes(variant, factor):
        raise ArgumentError(
            f"the {factor} of {variant} is the same for every class: nothing to learn"
        )
    if variant == "wildlife":
        textures = textures or procedural_textures()  # drawn once, not for every batch
    with isolated_rng(config.seed, torch.device("cpu")):
        judge = AppearanceJudge()

    def draw() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(config.seed)
        while True:
            y = torch.randint(NUM_CLASSES, (config.batch_size,), generator=generator)
            yield render_factor(variant, factor, y, generator, textures), y

    fit(judge, draw(), config)
    return judge


def load_appearance_judge(
    variant: str,
    factor: Factor,
    textures: Textures | None = None,
    *,
    cache: Path | None = None,
    config: JudgeConfig = APPEARANCE_CONFIG,
) -> AppearanceJudge:
    """Returns a judge from the cache, or trains it and puts it there.

    Args:
        variant: as for `train_appearance_judge`.
        factor: as for `train_appearance_judge`.
        textures: as for `train_appearance_judge`.
        cache: folder; `cache_folder()` by default. Other colours, textures or settings use another
            file there. A damaged file is made anew. If the folder cannot be written, the judge is
            still trained.
        config: settings.

    Raises:
        ArgumentError: the variant does not exist, or the factor has no classes.

    Examples:
        >>> from train_generator.mnist import JudgeConfig, load_appearance_judge
        >>> folder, tiny = getfixture("tmp_path"), JudgeConfig(num_steps=2, batch_size=10)
        >>> judge = load_appearance_judge("colored", "texture", cache=folder, config=tiny)
        >>> len(list(folder.iterdir()))
        1
    """
    folder = cache_folder() if cache is None else cache
    key = _hash_training(variant, factor, textures, config)
    path = folder / f"{variant}-{factor}-{key}.safetensors"
    try:
        return read_weights(AppearanceJudge(), path)[0]
    except FileError:
        logger.info("training a judge of the %s of %s", factor, variant)
    except CheckpointError as error:
        logger.warning("%s; a new one is trained", error)
    judge = train_appearance_judge(variant, factor, textures, config)
    try:
        write_weights(judge, path, {"variant": variant, "factor": factor, **asdict(config)})
    except OSError as error:
        logger.warning("the judge cannot be kept in %s: %s", folder, error)
    return judge


def cache_folder() -> Path:
    """Returns `train_generator` in XDG_CACHE_HOME, or in ~/.cache if that is not set.

    Examples:
        >>> from train_generator.mnist import cache_folder
        >>> cache_folder().name
        'train_generator'
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "train_generator"


def has_classes(variant: str, factor: Factor) -> bool:
    """Returns whether a factor of a variant differs from class to class."""
    return not (variant == "colored" and factor == "background")


def hash_textures(textures: Textures) -> str:
    """Returns twelve hexadecimal digits that identify a set of textures."""
    digest = hashlib.sha256()
    for stack in (textures.object, textures.background):
        digest.update(str(tuple(stack.shape)).encode())
        digest.update(stack.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _hash_training(
    variant: str, factor: Factor, textures: Textures | None, config: JudgeConfig
) -> str:
    """Identifies the training of a judge, by its settings and a few of its images."""
    generator = torch.Generator().manual_seed(0)
    images = render_factor(variant, factor, torch.arange(NUM_CLASSES), generator, textures)
    digest = hashlib.sha256(images.numpy().tobytes())
    if variant == "wildlife":
        digest.update(hash_textures(textures or procedural_textures()).encode())
    digest.update(json.dumps([_VERSION, asdict(config)]).encode())
    return digest.hexdigest()[:12]
