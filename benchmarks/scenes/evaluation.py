"""Measures the reduced ImageNet problem, where shape, texture and background are known.

The judges learn from real scenes with three independent factors, true classes and true masks. The
training of a generator never sees these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.scenes.images import (
    NUM_CLASSES,
    SCENE_CODES,
    Scenes,
    make_scenes,
    render_scenes,
)
from benchmarks.scenes.prior import scenes_of_noise
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, compose, isolated_rng, step_generator, step_seed
from cgn_augment.generators import BigGAN, ImageNetCGN
from cgn_augment.generators.truncation import draw_truncated
from cgn_augment.masks import UNetMasker
from cgn_augment.types import FACTORS
from train_generator.metrics.masks import intersection_over_union
from train_generator.mnist.judges import JudgeConfig, fit
from train_generator.mnist.weights import read_weights, write_weights
from train_generator.robustness.sensitivity import ChangedImages

JUDGE_WIDTHS = (24, 48, 64, 96)
MASKER_WIDTH = 12

_CHUNK = 64  # images at once; bounds the memory
_UNDECIDED = 0.1, 0.9


class SceneJudge(nn.Module):
    """Tells the classes of shape, texture and background of a scene.

    Takes images (B, 3, 64, 64) float32 in [-1, 1] and returns (B, 8, 3) float32 scores.

    Examples:
        >>> import torch
        >>> from benchmarks.scenes.evaluation import SceneJudge
        >>> SceneJudge()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 8, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        dim_in = 3
        for width in JUDGE_WIDTHS:
            layers += [
                nn.Conv2d(dim_in, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            dim_in = width
        layers += [nn.Flatten(), nn.Linear(dim_in * 16, 128), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.heads = nn.Linear(128, 3 * NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Returns scores (B, 8, 3) of images (B, 3, 64, 64)."""
        scores: Tensor = self.heads(self.layers(images)).unflatten(1, (NUM_CLASSES, 3))
        return scores


class Judges(NamedTuple):
    """Who judges scenes.

    Attributes:
        classes: tells the classes of the three factors.
        masker: finds the object.
    """

    classes: SceneJudge
    masker: UNetMasker


@dataclass(frozen=True)
class SceneAccuracy:
    """Shares of images, in [0, 1], whose class of a factor is recognised.

    Attributes:
        shape: by the class of the silhouette.
        texture: by the class of the object's texture.
        background: by the class of the ground.
    """

    shape: float
    texture: float
    background: float


@dataclass(frozen=True)
class PriorMetrics:
    """How good the scenes are that a generator draws.

    Attributes:
        accuracy: of its images' classes.
        mask_overlap: mean intersection over union of the object that is found in its images with
            that of the scene that belongs to the same noise and class.
        spread: standard deviation of its images of a class about their mean, relative to that of
            the scenes; 0 if all images of a class were the same.
    """

    accuracy: SceneAccuracy
    mask_overlap: float
    spread: float


@dataclass(frozen=True)
class CGNMetrics:
    """How well a CGN of the scenes has taken images apart.

    Attributes:
        mean_mask: share of the image that the masks cover.
        undecided: share of the masks' pixels between 0.1 and 0.9.
        overlap: mean intersection over union of the masks with the object that is found in the
            target image of the same noise and class.
        overlap_of_noise: likewise with the true mask of the scene of the same noise and class. What
            the target images reach, `PriorMetrics.mask_overlap`, bounds it.
        object_in_background: share of the background images in which an object is found.
        error: mean absolute difference of composed and target images, of one class each.
        counterfactual: of the classes in images of three independent classes.
    """

    mean_mask: float
    undecided: float
    overlap: float
    overlap_of_noise: float
    object_in_background: float
    error: float
    counterfactual: SceneAccuracy


def train_judges(
    num_images: int = 6000, config: JudgeConfig | None = None, *, progress: bool = False
) -> Judges:
    """Trains the judges on real scenes of independent factors.

    Args:
        num_images: that are drawn.
        config: settings of both.
        progress: shows bars on standard error.

    Examples:
        >>> from train_generator.mnist.judges import JudgeConfig
        >>> from benchmarks.scenes.evaluation import train_judges
        >>> train_judges(16, JudgeConfig(num_steps=1, batch_size=8)).classes.training
        False
    """
    config = config or JudgeConfig(num_steps=700, batch_size=32)
    scenes = make_scenes(num_images, config.seed, decorrelated=True)
    with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed), torch.device("cpu")):
        judges = Judges(SceneJudge(), UNetMasker(MASKER_WIDTH))
    labels = torch.stack([scenes.shape, scenes.texture, scenes.background], dim=1)
    masks = (scenes.masks[:, 0] > 0.5).long()
    fit(judges.classes, _batches(scenes.images, labels, config), config, progress=progress)
    fit(
        _TwoClasses(judges.masker),
        _batches(scenes.images, masks, config),
        config,
        progress=progress,
    )
    judges.masker.freeze()
    return judges


def save_judges(judges: Judges, folder: Path) -> None:
    """Writes both judges into a folder."""
    for name, judge in judges._asdict().items():
        write_weights(judge, folder / f"{name}.safetensors", {"judge": f"scenes, {name}"})


def load_judges(folder: Path) -> Judges:
    """Reads what `save_judges` wrote.

    Raises:
        FileError: a file is missing.
        CheckpointError: a file is damaged.
    """
    classes = read_weights(SceneJudge(), folder / "classes.safetensors")[0]
    masker = read_weights(UNetMasker(MASKER_WIDTH), folder / "masker.safetensors")[0]
    return Judges(classes, masker.freeze())


@torch.no_grad()
def measure_accuracy(
    judges: Judges, images: Tensor, shape: Tensor, texture: Tensor, background: Tensor
) -> SceneAccuracy:
    """Returns how often each factor is recognised.

    Args:
        judges: of the scenes.
        images: (N, 3, 64, 64) float32 in [-1, 1].
        shape: (N,) int64 true classes.
        texture: likewise.
        background: likewise.
    """
    found = torch.cat([judges.classes(part).argmax(dim=1) for part in torch.split(images, _CHUNK)])
    right = (found == torch.stack([shape, texture, background], dim=1)).double().mean(dim=0)
    return SceneAccuracy(*right.tolist())


@torch.no_grad()
def find_objects(judges: Judges, images: Tensor) -> Tensor:
    """Finds the object of images (N, 3, 64, 64), as (N, 1, 64, 64) bool."""
    return torch.cat([judges.masker.logits(part) > 0 for part in torch.split(images, _CHUNK)])


def measure_judges(judges: Judges, num: int = 800, seed: int = 1) -> tuple[SceneAccuracy, float]:
    """Returns accuracy and mean intersection over union on real scenes that the judges do not know.

    Args:
        judges: to be judged.
        num: of scenes of independent factors.
        seed: other than that of their training.
    """
    scenes = make_scenes(num, seed, decorrelated=True)
    accuracy = measure_accuracy(
        judges, scenes.images, scenes.shape, scenes.texture, scenes.background
    )
    return accuracy, mean_overlap(find_objects(judges, scenes.images), scenes)


def mean_overlap(found: Tensor, scenes: Scenes) -> float:
    """Returns the mean intersection over union of (N, 1, H, W) bool with the scenes' masks."""
    return float(intersection_over_union(found, scenes.masks > 0.5).mean())


@torch.no_grad()
def measure_prior(
    biggan: BigGAN, judges: Judges, num: int = 800, seed: int = 0, prior_seed: int = 0
) -> PriorMetrics:
    """Measures a generator of scenes.

    Args:
        biggan: of noise as in `codes_of_noise`.
        judges: of the scenes.
        num: of images.
        seed: of the noise.
        prior_seed: that the generator was trained with, which decides what scene is of a noise.

    Raises:
        ArgumentError: less than two images of each class.
    """
    if num < 2 * NUM_CLASSES:
        raise ArgumentError(f"num must be {2 * NUM_CLASSES} or more, two of each class, got {num}")
    generator = step_generator(Purpose.MEASURE, seed, num)
    noise, y = draw_truncated(num, biggan.config.noise_dim, generator), _classes(num)
    scenes = scenes_of_noise(noise, y, generator, prior_seed)
    images = _draw(biggan, noise, y)
    return PriorMetrics(
        measure_accuracy(judges, images, y, y, y),
        mean_overlap(find_objects(judges, images), scenes),
        _spread(images, y) / _spread(scenes.images, y),
    )


@torch.no_grad()
def measure_cgn(
    cgn: ImageNetCGN,
    target: BigGAN,
    judges: Judges,
    num: int = 800,
    seed: int = 0,
    prior_seed: int = 0,
) -> CGNMetrics:
    """Measures a CGN of scenes.

    Args:
        cgn: in eval mode.
        target: the generator that its training started from.
        judges: of the scenes.
        num: of images.
        seed: of noise and classes.
        prior_seed: see `measure_prior`.
    """
    generator = step_generator(Purpose.MEASURE, seed, num)
    noise, y = cgn.draw_noise(num, generator), _classes(num)
    scenes = scenes_of_noise(noise, y, generator, prior_seed)
    texture, background = torch.randint(NUM_CLASSES, (2, num), generator=generator)
    targets, masks, foregrounds, backgrounds = (
        _draw(run, noise, y) for run in (target, cgn.shape, cgn.texture, cgn.background)
    )
    others = _draw(cgn.texture, noise, texture), _draw(cgn.background, noise, background)
    binary = masks > 0.5
    low, high = _UNDECIDED
    composed = compose(masks, foregrounds, backgrounds)
    return CGNMetrics(
        float(masks.mean()),
        float(((masks > low) & (masks < high)).double().mean()),
        float(intersection_over_union(binary, find_objects(judges, targets)).mean()),
        mean_overlap(binary, scenes),
        float(find_objects(judges, backgrounds).double().mean()),
        float((composed - targets).abs().mean()),
        measure_accuracy(judges, compose(masks, *others), y, texture, background),
    )


def change_scenes(num: int, seed: int = 1) -> Iterator[ChangedImages]:
    """Draws real scenes of three independent classes, and changes each of their factors.

    What `change_factors` is for a CGN: here silhouettes, textures and grounds are the true ones.
    Place, size and light of a scene stay as they are where a class changes; the details, such as
    blades of grass and the noise of the sensor, are drawn anew each time.

    Args:
        num: of scenes.
        seed: of classes, codes and details.

    Yields:
        At most 64 scenes at a time, `num` in all.

    Examples:
        >>> from benchmarks.scenes.evaluation import change_scenes
        >>> [part] = change_scenes(2)
        >>> sorted(part.changed), part.images.shape
        (['background', 'shape', 'texture'], torch.Size([2, 3, 64, 64]))
    """
    generator = step_generator(Purpose.MEASURE, seed, num)
    classes = torch.randint(NUM_CLASSES, (3, num), generator=generator)
    step = torch.randint(1, NUM_CLASSES, (3, num), generator=generator)
    new_classes = (classes + step) % NUM_CLASSES
    codes = draw_truncated(num, SCENE_CODES, generator)
    for start in range(0, num, _CHUNK):
        at = slice(start, min(start + _CHUNK, num))
        scenes = {}
        for row, factor in enumerate(("", *FACTORS)):
            chosen = classes[:, at].clone()
            if factor:
                chosen[row - 1] = new_classes[row - 1, at]
            scenes[factor] = render_scenes(codes[at], *chosen, generator)[0]
        images = scenes.pop("")
        yield ChangedImages(images, scenes, classes[:, at], new_classes[:, at])


class _TwoClasses(nn.Module):
    """The scores (B, 2, H, W) of "ground" and "object", of a masker's logits."""

    def __init__(self, masker: UNetMasker) -> None:
        super().__init__()
        self.masker = masker

    def forward(self, images: Tensor) -> Tensor:
        """Returns the scores of images (B, 3, H, W)."""
        logits = self.masker.logits(images)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


def _batches(
    images: Tensor, labels: Tensor, config: JudgeConfig
) -> Iterable[tuple[Tensor, Tensor]]:
    """Yields random batches without end."""
    generator = step_generator(Purpose.ORDER, config.seed)
    while True:
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        yield images[chosen], labels[chosen]


def _classes(num: int) -> Tensor:
    return torch.arange(num) % NUM_CLASSES


def _draw(run: Callable[[Tensor, Tensor], Tensor], noise: Tensor, y: Tensor) -> Tensor:
    parts = zip(torch.split(noise, _CHUNK), torch.split(y, _CHUNK), strict=True)
    return torch.cat([run(*part) for part in parts])


def _spread(images: Tensor, y: Tensor) -> float:
    """Standard deviation of pixels about the mean image of their class."""
    away = [images[y == k] - images[y == k].mean(dim=0) for k in range(NUM_CLASSES)]
    return float(torch.cat(away).square().mean().sqrt())
