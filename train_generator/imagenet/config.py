"""Settings for training the ImageNet CGN; the defaults are those of the released code.

`presets/` holds the settings of Sauer and Geiger, ICLR 2021, and of their released code as YAML
files, for `--preset` and `--config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cgn_augment.checks import (
    require_choice,
    require_choices,
    require_counts,
    require_part,
    require_positive,
    require_shares,
    require_weights,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.truncation import TruncationLookup
from train_generator.losses.patches import PatchConfig
from train_generator.losses.perceptual import FeatureKind
from train_generator.training.precision import Precision

PRESETS = Path(__file__).parent / "presets"

PresetName = Literal["code", "paper"]

BlockWeights = tuple[float, float, float, float]


@dataclass(frozen=True)
class LossesConfig:
    """The losses of the mechanisms. A loss with weight 0 is not computed.

    Attributes:
        reconstruction: weight of the mean absolute difference between composed and target images.
        perceptual: weights of the four blocks of the Gram loss between composed and target images;
            each counts as weight² · 5000.
        entropy: weight of the masks' binary entropy.
        size: weight of the loss on masks that cover less than `size_low` or more than `size_high`
            of the image.
        size_low: share of the image.
        size_high: share of the image.
        texture: weights of the four blocks of the Gram loss between foregrounds and sheets of
            patches; each counts as weight² · 5000.
        background: weight of the mean saliency of the backgrounds.
        features: features of the Gram losses: "vgg16" as in the paper, "random" for a VGG-16 with
            random weights, "trained" for a small network that learns the classes of target images.
        features_file: path of torchvision's VGG-16 weights; downloaded if not given.
        num_feature_images: target images that "trained" features learn from.
    """

    reconstruction: float = 100.0
    perceptual: BlockWeights = (4.0, 4.0, 4.0, 4.0)
    entropy: float = 300.0
    size: float = 500.0
    size_low: float = 0.1
    size_high: float = 0.9
    texture: BlockWeights = (0.0, 5.0, 5.0, 0.0)
    background: float = 2000.0
    features: FeatureKind = "vgg16"
    features_file: str | None = None
    num_feature_images: int = 2000

    def __post_init__(self) -> None:
        require_weights(self, "reconstruction", "entropy", "size", "background")
        require_counts(self, "num_feature_images", least=2)
        require_choices(self, features=FeatureKind)
        for name in ("perceptual", "texture"):
            weights = getattr(self, name)
            if len(weights) != 4 or not all(math.isfinite(w) and w >= 0 for w in weights):
                raise ArgumentError(f"{name} must be four of 0 or more, got {weights}")
        if not 0 <= self.size_low <= self.size_high <= 1:
            raise ArgumentError(
                "size_low and size_high must be 0 <= size_low <= size_high <= 1, got "
                f"{self.size_low} and {self.size_high}"
            )
        if self.features_file is not None and self.features != "vgg16":
            raise ArgumentError(
                f"features_file is of VGG-16's weights, and features is {self.features!r}: leave "
                "one of them out"
            )
        if not (self.needs_target or self.entropy or self.size or self.background):
            raise ArgumentError("all losses have the weight 0: give one of them more")

    @property
    def needs_features(self) -> bool:
        """Whether a Gram loss is computed."""
        return any(self.perceptual) or any(self.texture)

    @property
    def compares(self) -> bool:
        """Whether composed images are compared with target images."""
        return bool(self.reconstruction) or any(self.perceptual)

    @property
    def needs_target(self) -> bool:
        """Whether images of the fourth BigGAN are needed."""
        return self.compares or any(self.texture)


@dataclass(frozen=True)
class MetricsConfig:
    """What to measure at intervals, on composed images of one class each, as in training.

    Attributes:
        every: steps between two measurements; the first is before the first step. 0 measures
            nothing.
        num_images: composed images per measurement.
        batch_size: images drawn at once.
        inception: Inception-v3 for the Inception score: "download", or the path of torch-fidelity's
            weights; None measures only the mean mask.
        real: real images for the FID: a folder, with or without subfolders, a table, or a
            benchmark's layout, such as waterbirds:PATH; if it has splits, the training split. Needs
            `inception`.
        splits: parts of the images whose Inception scores are averaged.
    """

    every: int = 50
    num_images: int = 2000
    batch_size: int = 10
    inception: str | None = None
    real: str | None = None
    splits: int = 10

    def __post_init__(self) -> None:
        require_counts(self, "every", least=0)
        require_counts(self, "num_images", "batch_size", "splits")
        if self.real is not None and self.inception is None:
            raise ArgumentError(
                "the FID needs Inception-v3: give metrics.inception, 'download' or a path, or "
                "leave metrics.real out"
            )
        if self.inception is not None and self.num_images < 2 * self.splits:
            raise ArgumentError(
                f"num_images must be twice as many as splits ({self.splits}) or more, got "
                f"{self.num_images}"
            )


@dataclass(frozen=True)
class ImageNetConfig:
    """All settings of a training.

    Attributes:
        biggan: path of BigGAN-deep's weights: the target images, and the start of the mechanisms.
        u2net: path of U2-Net's weights; needed unless `start` is given, which has them.
        start: path of an ImageNet CGN to train further, instead of the published weights.
        seed: seed of every draw.
        num_steps: steps of the optimizer.
        batch_size: images drawn at once, each with its own noise and class.
        accumulation: batches per step, over all processes; gradients are averaged. The processes
            share the batches, so their number must divide it.
        truncation: truncation of noise and batch statistics, above 0 and at most 1.
        truncation_lookup: "exact", or "published" for the rows that the published code reads; see
            `find_rows`.
        shape_rate: learning rate of Adam for the shape mechanism.
        texture_rate: learning rate of Adam for the texture mechanism.
        background_rate: learning rate of Adam for the background mechanism.
        beta1: first beta of all three.
        beta2: second beta of all three.
        epsilon: Adam's epsilon, added to the root of the second moment. The released code sums
            gradients where we average them, which equals an epsilon smaller by the factor
            `accumulation`.
        norm_iterations: power iterations of the spectral norms after each step.
        average: decay of a running average of the weights, which is then what is kept; 0 for none.
        device: "auto" takes a GPU if there is one; or "cpu", "cuda", "cuda:1".
        precision: "no" is float32; "bf16" runs BigGAN and U2-Net in bfloat16.
        losses: the losses of the mechanisms.
        patches: how the sheets of the texture loss are made.
        metrics: what to measure at intervals.

    Examples:
        >>> from train_generator.imagenet.config import ImageNetConfig, preset_settings
        >>> config = ImageNetConfig("biggan.bin", "u2net.pth", **preset_settings("paper"))
        >>> config.batch_size * config.accumulation, config.texture_rate
        (2048, 1e-05)
    """

    biggan: str
    u2net: str | None = None
    start: str | None = None
    seed: int = 0
    num_steps: int = 300
    batch_size: int = 1
    accumulation: int = 4000
    truncation: float = 1.0
    truncation_lookup: TruncationLookup = "exact"
    shape_rate: float = 8e-6
    texture_rate: float = 3e-5
    background_rate: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 2.5e-12
    norm_iterations: int = 10
    average: float = 0.0
    device: str = "auto"
    precision: Precision = "no"
    losses: LossesConfig = field(default_factory=LossesConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        require_counts(self, "seed", "norm_iterations", least=0)
        require_counts(self, "num_steps", "batch_size", "accumulation")
        require_positive(self, "shape_rate", "texture_rate", "background_rate", "epsilon")
        require_shares(self, "beta1", "beta2", "average")
        require_choices(self, precision=Precision, truncation_lookup=TruncationLookup)
        require_part("truncation", self.truncation)
        if (self.start is None) == (self.u2net is None):
            raise ArgumentError(
                "give u2net, the file of U2-Net's weights, to start from BigGAN; or start, the "
                "file of a CGN (which has a U2-Net), to train it further"
            )


def preset_path(name: str) -> Path:
    """Returns the YAML file of a preset; raises `ArgumentError` if there is no such preset.

    Args:
        name: name of the preset.
    """
    require_choice("preset", name, tuple(sorted(path.stem for path in PRESETS.glob("*.yaml"))))
    return PRESETS / f"{name}.yaml"


def preset_settings(name: PresetName) -> dict[str, Any]:
    """Returns the settings of a preset, as arguments of `ImageNetConfig`.

    Args:
        name: "code" for the released code, "paper" for the paper.

    Raises:
        ArgumentError: there is no such preset.
    """
    settings: dict[str, Any] = yaml.safe_load(preset_path(name).read_text())
    losses: dict[str, Any] = settings["losses"]
    for gram in ("perceptual", "texture"):
        losses[gram] = tuple(losses[gram])
    parts = {"losses": LossesConfig(**losses), "patches": PatchConfig(**settings["patches"])}
    return settings | parts
